//! `watch`: nothing lost, nothing twice, and what people see.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake_daemon::{FakeDaemon, Reply, failed, stderr, stdout};

fn message(text: &str) -> Value {
    json!({
        "id": "m", "chat": "c", "from": "bob", "mine": false, "sent_at_ms": 1, "accepted_at_ms": 1, "kind": "text",
        "state": "received", "text": text, "position": 1,
    })
}

fn received(cursor: u64, text: &str) -> Value {
    json!({
        "cursor": cursor.to_string(), "at_ms": 1, "account": "alice@h:1", "durable": true, "event": "message_received",
        "chat": "c", "id": "m", "request": false, "message": message(text),
    })
}

fn presence(cursor: u64) -> Value {
    json!({
        "cursor": cursor.to_string(), "at_ms": 1, "account": "alice@h:1", "durable": false, "event": "presence",
        "contact": "bob", "active": true, "since_ms": 1,
    })
}

fn chats() -> Reply {
    Reply::Result(json!({ "chats": [] }))
}

#[test]
fn a_restart_of_the_daemon_loses_and_repeats_nothing() {
    let mut subscriptions = 0;
    let daemon = FakeDaemon::start(move |method, params| {
        if method != "events.subscribe" {
            return chats();
        }
        subscriptions += 1;
        match (subscriptions, params["since"].as_str().unwrap()) {
            (1, "5") => Reply::EventsAndClose(vec![received(6, "six"), presence(6), received(7, "seven")]),
            (2, "7") => Reply::Close,
            (3, "7") => failed("locked", "the store is locked"),
            (4, "7") => failed("shutting_down", "the daemon is stopping"),
            (5, "7") => Reply::EventsAndClose(vec![received(8, "eight")]),
            (6, "8") => Reply::EventsAndClose(vec![received(9, "nine")]),
            (7, "9") => failed("internal", "the end of the test"),
            other => panic!("subscribed as {other:?}"),
        }
    });
    let arguments = ["watch", "--json", "--since", "5", "--event", "message_received", "--timeout", "60s", "-q"];
    let output = daemon.ctl(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let events: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events, [received(6, "six"), received(7, "seven"), received(8, "eight"), received(9, "nine")]);
}

#[test]
fn a_first_subscription_that_is_refused_ends_the_watch() {
    let daemon = FakeDaemon::start(|_, _| failed("locked", "the store is locked"));
    let output = daemon.ctl(&["watch"]).output().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(7), "error: the store is locked\n  next: `fastchatctl unlock`\n".into())
    );
}

#[test]
fn once_ends_after_the_first_event_that_is_printed() {
    let daemon = FakeDaemon::start(|method, _| match method {
        "events.subscribe" => Reply::Events(vec![presence(1), received(2, "two"), received(3, "three")]),
        _ => chats(),
    });
    let output = daemon.ctl(&["watch", "--once", "--timeout", "10s"]).env("TZ", "UTC").output().unwrap();
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "1970-01-01 00:00 bob: two\n".into()));
    let output = daemon.ctl(&["watch", "--once", "--json", "--timeout", "10s"]).output().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&stdout(&output)).unwrap(), presence(1));
}

#[test]
fn once_without_an_event_in_time_exits_with_3() {
    let daemon = FakeDaemon::start(|_, _| Reply::Events(vec![]));
    let output = daemon.ctl(&["watch", "--once", "--timeout", "50ms"]).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(3), "error: no event came in time\n".into()));
    assert_eq!(daemon.ctl(&["watch", "--timeout", "50ms"]).output().unwrap().status.code(), Some(0));
}

#[test]
fn a_watch_ends_when_its_reader_has_gone_though_nothing_more_happens() {
    let daemon = FakeDaemon::start(|method, _| match method {
        "events.subscribe" => Reply::Events(vec![received(1, "one")]),
        _ => chats(),
    });
    let began = Instant::now();
    let mut child = daemon.ctl(&["watch", "--timeout", "60s"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with("bob: one\n"), "{line}");
    assert!(child.wait().unwrap().success() && began.elapsed() < Duration::from_secs(30));
}

#[test]
fn an_account_sees_its_own_events_alone() {
    let daemon = FakeDaemon::start(|method, _| match method {
        "account.list" => Reply::Result(json!({ "accounts": [{
            "account": "work@h:1", "state": "online", "reason": "", "device": "", "device_name": "", "fingerprint": "",
            "pin": "", "outbox": 0,
        }] })),
        "events.subscribe" => {
            let mut mine = received(2, "mine");
            mine["account"] = json!("work@h:1");
            Reply::Events(vec![received(1, "other"), mine])
        }
        _ => chats(),
    });
    let output = daemon.ctl(&["watch", "--account", "work", "--once", "--timeout", "10s"]).output().unwrap();
    assert!(stdout(&output).ends_with(" bob: mine\n"), "{}", stdout(&output));
}

#[test]
fn the_text_of_a_request_is_not_shown_to_people() {
    let daemon = FakeDaemon::start(|_, _| {
        let mut event = received(1, "buy now");
        event["request"] = json!(true);
        Reply::Events(vec![event])
    });
    let output = daemon.ctl(&["watch", "--once", "--timeout", "10s"]).output().unwrap();
    assert!(!stdout(&output).contains("buy now") && stdout(&output).contains("contact accept bob"));
}

#[test]
fn what_cannot_be_read_ends_the_watch_instead_of_repeating_for_ever() {
    let daemon = FakeDaemon::start(|_, _| Reply::Events(vec![json!({ "event": "of another age" })]));
    let output = daemon.ctl(&["watch", "--timeout", "10s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
