//! `send`: where the text comes from, and what the exit code tells.

use serde_json::{Value, json};

use crate::fake_daemon::{FakeDaemon, Reply, failed, run_with_input, stderr, stdout};

fn sent(to: &str, state: &str, error: Option<Value>) -> Value {
    let mut sent = json!({ "to": to, "id": "m", "chat": "c", "state": state });
    if let Some(error) = error {
        sent["error"] = error;
    }
    sent
}

/// A daemon that queues everything.
fn queues() -> FakeDaemon {
    FakeDaemon::start(|method, params| {
        if method != "send" {
            return failed("refused", "not here");
        }
        let to = params["to"].as_array().unwrap().iter();
        Reply::Result(
            json!({ "messages": to.map(|to| sent(to.as_str().unwrap(), "queued", None)).collect::<Vec<_>>() }),
        )
    })
}

#[test]
fn the_text_is_read_from_a_pipe_without_its_last_newline() {
    let daemon = queues();
    let output = run_with_input(daemon.ctl(&["send", "ops"]), b"line one\nline two\n\n");
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "ops: queued\n".into()));
    assert_eq!(daemon.asked_for("send")["text"], "line one\nline two\n");
    run_with_input(daemon.ctl(&["send", "ops", "bob", "-"]), b"x");
    let asked = daemon.asked_for("send");
    assert_eq!((&asked["to"], &asked["text"]), (&json!(["ops", "bob"]), &json!("x")));
}

#[test]
fn what_cannot_be_a_text_is_refused_before_the_daemon_is_asked() {
    let daemon = queues();
    let too_long = vec![b'x'; 64 * 1024 + 1];
    for (input, word) in [(&b""[..], "empty"), (b"\n", "empty"), (&too_long, "64 KiB"), (b"\xff\xfe", "UTF-8")] {
        let output = run_with_input(daemon.ctl(&["send", "bob"]), input);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(word) && stderr(&output).contains("next:"), "{}", stderr(&output));
    }
    assert!(daemon.try_asked().is_none());
}

#[test]
fn a_held_message_exits_with_4_and_says_how_to_trust_the_key() {
    let daemon = FakeDaemon::start(|_, _| {
        let error = json!({ "code": "identity_changed", "message": "bob's key has changed" });
        Reply::Result(json!({ "messages": [sent("bob", "held", Some(error)), sent("carol", "queued", None)] }))
    });
    let output = daemon.ctl(&["send", "bob", "carol", "-m", "hi"]).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output)), (Some(4), "carol: queued\n".into()));
    let said = stderr(&output);
    for word in ["the message is kept", "fastchatctl key show bob", "fastchatctl key trust bob"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_wait_that_is_not_reached_exits_with_8() {
    let daemon = queues();
    let output = daemon.ctl(&["send", "bob", "-m", "hi", "--wait", "delivered", "--timeout", "2s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(8));
    assert!(stderr(&output).contains("queued, but not delivered"), "{}", stderr(&output));
    let asked = daemon.asked_for("send");
    assert_eq!((&asked["wait"], &asked["timeout_ms"]), (&json!("delivered"), &json!(2000)));
}

#[test]
fn a_wait_that_the_account_keeps_from_ending_says_why() {
    for (state, exit) in [("offline", 8), ("untrusted", 4), ("logged_out", 7)] {
        let daemon = FakeDaemon::start(move |method, _| {
            Reply::Result(match method {
                "account.list" => json!({ "accounts": [{
                    "account": "alice@h:1", "state": state, "reason": "the reason", "device": "", "device_name": "",
                    "fingerprint": "", "pin": "", "outbox": 1,
                }] }),
                _ => json!({ "messages": [sent("bob", "queued", None)] }),
            })
        });
        let output = daemon.ctl(&["send", "bob", "-m", "hi", "--wait", "sent"]).output().unwrap();
        assert_eq!(output.status.code(), Some(exit), "{state}");
        assert!(
            stderr(&output).contains("it is kept") && stderr(&output).contains("the reason"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_broken_connection_repeats_the_same_message_once() {
    let mut calls = 0;
    let daemon = FakeDaemon::start(move |_, _| {
        calls += 1;
        if calls == 1 { Reply::Close } else { Reply::Result(json!({ "messages": [sent("bob", "queued", None)] })) }
    });
    assert!(daemon.ctl(&["send", "bob", "-m", "hi"]).output().unwrap().status.success());
    let (first, second) = (daemon.asked_for("send"), daemon.asked_for("send"));
    assert_eq!(first, second);
    assert!(!first["idempotency_key"].as_str().unwrap().is_empty());
}

#[test]
fn two_sends_of_the_same_text_are_two_messages_unless_the_key_is_the_same() {
    let daemon = queues();
    let mut keys = Vec::new();
    for _ in 0..2 {
        daemon.ctl(&["send", "bob", "-m", "hi"]).output().unwrap();
        keys.push(daemon.asked_for("send")["idempotency_key"].clone());
    }
    assert_ne!(keys[0], keys[1]);
    daemon.ctl(&["send", "bob", "-m", "hi", "--idempotency-key", "K"]).output().unwrap();
    assert_eq!(daemon.asked_for("send")["idempotency_key"], "K");
}

#[test]
fn an_unknown_recipient_exits_with_7() {
    let daemon = FakeDaemon::start(|_, _| failed("not_found", "there is nobody called zoe"));
    let output = daemon.ctl(&["send", "zoe", "-m", "hi"]).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(7), "error: there is nobody called zoe\n".into()));
}
