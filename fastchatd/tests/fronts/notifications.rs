//! Notifications, with a made-up notification service on a private bus.
//!
//! **Invariant**: what a test waits for is a call of the service or the engine, never time.

use std::collections::HashMap;

use fastchat_ipc::{ApiError, ErrorCode, Request};
use fastchatd::{
    api::{Alert, Notice},
    notify::{self, NotifySettings},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use zbus::{Connection, interface, object_server::SignalEmitter, zvariant::OwnedValue};

use crate::{
    engine::{ACCOUNT, Engine, SOON},
    private_bus::PrivateBus,
};

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
const KDE: &[&str] = &["actions", "body", "body-markup", "inline-reply"];

/// What the service was asked to do.
#[derive(Debug)]
enum Asked {
    Show(Shown),
    Close(u32),
}

#[derive(Debug)]
struct Shown {
    id: u32,
    replaces: u32,
    summary: String,
    body: String,
    actions: Vec<String>,
    hints: HashMap<String, OwnedValue>,
}

struct FakeService {
    capabilities: &'static [&'static str],
    asked: mpsc::UnboundedSender<Asked>,
    last: u32,
}

#[interface(name = "org.freedesktop.Notifications")]
impl FakeService {
    fn get_capabilities(&self) -> Vec<&str> {
        self.capabilities.to_vec()
    }

    fn get_server_information(&self) -> (&str, &str, &str, &str) {
        ("made-up", "tests", "3", "1.2")
    }

    #[expect(clippy::too_many_arguments, reason = "the specification has them")]
    fn notify(
        &mut self,
        _name: &str,
        replaces: u32,
        _icon: &str,
        summary: String,
        body: String,
        actions: Vec<String>,
        hints: HashMap<String, OwnedValue>,
        _expires: i32,
    ) -> u32 {
        let id = if replaces == 0 { self.last + 1 } else { replaces };
        self.last = self.last.max(id);
        let _ = self.asked.send(Asked::Show(Shown { id, replaces, summary, body, actions, hints }));
        id
    }

    fn close_notification(&self, id: u32) {
        let _ = self.asked.send(Asked::Close(id));
    }

    #[zbus(signal)]
    async fn notification_replied(emitter: &SignalEmitter<'_>, id: u32, text: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn action_invoked(emitter: &SignalEmitter<'_>, id: u32, key: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn activation_token(emitter: &SignalEmitter<'_>, id: u32, token: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn notification_closed(emitter: &SignalEmitter<'_>, id: u32, reason: u32) -> zbus::Result<()>;
}

/// A running service.
struct Service {
    connection: Connection,
    asked: mpsc::UnboundedReceiver<Asked>,
}

impl Service {
    async fn start(bus: &PrivateBus, capabilities: &'static [&'static str]) -> Self {
        let (tell, asked) = mpsc::unbounded_channel();
        let connection = bus.connect().await;
        let service = FakeService { capabilities, asked: tell, last: 0 };
        connection.object_server().at(PATH, service).await.unwrap();
        connection.request_name(NAME).await.unwrap();
        Self { connection, asked }
    }

    async fn next(&mut self) -> Asked {
        timeout(SOON, self.asked.recv()).await.expect("the service is called in time").unwrap()
    }

    async fn shown(&mut self) -> Shown {
        match self.next().await {
            Asked::Show(shown) => shown,
            Asked::Close(id) => panic!("{id} was closed"),
        }
    }

    async fn closed(&mut self) -> u32 {
        match self.next().await {
            Asked::Close(id) => id,
            Asked::Show(shown) => panic!("{shown:?} was shown"),
        }
    }

    fn emitter(&self) -> SignalEmitter<'static> {
        SignalEmitter::new(&self.connection, PATH).unwrap()
    }
}

struct Desk {
    bus: PrivateBus,
    engine: Engine,
    service: Service,
    alerts: mpsc::Sender<Alert>,
    _stop: DropGuard,
}

async fn start(capabilities: &'static [&'static str], reply_command: Option<Vec<String>>) -> Desk {
    let bus = PrivateBus::start();
    let service = Service::start(&bus, capabilities).await;
    let (mut engine, stop) = (Engine::start(), CancellationToken::new());
    let (alerts, received) = mpsc::channel(16);
    let settings = NotifySettings { enabled: true, reply_command, bus: bus.address() };
    tokio::spawn(notify::run(received, engine.api.clone(), settings, stop.clone()));
    engine.found(|found| found.notify_backend == "service").await;
    Desk { bus, engine, service, alerts, _stop: stop.drop_guard() }
}

fn notice(chat: &str, text: &str, unread: u64) -> Notice {
    let (sender, text) = (Some("Bob".to_owned()), Some(text.to_owned()));
    Notice { account: ACCOUNT.into(), chat: chat.into(), sender, group: None, text, unread, request: false }
}

