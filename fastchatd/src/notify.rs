//! Desktop notifications: one per chat, replaced as messages come, with Reply and Mark-read.
//!
//! [`run`] is the one task that owns them. The notification service is spoken to on one connection that lives as long
//! as the daemon; where there is none, `notify-rust` is tried for a plain notification.
//!
//! **Invariant**: what somebody typed into a notification is sent, or shown again with the reason why it was not.

mod basic;
mod board;
mod content;
mod notifier;
mod reply_command;
mod service;

use std::time::Duration;

use fastchat_ipc::{ApiError, ErrorCode};
use futures_util::StreamExt;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::{
    notifier::Notifier,
    service::{Service, Signal},
};
use crate::{
    api::{Alert, Api},
    bus::SessionBus,
};

/// Pauses between tries to reach the bus: doubled from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How to notify.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifySettings {
    /// Whether to show anything at all.
    pub enabled: bool,
    /// The program that the Reply button starts where the service has no inline reply, with its arguments: `%c` is the
    /// chat's id, `%a` the account, `%t` the activation token, `%%` a percent sign. `None`: no Reply button there.
    pub reply_command: Option<Vec<String>>,
    /// Where the notification service is looked for.
    pub bus: SessionBus,
}

/// Shows what comes from `alerts` until `stop`.
pub async fn run(mut alerts: mpsc::Receiver<Alert>, api: Api, settings: NotifySettings, stop: CancellationToken) {
    if !settings.enabled {
        return refuse(alerts, api, stop).await;
    }
    let bus = settings.bus.clone();
    let mut notifier = Notifier::new(api, settings);
    let mut tries = Tries::new();
    loop {
        let due = notifier.next_due();
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep_until(tries.next), if notifier.service.is_none() => match Service::connect(&bus).await {
                Ok(service) => {
                    tries = Tries::new();
                    notifier.use_service(service).await;
                }
                Err(error) => tries.failed(&error),
            },
            signal = next_signal(&mut notifier.service) => match signal {
                Some(signal) => notifier.hear(signal).await,
                None => {
                    info!("the session bus is gone; notifications come back with it");
                    notifier.drop_service();
                    tries = Tries::new();
                }
            },
            Some(done) = notifier.calls.next() => notifier.finish(done).await,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => notifier.show_due().await,
            alert = alerts.recv() => match alert {
                Some(alert) => notifier.take(alert).await,
                None => break,
            },
        }
    }
    notifier.withdraw_all().await;
}

async fn next_signal(service: &mut Option<Service>) -> Option<Signal> {
    match service {
        Some(service) => service.next().await,
        None => std::future::pending().await,
    }
}

/// Notifications are off: takes the alerts and shows none.
async fn refuse(mut alerts: mpsc::Receiver<Alert>, api: Api, stop: CancellationToken) {
    api.tell(|found| {
        found.notify_backend = "none".to_owned();
        found.notify_reply = "none".to_owned();
    });
    loop {
        let alert = tokio::select! { () = stop.cancelled() => return, alert = alerts.recv() => alert };
        match alert {
            Some(Alert::Test(answer)) => {
                let error = ApiError::new(ErrorCode::Refused, "notifications are turned off in the configuration");
                let _ = answer.send(Err(error.hint("set `enabled = true` under [notify] in config.toml")));
            }
            Some(Alert::Show(_) | Alert::Withdraw { .. } | Alert::NewDevice { .. }) => {}
            None => return,
        }
    }
}

/// When to try the bus again.
struct Tries {
    next: Instant,
    pause: Duration,
}

impl Tries {
    fn new() -> Self {
        Self { next: Instant::now(), pause: FIRST_PAUSE }
    }

    fn failed(&mut self, error: &zbus::Error) {
        if self.pause == FIRST_PAUSE {
            info!(%error, "no session bus for notifications; trying again now and then");
        }
        self.next = Instant::now() + self.pause;
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
    }
}
