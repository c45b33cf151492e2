//! What happens when a notice comes, a button is pressed, the service goes or comes back.
//!
//! **Invariant**: calls to the engine run beside, at most [`CALLS`] at once; the notifier itself only waits for the
//! notification service, with a deadline.

use std::collections::{BTreeMap, VecDeque};

use fastchat_ipc::{ApiError, ErrorCode, MarkRead, MessageState, Send as SendParams, method};
use futures_util::{FutureExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    NotifySettings, basic,
    board::{Board, Due, Key},
    content::{Content, plain},
    reply_command::{self, StartError},
    service::{Look, Service, Signal},
};
use crate::{
    api::{Alert, Api},
    bus::SessionBus,
};

/// Replies and marks under way at once.
const CALLS: usize = 32;
/// Replies that were not sent and wait for `Try again`.
const UNSENT: usize = 32;
/// Warnings that wait for a service to show them.
const WARNINGS: usize = 16;
/// How long withdrawing everything at the end may take.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);
/// Urgency of the specification: normal, critical.
const NORMAL: u8 = 1;
const CRITICAL: u8 = 2;

/// A text typed into a notification.
#[derive(Clone)]
pub(super) struct Reply {
    key: Key,
    to: String,
    text: String,
    /// The same for every try: it is sent once.
    idempotency_key: String,
}

/// A call that came to its end.
pub(super) enum Done {
    Replied(Reply, Result<(), Unsent>),
    MarkedRead(Result<(), ApiError>),
    Started(Result<(), StartError>),
}

/// Why a reply did not go out.
pub(super) struct Unsent {
    reason: String,
    /// The message is in the outbox; there is no need to type it again.
    kept: bool,
}

/// All that `notify::run` owns.
pub(super) struct Notifier {
    api: Api,
    settings: NotifySettings,
    pub(super) service: Option<Service>,
    board: Board,
    pub(super) calls: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Replies that did not go out, by the id of the notification that shows them.
    unsent: BTreeMap<u32, (Reply, Unsent)>,
    /// Such replies that no service could show yet.
    untold: VecDeque<(Reply, Unsent)>,
    /// Warnings that no service could show yet.
    warnings: VecDeque<Content>,
    /// The activation token that came last, and for which notification.
    token: Option<(u32, String)>,
}

impl Notifier {
    pub(super) fn new(api: Api, settings: NotifySettings) -> Self {
        let (board, calls) = (Board::default(), FuturesUnordered::new());
        let (unsent, untold, warnings) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        let notifier = Self { api, settings, service: None, board, calls, unsent, untold, warnings, token: None };
        notifier.tell("none");
        notifier
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.board.next_due()
    }

    /// A connection is there; what was waiting is shown.
    pub(super) async fn use_service(&mut self, service: Service) {
        self.service = Some(service);
        self.tell_service();
        self.board.show_again(Instant::now());
        self.show_untold().await;
    }

    /// The connection is gone.
    pub(super) fn drop_service(&mut self) {
        self.service = None;
        self.forget_shown();
        self.tell("none");
    }

    fn forget_shown(&mut self) {
        self.board.service_gone();
        for (_, unsent) in std::mem::take(&mut self.unsent) {
            self.keep_untold(unsent);
        }
        self.token = None;
    }

    fn keep_untold(&mut self, unsent: (Reply, Unsent)) {
        self.untold.push_back(unsent);
        if self.untold.len() > UNSENT {
            self.untold.pop_front();
        }
    }

    async fn show_untold(&mut self) {
        for warning in std::mem::take(&mut self.warnings) {
            self.warn(warning).await;
        }
        for (reply, unsent) in std::mem::take(&mut self.untold) {
            self.show_unsent(reply, unsent).await;
        }
    }