impl Desk {
    async fn show(&mut self, notice: Notice) -> Shown {
        self.alerts.send(Alert::Show(notice)).await.unwrap();
        self.service.shown().await
    }
}

#[tokio::test]
async fn a_chat_has_one_notification_that_is_replaced() {
    let mut desk = start(KDE, None).await;
    let first = desk.show(notice("c1", "one <b> & two", 1)).await;
    assert_eq!((first.replaces, first.summary.as_str()), (0, "Bob"));
    assert_eq!(first.body, "one &lt;b&gt; &amp; two");
    assert_eq!(first.actions, ["inline-reply", "Reply", "mark-read", "Mark as read"]);
    assert_eq!(String::try_from(first.hints["category"].clone()).unwrap(), "im.received");
    assert_eq!(String::try_from(first.hints["desktop-entry"].clone()).unwrap(), "org.fastchat.FastChat");
    assert_eq!(u8::try_from(first.hints["urgency"].clone()).unwrap(), 1);
    let second = desk.show(notice("c1", "three", 2)).await;
    assert_eq!((second.id, second.replaces, second.summary.as_str()), (first.id, first.id, "Bob (2)"));
    assert_eq!(second.body, "one &lt;b&gt; &amp; two\nthree");
    let other = desk.show(notice("c2", "x", 1)).await;
    assert_eq!(other.replaces, 0);
    let found = desk.engine.found(|_| true).await;
    assert_eq!((found.notify_server.as_str(), found.notify_reply.as_str()), ("made-up (tests) 3", "inline"));
    assert_eq!(found.notify_capabilities, KDE);
}

#[tokio::test]
async fn without_markup_the_body_is_as_it_was_written() {
    let mut desk = start(&["actions", "body"], None).await;
    let shown = desk.show(notice("c1", "one <b> & two", 1)).await;
    assert_eq!(shown.body, "one <b> & two");
    assert_eq!(shown.actions, ["mark-read", "Mark as read"], "nothing could answer a Reply");
    assert_eq!(desk.engine.found(|_| true).await.notify_reply, "none");
}

#[tokio::test]
async fn a_service_that_reads_links_is_taken_to_read_markup() {
    let mut desk = start(&["actions", "body", "body-hyperlinks"], None).await;
    let shown = desk.show(notice("c1", "<a href='http://evil'>x</a>", 1)).await;
    assert_eq!(shown.body, "&lt;a href='http://evil'&gt;x&lt;/a&gt;");
}

#[tokio::test]
async fn an_inline_reply_is_sent_to_its_chat() {
    let mut desk = start(KDE, None).await;
    let shown = desk.show(notice("c7", "lunch?", 1)).await;
    FakeService::notification_replied(&desk.service.emitter(), shown.id, "yes <3").await.unwrap();
    let Request::SendMessage(sent) = desk.engine.expect("send").await else { panic!("another request") };
    assert_eq!((sent.account.as_str(), sent.text.as_str()), (ACCOUNT, "yes <3"));
    assert_eq!((sent.to, sent.idempotency_key.is_empty()), (vec!["c7".to_owned()], false));
    let Request::MarkChatRead(read) = desk.engine.expect("mark_read").await else { panic!("another request") };
    assert_eq!((read.account.as_str(), read.chat.as_str()), (ACCOUNT, "c7"));
}

#[tokio::test]
async fn a_reply_that_comes_after_the_close_is_sent_too() {
    let mut desk = start(KDE, None).await;
    let shown = desk.show(notice("c7", "lunch?", 1)).await;
    FakeService::notification_closed(&desk.service.emitter(), shown.id, 2).await.unwrap();
    FakeService::notification_replied(&desk.service.emitter(), shown.id, "yes").await.unwrap();
    let Request::SendMessage(sent) = desk.engine.expect("send").await else { panic!("another request") };
    assert_eq!((sent.to, sent.text.as_str()), (vec!["c7".to_owned()], "yes"));
}

#[tokio::test]
async fn a_reply_that_fails_is_given_back_and_can_be_sent_again() {
    let mut desk = start(KDE, None).await;
    let shown = desk.show(notice("c7", "lunch?", 1)).await;
    desk.engine.answer("send", Err(ApiError::new(ErrorCode::StorageFull, "the disk is full")));
    FakeService::notification_replied(&desk.service.emitter(), shown.id, "yes, at noon").await.unwrap();
    let Request::SendMessage(first) = desk.engine.expect("send").await else { panic!("another request") };
    let error = desk.service.shown().await;
    assert_eq!(error.summary, "Not sent to Bob");
    assert_eq!(error.body, "the disk is full\nyes, at noon");
    assert_eq!((error.replaces, u8::try_from(error.hints["urgency"].clone()).unwrap()), (0, 2));
    desk.engine.answer("send", Ok(json!({"messages": []})));
    FakeService::action_invoked(&desk.service.emitter(), error.id, "retry").await.unwrap();
    let Request::SendMessage(second) = desk.engine.expect("send").await else { panic!("another request") };
    assert_eq!((second.text, second.idempotency_key), (first.text, first.idempotency_key));
    assert_eq!(desk.service.closed().await, error.id);
}

