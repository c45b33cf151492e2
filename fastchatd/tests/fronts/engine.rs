//! An engine that knows what a test tells it, and tells the test what it was asked.
//!
//! **Invariant**: every call is answered, and told to the test before it is.

use std::{collections::BTreeMap, time::Duration};

use fastchat_ipc::{ApiError, Event, EventKind, Request};
use fastchatd::api::{Api, Surroundings};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::timeout,
};

/// How long anything that should happen may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Answers by method name.
type Answers = BTreeMap<String, Result<Value, ApiError>>;

/// The test's side.
pub(crate) struct Engine {
    pub(crate) api: Api,
    /// What was asked, in order.
    pub(crate) asked: mpsc::UnboundedReceiver<Request>,
    pub(crate) surroundings: watch::Receiver<Surroundings>,
    events: broadcast::Sender<Event>,
    answers: watch::Sender<Answers>,
    log: watch::Sender<Vec<Event>>,
}

pub(crate) const ACCOUNT: &str = "alice@example.org:8887";

pub(crate) fn account() -> Value {
    json!({
        "account": ACCOUNT, "state": "online", "reason": "", "device": "d1", "device_name": "box",
        "fingerprint": "ab", "pin": "", "outbox": 0,
    })
}

pub(crate) fn chat(id: &str, unread: u64) -> Value {
    json!({
        "id": id, "account": ACCOUNT, "kind": "direct", "title": "Bob", "contact": "bob", "unread": unread,
        "muted": false, "request": false, "held": false, "last": null,
    })
}

pub(crate) fn group(chat: &str, name: &str) -> Value {
    let member = |name, admin| {
        json!({
            "name": name, "admin": admin, "devices": 1, "verified": false, "key_changed": false, "leaving": false,
        })
    };
    json!({
        "id": format!("g-{chat}"), "account": ACCOUNT, "name": name, "topic": "", "chat": chat,
        "members": [member("alice", true), member("bob", false)], "admin": true, "state": "active", "epoch": 3,
        "authenticator": "ab", "pending": [], "unread": 0, "created_at_ms": 1,
    })
}

pub(crate) fn contact(name: &str) -> Value {
    json!({
        "name": name, "alias": "", "state": "accepted", "chat": "c1", "fingerprint": "cd", "verified": false,
        "key_changed": false, "active": false, "active_since_ms": 0,
    })
}

fn status(cursor: u64) -> Value {
    json!({
        "version": "9.9.9", "pid": 1, "uptime_ms": 1, "locked": false, "key_store": "file", "bus": true,
        "cursor": cursor.to_string(), "accounts": [account()],
    })
}

fn first_answers() -> Answers {
    let answers = [
        ("chats", json!({"chats": [chat("c1", 1)]})),
        ("contact.list", json!({"contacts": [contact("bob")]})),
        ("group.list", json!({"groups": []})),
        ("unread", json!({"direct": 1, "group": 0, "requests": 0})),
        ("mark_read", json!({"direct": 0, "group": 0, "requests": 0})),
        ("account.list", json!({"accounts": [account()]})),
        ("send", json!({"messages": [{"to": "c1", "id": "m1", "chat": "c1", "state": "queued"}]})),
    ];
    answers.into_iter().map(|(name, answer)| (name.to_owned(), Ok(answer))).collect()
}

impl Engine {
    pub(crate) fn start() -> Self {
        let (api, mut ends) = Api::new();
        let (tell, asked) = mpsc::unbounded_channel();
        let (answers, log) = (watch::Sender::new(first_answers()), watch::Sender::new(Vec::<Event>::new()));
        let engine = Self {
            api,
            asked,
            surroundings: ends.surroundings.clone(),
            events: ends.events.clone(),
            answers: answers.clone(),
            log: log.clone(),
        };
        tokio::spawn(async move {
            while let Some(call) = ends.calls.recv().await {
                let answer = match &call.request {
                    Request::DaemonStatus(_) => answers
                        .borrow()
                        .get("daemon.status")
                        .cloned()
                        .unwrap_or_else(|| Ok(status(log.borrow().len() as u64))),
                    Request::ReadEventLog(asked) => {
                        let since: usize = asked.since.parse().unwrap_or(0);
                        let events: Vec<Event> = log.borrow().iter().skip(since).take(100).cloned().collect();
                        let cursor = (since + events.len()).to_string();
                        Ok(json!({"events": events, "cursor": cursor}))
                    }
                    Request::SubscribeEvents(asked) => {
                        let newest = log.borrow().len().to_string();
                        let cursor = if asked.since.is_empty() { newest } else { asked.since.clone() };
                        answers.borrow().get("events.subscribe").cloned().unwrap_or(Ok(json!({"cursor": cursor})))
                    }
                    other => answers.borrow().get(other.name()).cloned().unwrap_or_else(|| Ok(json!({}))),
                };
                let _ = tell.send(call.request);
                let _ = call.answer.send(answer);
            }
        });
        engine
    }

    /// What to answer from now on.
    pub(crate) fn answer(&self, method: &str, answer: Result<Value, ApiError>) {
        self.answers.send_modify(|answers| drop(answers.insert(method.to_owned(), answer)));
    }

    /// Something happened.
    pub(crate) fn happen(&self, kind: EventKind) -> String {
        let durable = !matches!(kind, EventKind::Presence { .. } | EventKind::AccountState { .. });
        let number = self.log.borrow().len() + usize::from(durable);
        let event = Event { cursor: number.to_string(), at_ms: 5, account: ACCOUNT.to_owned(), durable, kind };
        if durable {
            self.log.send_modify(|log| log.push(event.clone()));
        }
        let _ = self.events.send(event);
        number.to_string()
    }

    /// The next call of `method`.
    pub(crate) async fn expect(&mut self, method: &str) -> Request {
        let next = async {
            loop {
                let request = self.asked.recv().await.expect("the engine runs");
                if request.name() == method {
                    return request;
                }
            }
        };
        timeout(SOON, next).await.unwrap_or_else(|_| panic!("`{method}` was not called"))
    }

    /// Waits until the fronts found out something.
    pub(crate) async fn found(&mut self, wanted: impl FnMut(&Surroundings) -> bool) -> Surroundings {
        let found = timeout(SOON, self.surroundings.wait_for(wanted)).await;
        found.expect("the surroundings come to be as wanted").expect("the fronts run").clone()
    }
}

/// A message that says what must not be in signals.
pub(crate) fn message_received(chat: &str, id: &str) -> EventKind {
    let message = json!({
        "id": id, "chat": chat, "from": "bob", "mine": false, "sent_at_ms": 1, "accepted_at_ms": 1, "kind": "text",
        "state": "received", "text": "the secret text", "position": 1,
    });
    let message = serde_json::from_value(message).expect("a message");
    EventKind::MessageReceived { chat: chat.to_owned(), id: id.to_owned(), request: false, message }
}