    /// Says which backend there is, with what the service can do.
    fn tell(&self, backend: &str) {
        let features = self.service.as_ref().and_then(|service| service.features.clone()).unwrap_or_default();
        let reply = match (features.can("actions"), features.can("inline-reply"), &self.settings.reply_command) {
            (true, true, _) => "inline",
            (true, false, Some(_)) => "command",
            _ => "none",
        };
        self.api.tell(|found| {
            found.notify_backend = backend.to_owned();
            found.notify_server = features.server;
            found.notify_capabilities = features.capabilities;
            found.notify_reply = reply.to_owned();
        });
    }

    fn tell_service(&self) {
        let known = self.service.as_ref().is_some_and(|service| service.features.is_some());
        self.tell(if known { "service" } else { "none" });
    }

    pub(super) async fn take(&mut self, alert: Alert) {
        match alert {
            Alert::Show(notice) => {
                if let Some(evicted) = self.board.put(notice, Instant::now()) {
                    self.close(evicted).await;
                }
            }
            Alert::Withdraw { account, chat } => {
                if let Some(id) = self.board.take(&Key { account, chat }) {
                    self.close(id).await;
                }
            }
            Alert::NewDevice { account, device_name } => {
                self.warn(Content::of_new_device(&account, &device_name)).await;
            }
            Alert::Test(answer) => self.test(answer).await,
        }
    }

    /// Shows a warning until it is dismissed; keeps it where no service can show it yet.
    async fn warn(&mut self, warning: Content) {
        let mut look = Look { expires: 0, ..Look::default() };
        look.hints.insert("category", "im".into());
        look.hints.insert("urgency", CRITICAL.into());
        if let Err(error) = self.show(0, &warning, look).await {
            info!(error, "a warning waits for a notification service");
            self.warnings.push_back(warning);
            if self.warnings.len() > WARNINGS {
                self.warnings.pop_front();
            }
        }
    }

    async fn close(&mut self, id: u32) {
        if let Some(service) = &self.service {
            service.close(id).await;
        }
    }

    /// Shows a notification by whatever there is; its id.
    async fn show(&mut self, replaces: u32, content: &Content, look: Look<'_>) -> Result<u32, String> {
        let mut reason = "there is no session bus".to_owned();
        if let Some(service) = &mut self.service {
            let asked_before = service.features.is_some();
            match service.show(replaces, content, look).await {
                Ok(id) => {
                    if !asked_before {
                        self.tell_service();
                    }
                    return Ok(id);
                }
                Err(error) if asked_before => return Err(error.to_string()),
                Err(error) => reason = error.to_string(),
            }
        }
        // A bus that was chosen is the only one to use.
        if self.settings.bus != SessionBus::FromEnvironment {
            return Err(reason);
        }
        let shown = basic::show(replaces, content).await.map_err(|error| format!("{reason}; {error}"));
        self.tell(if shown.is_ok() { "basic" } else { "none" });
        shown
    }

    /// Shows what is due: one notification, so that a slow service does not hold up everything else.
    pub(super) async fn show_due(&mut self) {
        let Some(due) = self.board.due(Instant::now()) else { return };
        let to = self.board.addressee(&due.key);
        let reply_label = to.map_or_else(|| "Reply".to_owned(), |to| format!("Reply to {}", plain(&to)));
        let look = self.look(&due, &reply_label);
        match self.show(due.replaces, &due.content, look).await {
            Ok(id) => self.board.shown(due, id, Instant::now()),
            Err(error) => {
                debug!(error, "a notification could not be shown");
                self.board.refused(&due, Instant::now());
            }
        }
    }