#[tokio::test]
async fn a_reply_that_fails_survives_a_restart_of_the_service() {
    let mut desk = start(KDE, None).await;
    let shown = desk.show(notice("c7", "lunch?", 1)).await;
    desk.engine.answer("send", Err(ApiError::new(ErrorCode::StorageFull, "the disk is full")));
    FakeService::notification_replied(&desk.service.emitter(), shown.id, "yes, at noon").await.unwrap();
    let error = desk.service.shown().await;
    desk.service.connection.clone().close().await.unwrap();
    desk.engine.found(|found| found.notify_backend == "none").await;
    desk.service = Service::start(&desk.bus, KDE).await;
    let mut bodies = [desk.service.shown().await.body, desk.service.shown().await.body];
    bodies.sort();
    assert_eq!(bodies, ["lunch?".to_owned(), error.body]);
}

#[tokio::test]
async fn a_reply_that_is_held_says_where_it_is() {
    let mut desk = start(KDE, None).await;
    let shown = desk.show(notice("c7", "lunch?", 1)).await;
    let error = ApiError::new(ErrorCode::IdentityChanged, "Bob's key changed");
    let held = json!({"messages": [{"to": "c7", "id": "m", "chat": "c7", "state": "held", "error": error}]});
    desk.engine.answer("send", Ok(held));
    FakeService::notification_replied(&desk.service.emitter(), shown.id, "yes").await.unwrap();
    let error = desk.service.shown().await;
    assert!(error.body.starts_with("Bob's key changed\n") && error.body.contains("outbox"), "{}", error.body);
    assert!(error.actions.is_empty());
}

#[tokio::test]
async fn mark_as_read_reaches_the_engine() {
    let mut desk = start(KDE, None).await;
    let shown = desk.show(notice("c1", "x", 1)).await;
    FakeService::action_invoked(&desk.service.emitter(), shown.id, "mark-read").await.unwrap();
    let Request::MarkChatRead(read) = desk.engine.expect("mark_read").await else { panic!("another request") };
    assert_eq!(read.chat, "c1");
}

#[tokio::test]
async fn a_signal_of_another_program_is_not_believed() {
    let mut desk = start(KDE, None).await;
    let shown = desk.show(notice("c1", "x", 1)).await;
    let stranger = desk.bus.connect().await;
    let forged = SignalEmitter::new(&stranger, PATH).unwrap();
    FakeService::notification_replied(&forged, shown.id, "forged").await.unwrap();
    // The bus orders all signals: once this one is acted upon, the forged one has been seen.
    let ping = zbus::fdo::DBusProxy::new(&stranger).await.unwrap();
    ping.get_id().await.unwrap();
    FakeService::notification_replied(&desk.service.emitter(), shown.id, "real").await.unwrap();
    let Request::SendMessage(sent) = desk.engine.expect("send").await else { panic!("another request") };
    assert_eq!(sent.text, "real");
}

#[tokio::test]
async fn what_was_read_elsewhere_is_withdrawn() {
    let mut desk = start(KDE, None).await;
    let shown = desk.show(notice("c1", "x", 1)).await;
    desk.alerts.send(Alert::Withdraw { account: ACCOUNT.into(), chat: "c1".into() }).await.unwrap();
    assert_eq!(desk.service.closed().await, shown.id);
    let again = desk.show(notice("c1", "y", 1)).await;
    assert_eq!((again.replaces, again.body.as_str()), (0, "y"));
}

#[tokio::test]
async fn a_request_shows_no_text_and_offers_no_reply() {
    let mut desk = start(KDE, Some(vec!["true".into()])).await;
    let shown = desk.show(Notice { request: true, text: Some("spam".into()), ..notice("c1", "", 1) }).await;
    assert_eq!((shown.summary.as_str(), shown.body.as_str()), ("Message request", "Bob wants to write to you."));
    assert_eq!(shown.actions, ["mark-read", "Mark as read"]);
}

