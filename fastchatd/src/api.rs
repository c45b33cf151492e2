//! The daemon's API from the inside: the handle that every front (socket, D-Bus, notifications) calls.
//!
//! A call travels to the engine through a bounded channel and comes back through its own; events come as a hint and are
//! read from the durable log whenever a hint was missed.
//!
//! **Invariant**: a [`Feed`] gives every durable event after its cursor exactly once, in order, however slow its reader is.

use std::time::Duration;

use fastchat_ipc::{ApiError, Empty, ErrorCode, Event, Events, Method, ReadEvents, Request, method};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;

/// How long a call may take at most; methods that wait have shorter deadlines of their own.
const CALL_DEADLINE: Duration = Duration::from_secs(330);
/// Calls that wait for the engine at most.
const CALLS: usize = 64;
/// Events that a slow reader may be behind before it reads the log again.
const HINTS: usize = 256;

/// A call on its way to the engine.
pub struct Call {
    /// What is asked for.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Value, ApiError>>,
}

/// Something for the person in front of the screen.
#[derive(Debug)]
pub enum Alert {
    /// Show, or replace, the notification of a chat.
    Show(Notice),
    /// Withdraw the notification of a chat: it was read.
    Withdraw {
        /// The account.
        account: String,
        /// The chat's id.
        chat: String,
    },
    /// Say that a device came to an account, and how to get rid of it. Shown whatever the preview setting is.
    NewDevice {
        /// The account.
        account: String,
        /// What the device is called.
        device_name: String,
    },
    /// Show a test notification and say how it went.
    Test(oneshot::Sender<Result<(), ApiError>>),
}

/// The content of a chat's notification. What the settings hide is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The account.
    pub account: String,
    /// The chat's id.
    pub chat: String,
    /// Who wrote; `None` when the preview hides it.
    pub sender: Option<String>,
    /// The name of the group that it was written to; `None` for a direct chat, and when the preview hides it.
    pub group: Option<String>,
    /// What was written; `None` when the preview hides it or the chat is a request.
    pub text: Option<String>,
    /// Unread messages in this chat.
    pub unread: u64,
    /// Whether it is a request of somebody who is not a contact: no reply, no text.
    pub request: bool,
}

/// What the fronts found out about the world around the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether the session bus is connected and our name is ours.
    pub bus: bool,
    /// `service`, `basic` or `none`.
    pub notify_backend: String,
    /// The notification service's name and version.
    pub notify_server: String,
    /// What it advertises.
    pub notify_capabilities: Vec<String>,
    /// `inline`, `command` or `none`.
    pub notify_reply: String,
}

/// The engine's ends of the channels that an [`Api`] holds.
pub struct EngineEnds {
    /// Calls to answer.
    pub calls: mpsc::Receiver<Call>,
    /// Where events are announced, after they are durable.
    pub events: broadcast::Sender<Event>,
    /// What is around.
    pub surroundings: watch::Receiver<Surroundings>,
}

/// A handle on the engine; cheap to clone.
#[derive(Clone)]
pub struct Api {
    calls: mpsc::Sender<Call>,
    events: broadcast::Sender<Event>,
    surroundings: watch::Sender<Surroundings>,
}

impl Api {
    /// The handle and the ends that the engine serves.
    #[must_use]
    pub fn new() -> (Self, EngineEnds) {
        let (calls, received) = mpsc::channel(CALLS);
        let (events, _) = broadcast::channel(HINTS);
        let (surroundings, watched) = watch::channel(Surroundings::default());
        let ends = EngineEnds { calls: received, events: events.clone(), surroundings: watched };
        (Self { calls, events, surroundings }, ends)
    }

    /// Calls any method.
    ///
    /// # Errors
    /// The engine's answer, or that it did not answer in time.
    pub async fn request(&self, request: Request) -> Result<Value, ApiError> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            self.calls.send(Call { request, answer }).await.map_err(|_| stopping())?;
            answered.await.map_err(|_| stopping())?
        };
        timeout(CALL_DEADLINE, exchange)
            .await
            .map_err(|_| ApiError::new(ErrorCode::TimedOut, "the daemon did not come to an answer in time"))?
    }

    /// Calls the method `M`.
    ///
    /// # Errors
    /// As [`Api::request`].
    pub async fn call<M: Method>(&self, params: &M::Params) -> Result<M::Result, ApiError> {
        let defect = |error: serde_json::Error| ApiError::new(ErrorCode::Internal, format!("{}: {error}", M::NAME));
        let request = Request::parse(M::NAME, serde_json::to_value(params).map_err(defect)?)?;
        serde_json::from_value(self.request(request).await?).map_err(defect)
    }

    /// Events from a cursor on; empty for from now on, `0` for the oldest kept.
    ///
    /// # Errors
    /// The store is locked, or the cursor is not one.
    pub async fn feed(&self, since: &str) -> Result<Feed, ApiError> {
        let hints = self.events.subscribe();
        let cursor = if since.is_empty() {
            self.call::<method::DaemonStatus>(&Empty {}).await?.cursor
        } else {
            cursor_number(since)?;
            since.to_owned()
        };
        Ok(Feed { api: self.clone(), hints, cursor, ready: Vec::new().into_iter(), behind: true })
    }

    /// Tells what a front found out.
    pub fn tell(&self, change: impl FnOnce(&mut Surroundings)) {
        self.surroundings.send_modify(change);
    }
}

/// The number of a cursor.
///
/// # Errors
/// The text is not a cursor.
pub fn cursor_number(cursor: &str) -> Result<u64, ApiError> {
    cursor.parse().map_err(|_| {
        ApiError::new(ErrorCode::InvalidParams, format!("`{}` is not a cursor", cursor.escape_default()))
            .hint("use the `cursor` of an event, or 0 for the oldest one kept")
    })
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the daemon is stopping")
}

/// A reader of events.
pub struct Feed {
    api: Api,
    hints: broadcast::Receiver<Event>,
    cursor: String,
    ready: std::vec::IntoIter<Event>,
    behind: bool,
}

impl Feed {
    /// The cursor of the last durable event given, or where the feed began.
    #[must_use]
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// The daemon is stopping, or the log cannot be read.
    pub async fn next(&mut self) -> Result<Event, ApiError> {
        loop {
            if let Some(event) = self.ready.next() {
                self.cursor.clone_from(&event.cursor);
                return Ok(event);
            }
            if self.behind {
                let params = ReadEvents { since: self.cursor.clone(), ..ReadEvents::default() };
                let Events { events, .. } = self.api.call::<method::ReadEventLog>(&params).await?;
                self.behind = !events.is_empty();
                self.ready = events.into_iter();
                continue;
            }
            match self.hints.recv().await {
                Ok(event) if !event.durable => return Ok(event),
                Ok(event) => {
                    let (new, known) = (cursor_number(&event.cursor)?, cursor_number(&self.cursor)?);
                    if new == known.saturating_add(1) {
                        self.cursor.clone_from(&event.cursor);
                        return Ok(event);
                    }
                    self.behind = new > known;
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Err(broadcast::error::RecvError::Closed) => return Err(stopping()),
            }
        }
    }
}