    fn look<'a>(&self, due: &Due, reply_label: &'a str) -> Look<'a> {
        let inline = self
            .service
            .as_ref()
            .and_then(|service| service.features.as_ref())
            .is_some_and(|features| features.can("inline-reply"));
        let mut look = Look { expires: -1, ..Look::default() };
        look.hints.insert("category", "im.received".into());
        look.hints.insert("urgency", NORMAL.into());
        look.hints.insert("sound-name", "message-new-instant".into());
        if !due.request {
            if self.settings.reply_command.is_some() {
                look.actions.extend(["default", "Open"]);
            }
            if inline {
                look.actions.extend(["inline-reply", "Reply"]);
                look.hints.insert("x-kde-reply-placeholder-text", reply_label.into());
                look.hints.insert("x-kde-reply-submit-button-text", "Send".into());
            } else if self.settings.reply_command.is_some() {
                look.actions.extend(["reply", "Reply"]);
            }
        }
        look.actions.extend(["mark-read", "Mark as read"]);
        look
    }

    async fn test(&mut self, answer: oneshot::Sender<Result<(), ApiError>>) {
        let content =
            Content { summary: "FastChat".to_owned(), body: "This is how messages are announced here.".to_owned() };
        let shown =
            self.show(0, &content, Look { expires: -1, ..Look::default() }).await.map(|_| ()).map_err(|error| {
                ApiError::new(ErrorCode::Refused, format!("no notification could be shown: {error}"))
                    .hint("start a notification service (GNOME and KDE have one; else dunst, mako, …), then try again")
            });
        // Whoever asked may have gone.
        let _ = answer.send(shown);
    }

    pub(super) async fn hear(&mut self, signal: Signal) {
        match signal {
            Signal::Token { id, token } => self.token = Some((id, token)),
            Signal::Replied { id, text } => {
                if let Some(key) = self.board.key_of(id) {
                    let to = self.board.addressee(&key).unwrap_or_else(|| "the chat".to_owned());
                    let idempotency_key = format!("reply-{}", Uuid::now_v7());
                    self.reply(Reply { key, to, text, idempotency_key }).await;
                }
            }
            Signal::Action { id, key } => self.act(id, &key).await,
            Signal::Closed { id, expired } => {
                self.unsent.remove(&id);
                self.board.closed(id, expired);
            }
            Signal::Owner(owner) => self.change_owner(owner).await,
            Signal::Other => {}
        }
    }

    async fn change_owner(&mut self, owner: Option<String>) {
        let Some(service) = &mut self.service else { return };
        if service.owner == owner {
            return;
        }
        (service.owner, service.features) = (owner, None);
        if service.owner.is_none() {
            info!("the notification service is gone");
        } else if let Err(error) = service.ready().await {
            warn!(%error, "the new notification service does not say what it can do");
        }
        let serves = service.owner.is_some();
        self.forget_shown();
        if serves {
            self.board.show_again(Instant::now());
            self.show_untold().await;
        }
        self.tell_service();
    }

    async fn act(&mut self, id: u32, action: &str) {
        if action == "retry" {
            if let Some((reply, _)) = self.unsent.remove(&id) {
                self.reply(reply).await;
                self.close(id).await;
            }
            return;
        }
        let Some(key) = self.board.key_of(id) else { return };
        match action {
            "mark-read" => self.mark_read(key),
            "reply" | "default" => self.start_reply_command(key, id),
            // Where the service tells of the button beside the text that was typed.
            _ => {}
        }
    }

    async fn reply(&mut self, reply: Reply) {
        if reply.text.trim().is_empty() {
            return;
        }
        if self.calls.len() >= CALLS {
            let reason = "too many replies are under way".to_owned();
            return self.show_unsent(reply, Unsent { reason, kept: false }).await;
        }
        let api = self.api.clone();
        let call = async move {
            let sent = send(&api, &reply).await;
            if sent.is_ok() {
                // Who answers has read. That it cannot be noted is no reason to bother anybody.
                let read = MarkRead { account: reply.key.account.clone(), chat: reply.key.chat.clone(), up_to: 0 };
                let _ = api.call::<method::MarkChatRead>(&read).await;
            }
            Done::Replied(reply, sent)
        };
        self.calls.push(call.boxed());
    }

    fn mark_read(&mut self, key: Key) {
        if self.calls.len() >= CALLS {
            return;
        }
        let api = self.api.clone();
        let read = MarkRead { account: key.account, chat: key.chat, up_to: 0 };
        let call = async move { Done::MarkedRead(api.call::<method::MarkChatRead>(&read).await.map(|_| ())) };
        self.calls.push(call.boxed());
    }

    fn start_reply_command(&mut self, key: Key, id: u32) {
        let Some(command) = self.settings.reply_command.as_ref().filter(|_| self.calls.len() < CALLS) else { return };
        let token = self.token.take().filter(|(of, _)| *of == id).map(|(_, token)| token).unwrap_or_default();
        let words = reply_command::fill(command, &key, &token);
        let bus = self.service.as_ref().map(|service| service.connection.clone());
        self.calls.push(reply_command::start(bus, words, token).map(Done::Started).boxed());
    }

    pub(super) async fn finish(&mut self, done: Done) {
        match done {
            Done::Replied(reply, Err(unsent)) => self.show_unsent(reply, unsent).await,
            Done::Started(Err(error)) => {
                let body = format!("{error}. See reply_command under [notify] in config.toml.");
                self.complain(Content { summary: "The reply program did not start".to_owned(), body }, vec![]).await;
            }
            Done::MarkedRead(Err(error)) => debug!(%error, "the chat could not be marked as read"),
            Done::Replied(_, Ok(())) | Done::Started(Ok(())) | Done::MarkedRead(Ok(())) => {}
        }
    }

    /// Gives back what was typed, with the reason.
    async fn show_unsent(&mut self, reply: Reply, unsent: Unsent) {
        let summary = format!("Not sent to {}", plain(&reply.to));
        if unsent.kept {
            let body = format!("{}\nIt is kept in the outbox: fastchatctl outbox list", unsent.reason);
            self.complain(Content { summary, body }, vec![]).await;
            return;
        }
        let body = format!("{}\n{}", unsent.reason, reply.text);
        match self.complain(Content { summary, body }, vec!["retry", "Try again"]).await {
            Some(id) => drop(self.unsent.insert(id, (reply, unsent))),
            None => self.keep_untold((reply, unsent)),
        }
        if self.unsent.len() > UNSENT {
            self.unsent.pop_first();
        }
    }

    /// Shows an error that stays until it is dismissed.
    async fn complain(&mut self, content: Content, actions: Vec<&'static str>) -> Option<u32> {
        let mut look = Look { actions, expires: 0, ..Look::default() };
        look.hints.insert("category", "im.error".into());
        look.hints.insert("urgency", CRITICAL.into());
        let shown = self.show(0, &content, look).await;
        shown.inspect_err(|error| warn!(error, "an error could not be shown in a notification")).ok()
    }

    /// Withdraws all notifications: nobody would hear their buttons any more.
    pub(super) async fn withdraw_all(&mut self) {
        let ids = self.board.take_all();
        let Some(service) = &self.service else { return };
        let withdrawn = timeout(FAREWELL, async {
            for id in ids {
                service.close(id).await;
            }
        });
        if withdrawn.await.is_err() {
            debug!("the notification service did not withdraw everything in time");
        }
    }
}

async fn send(api: &Api, reply: &Reply) -> Result<(), Unsent> {
    let params = SendParams {
        account: reply.key.account.clone(),
        to: vec![reply.key.chat.clone()],
        text: reply.text.clone(),
        idempotency_key: reply.idempotency_key.clone(),
        ..SendParams::default()
    };
    let lost = |error: ApiError| Unsent { reason: error.to_string(), kept: false };
    let result = api.call::<method::SendMessage>(&params).await.map_err(lost)?;
    for message in result.messages {
        let reason = message.error.map_or_else(|| "It cannot go out now.".to_owned(), |error| error.to_string());
        if matches!(message.state, MessageState::Held | MessageState::Failed) {
            return Err(Unsent { reason, kept: true });
        }
    }
    Ok(())
}