#[tokio::test]
async fn in_a_group_sender_and_group_are_named_and_a_reply_goes_to_the_group() {
    let mut desk = start(KDE, None).await;
    let in_ops = |text| Notice { group: Some("ops".into()), ..notice("c2", text, 1) };
    let first = desk.show(in_ops("one")).await;
    assert_eq!((first.summary.as_str(), first.body.as_str()), ("Bob in ops", "one"));
    assert_eq!(String::try_from(first.hints["x-kde-reply-placeholder-text"].clone()).unwrap(), "Reply to ops");
    let second = desk.show(Notice { sender: Some("Carol".into()), unread: 2, ..in_ops("two") }).await;
    assert_eq!((second.summary.as_str(), second.body.as_str()), ("Group ops (2)", "Bob: one\nCarol: two"));
    FakeService::notification_replied(&desk.service.emitter(), second.id, "three").await.unwrap();
    let Request::SendMessage(sent) = desk.engine.expect("send").await else { panic!("another request") };
    assert_eq!((sent.to, sent.text.as_str()), (vec!["c2".to_owned()], "three"));
}

#[tokio::test]
async fn a_new_device_is_told_until_somebody_dismisses_it_and_survives_a_missing_service() {
    let mut desk = start(KDE, None).await;
    let alert = |name: &str| Alert::NewDevice { account: ACCOUNT.into(), device_name: name.into() };
    desk.alerts.send(alert("phone <b>")).await.unwrap();
    let shown = desk.service.shown().await;
    assert_eq!(shown.summary, format!("New device on {ACCOUNT}"));
    assert!(shown.body.starts_with("“phone &lt;b&gt;” reads and writes"), "{}", shown.body);
    assert_eq!(u8::try_from(shown.hints["urgency"].clone()).unwrap(), 2);
    desk.service.connection.clone().close().await.unwrap();
    desk.engine.found(|found| found.notify_backend == "none").await;
    desk.alerts.send(alert("tablet")).await.unwrap();
    desk.service = Service::start(&desk.bus, KDE).await;
    assert!(desk.service.shown().await.body.starts_with("“tablet”"));
}

#[tokio::test]
async fn a_restarted_service_shows_again_what_was_not_read() {
    let mut desk = start(KDE, None).await;
    desk.show(notice("c1", "one", 1)).await;
    desk.service.connection.clone().close().await.unwrap();
    desk.engine.found(|found| found.notify_backend == "none").await;
    desk.service = Service::start(&desk.bus, &["actions", "body"]).await;
    let again = desk.service.shown().await;
    assert_eq!((again.replaces, again.body.as_str()), (0, "one"));
    assert_eq!(again.actions, ["mark-read", "Mark as read"], "the new service has no inline reply");
    let found = desk.engine.found(|found| found.notify_backend == "service").await;
    assert_eq!(found.notify_capabilities, ["actions", "body"]);
}

#[tokio::test]
async fn reply_starts_the_configured_program_with_the_activation_token() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let script = format!("printf '%s|' \"$@\" \"$XDG_ACTIVATION_TOKEN\" > '{}'", pipe.display());
    let command = ["sh", "-c", script.as_str(), "reply", "%c", "%a"].map(|word| word.replace("'%s|'", "'%%s|'"));
    let mut desk = start(&["actions", "body"], Some(command.to_vec())).await;
    let shown = desk.show(notice("c1", "x", 1)).await;
    assert_eq!(shown.actions, ["default", "Open", "reply", "Reply", "mark-read", "Mark as read"]);
    FakeService::activation_token(&desk.service.emitter(), shown.id, "token-1").await.unwrap();
    FakeService::action_invoked(&desk.service.emitter(), shown.id, "reply").await.unwrap();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(pipe));
    let written = timeout(SOON, read).await.expect("the program runs in time").unwrap().unwrap();
    assert_eq!(written, format!("c1|{ACCOUNT}|token-1|"));
}

#[tokio::test]
async fn a_reply_program_that_is_not_there_is_told() {
    let mut desk = start(&["actions", "body"], Some(vec!["/nonexistent/reply".into()])).await;
    let shown = desk.show(notice("c1", "x", 1)).await;
    FakeService::action_invoked(&desk.service.emitter(), shown.id, "reply").await.unwrap();
    let error = desk.service.shown().await;
    assert_eq!(error.summary, "The reply program did not start");
    assert!(error.body.contains("/nonexistent/reply"), "{}", error.body);
}

#[tokio::test]
async fn a_test_says_how_it_went() {
    let mut desk = start(KDE, None).await;
    let (answer, answered) = oneshot::channel();
    desk.alerts.send(Alert::Test(answer)).await.unwrap();
    assert_eq!(timeout(SOON, answered).await.unwrap().unwrap(), Ok(()));
    assert_eq!(desk.service.shown().await.summary, "FastChat");
    desk.service.connection.clone().close().await.unwrap();
    desk.engine.found(|found| found.notify_backend == "none").await;
    let (answer, answered) = oneshot::channel();
    desk.alerts.send(Alert::Test(answer)).await.unwrap();
    let error = timeout(SOON, answered).await.unwrap().unwrap().unwrap_err();
    assert!(error.code == ErrorCode::Refused && error.hint.is_some(), "{error:?}");
}
