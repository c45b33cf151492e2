//! Each command calls its method with the right parameters, and `--json` gives the daemon's result as it came.

use std::collections::BTreeSet;

use fastchat_ipc::{METHODS, Request};
use serde_json::{Value, json};

use crate::fake_daemon::{FakeDaemon, Reply, failed, on_a_terminal, stderr, stdout};

/// Methods that have nothing to say.
const EMPTY: [&str; 4] = ["contact.remove", "account.logout", "account.password", "device.revoke"];

fn account() -> Value {
    json!({
        "account": "alice@h:1", "state": "online", "reason": "", "device": "d", "device_name": "laptop",
        "fingerprint": "ab", "pin": "", "outbox": 0,
    })
}

fn chat() -> Value {
    json!({
        "id": "c1", "account": "alice@h:1", "kind": "direct", "title": "bob", "contact": "bob", "unread": 2,
        "muted": false, "request": false, "held": false, "last": null,
    })
}

fn contact() -> Value {
    json!({
        "name": "bob", "alias": "", "state": "accepted", "chat": "c1", "fingerprint": "ab", "verified": true,
        "key_changed": false, "active": true, "active_since_ms": 1,
    })
}

fn notify_status() -> Value {
    json!({
        "backend": "service", "server": "dunst 1", "capabilities": [], "reply": "inline", "preview": "full",
        "dnd": false, "dnd_until_ms": 0, "muted": [],
    })
}

fn status() -> Value {
    json!({
        "version": "0.1.0", "pid": 1, "uptime_ms": 1, "locked": true, "key_store": "file", "bus": false,
        "cursor": "1", "accounts": [account()],
    })
}

fn keys() -> Value {
    let number = ["12345"; 12].join(" ");
    json!({
        "own": "ab", "contact": "bob", "fingerprint": "cd", "safety_number": number, "qr": "x",
        "verified": false, "changed_safety_number": "",
    })
}

fn group(pending: &[&str]) -> Value {
    json!({
        "id": "g1", "account": "alice@h:1", "name": "ops", "topic": "troubles", "chat": "c2", "admin": true,
        "members": [
            { "name": "alice", "admin": true, "devices": 2, "verified": true, "key_changed": false, "leaving": false },
            { "name": "bob", "admin": false, "devices": 1, "verified": true, "key_changed": false, "leaving": true },
        ],
        "state": "active", "epoch": 7, "authenticator": "ab".repeat(48), "pending": pending, "unread": 1,
        "created_at_ms": 1,
    })
}

fn device() -> Value {
    json!({
        "id": "d1", "name": "laptop", "added_at_ms": 1, "seen_at_ms": 1, "connected": true, "current": true,
    })
}

fn backup() -> Value {
    json!({
        "path": "/x/a.backup", "account": "alice@h:1", "created_at_ms": 1, "contacts": 1, "chats": 2, "messages": 3,
        "fingerprint": "ab", "bytes": 4096,
    })
}

/// A result of every method, with a field that this version does not know.
pub(crate) fn result(method: &str) -> Value {
    let mut result = match method {
        "daemon.status" | "daemon.unlock" => status(),
        "daemon.doctor" => json!({ "checks": [{ "check": "store", "verdict": "ok", "found": "fine", "next": "" }] }),
        "account.list" => json!({ "accounts": [account()] }),
        "send" => json!({ "messages": [{ "to": "bob", "id": "m", "chat": "c1", "state": "queued" }] }),
        "chats" => json!({ "chats": [chat()] }),
        "unread" | "mark_read" => json!({ "direct": 1, "group": 2, "requests": 3 }),
        "history" => json!({ "chat": "c1", "messages": [], "more": false }),
        "contact.list" => json!({ "contacts": [contact()] }),
        name if EMPTY.contains(&name) => json!({}),
        "group.list" => json!({ "groups": [group(&[])] }),
        name if name.starts_with("group.") => group(&[]),
        "device.list" => json!({ "devices": [device()] }),
        "device.rename" | "device.link_confirm" => device(),
        "device.link" => json!({ "link": "l1", "sas": "123 456", "device_name": "tablet" }),
        "account.link_begin" => {
            json!({ "link": "l1", "code": "CODE-1", "qr": "fastchat-link:CODE-1", "expires_at_ms": 9_999_999_999_999u64 })
        }
        "account.link_wait" => json!({ "sas": "123 456", "account": "alice@h:1" }),
        "account.link_finish" => account(),
        "backup.restore" => json!({ "backup": backup(), "contacts": 1, "chats": 0, "messages": 3 }),
        name if name.starts_with("backup.") => backup(),
        name if name.starts_with("contact.") => contact(),
        name if name.starts_with("key.") => keys(),
        "outbox.list" => json!({ "messages": [] }),
        "outbox.retry" | "outbox.cancel" => json!({ "changed": 1 }),
        "notify.mute" | "notify.unmute" => chat(),
        name if name.starts_with("notify.") => notify_status(),
        other => panic!("no result for {other}"),
    };
    if !EMPTY.contains(&method) {
        result["field_of_a_later_version"] = json!(7);
    }
    result
}

/// A safety number.
const NUMBER: &str = "12345 12345 12345 12345 12345 12345 12345 12345 12345 12345 12345 12345";

/// The command line, the method that it calls last, and parts of its parameters.
fn command_lines() -> Vec<(&'static [&'static str], &'static str, Value)> {
    vec![
        (&["status"], "daemon.status", json!({})),
        (&["unlock"], "daemon.unlock", json!({ "passphrase": "" })),
        (&["logout", "--force"], "account.logout", json!({ "account": "alice@h:1", "force": true })),
        (&["send", "bob", "-m", "hi"], "send", json!({ "to": ["bob"], "text": "hi", "wait": "queued" })),
        (&["chats", "--account", "al"], "chats", json!({ "account": "al" })),
        (&["history", "bob"], "history", json!({ "chat": "bob", "limit": 5, "before": 0 })),
        (&["history", "bob", "-n", "9", "--before", "4"], "history", json!({ "limit": 9, "before": 4 })),
        (&["unread"], "unread", json!({ "account": "" })),
        (&["mark-read", "bob"], "mark_read", json!({ "chat": "bob", "up_to": 0 })),
        (&["contact", "add", "bob"], "contact.add", json!({ "contact": "bob" })),
        (&["contact", "list"], "contact.list", json!({})),
        (&["contact", "accept", "bob"], "contact.accept", json!({ "contact": "bob" })),
        (&["contact", "decline", "bob"], "contact.decline", json!({ "contact": "bob" })),
        (&["contact", "block", "bob"], "contact.block", json!({ "contact": "bob" })),
        (&["contact", "unblock", "bob"], "contact.unblock", json!({ "contact": "bob" })),
        (&["contact", "remove", "bob"], "contact.remove", json!({ "contact": "bob" })),
        (&["contact", "alias", "bob", "B"], "contact.alias", json!({ "contact": "bob", "alias": "B" })),
        (&["key", "show", "bob"], "key.show", json!({ "contact": "bob" })),
        (&["key", "verify", "bob", "--yes"], "key.verify", json!({ "contact": "bob", "safety_number": "" })),
        (&["key", "trust", "bob"], "key.trust", json!({ "contact": "bob", "safety_number": "" })),
        (&["key", "trust", "bob", "--number", NUMBER], "key.trust", json!({ "safety_number": NUMBER })),
        (&["key", "verify", "bob", "--number", NUMBER], "key.verify", json!({ "safety_number": NUMBER })),
        (&["group", "create", "ops", "bob", "carol"], "group.create", json!({ "members": ["bob", "carol"] })),
        (
            &["group", "create", "ops", "--topic", "t"],
            "group.create",
            json!({ "name": "ops", "topic": "t", "members": [] }),
        ),
        (&["group", "list"], "group.list", json!({})),
        (&["group", "show", "ops"], "group.show", json!({ "group": "ops" })),
        (&["group", "rename", "ops", "lab"], "group.rename", json!({ "group": "ops", "name": "lab" })),
        (&["group", "topic", "ops", ""], "group.topic", json!({ "group": "ops", "topic": "" })),
        (&["group", "add", "ops", "bob"], "group.add", json!({ "group": "ops", "members": ["bob"] })),
        (&["group", "remove", "ops", "bob", "carol"], "group.remove", json!({ "members": ["bob", "carol"] })),
        (&["group", "promote", "ops", "bob"], "group.promote", json!({ "members": ["bob"] })),
        (&["group", "demote", "ops", "bob"], "group.demote", json!({ "members": ["bob"] })),
        (&["group", "leave", "ops"], "group.leave", json!({ "group": "ops" })),
        (&["group", "delete", "ops", "--yes"], "group.delete", json!({ "group": "ops" })),
        (&["device", "list"], "device.list", json!({})),
        (&["device", "rename", "laptop", "old one"], "device.rename", json!({ "device": "laptop", "name": "old one" })),
        (&["device", "revoke", "phone"], "device.revoke", json!({ "device": "phone" })),
        (&["outbox", "list"], "outbox.list", json!({})),
        (&["outbox", "retry"], "outbox.retry", json!({ "id": "" })),
        (&["outbox", "cancel", "m1"], "outbox.cancel", json!({ "id": "m1" })),
        (&["outbox", "cancel", "--all"], "outbox.cancel", json!({ "id": "" })),
        (&["notify", "status"], "notify.status", json!({})),
        (&["notify", "test"], "notify.test", json!({})),
        (&["notify", "mute", "bob"], "notify.mute", json!({ "chat": "bob" })),
        (&["notify", "unmute", "bob"], "notify.unmute", json!({ "chat": "bob" })),
        (&["notify", "dnd", "30m"], "notify.dnd", json!({ "on": true, "for_ms": 1_800_000 })),
        (&["notify", "dnd", "off"], "notify.dnd", json!({ "on": false, "for_ms": 0 })),
        (&["notify", "preview", "sender"], "notify.preview", json!({ "preview": "sender" })),
    ]
}

#[test]
fn each_command_calls_its_method_and_json_gives_the_result_as_it_came() {
    let daemon = FakeDaemon::start(|method, params| {
        // The real daemon refuses unknown parameters: so does this one.
        assert!(Request::parse(method, params.clone()).is_ok(), "{method} {params}");
        Reply::Result(result(method))
    });
    for (line, method, expected) in command_lines() {
        let output = daemon.ctl(line).arg("--json").output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", stderr(&output));
        let params = daemon.asked_for(method);
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&params[name], value, "{line:?}: {name}");
        }
        let printed = stdout(&output);
        assert_eq!(printed.lines().count(), 1, "{line:?}: {printed}");
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), result(method), "{line:?}");
        let human = daemon.ctl(line).output().unwrap();
        assert!(human.status.success() && !human.stdout.is_empty(), "{line:?}");
        while daemon.try_asked().is_some() {}
    }
}

#[test]
fn every_method_but_the_low_level_ones_has_a_command() {
    let called: BTreeSet<&str> = command_lines().iter().map(|(_, method, _)| *method).collect();
    // Proved by tests of their own.
    let elsewhere = [
        "account.link_begin",
        "account.link_finish",
        "account.link_wait",
        "account.list",
        "account.login",
        "account.password",
        "account.register",
        "backup.create",
        "backup.restore",
        "backup.verify",
        "daemon.doctor",
        "device.link",
        "device.link_confirm",
        "events.subscribe",
        "key.rotate",
    ];
    // For programs: by `rpc`.
    let by_rpc = ["events.read", "rpc.discover"];
    for method in METHODS {
        let name = method.name;
        assert!(called.contains(name) || elsewhere.contains(&name) || by_rpc.contains(&name), "{name}");
    }
}

#[test]
fn a_change_that_is_not_done_yet_is_told_as_under_way() {
    let daemon = FakeDaemon::start(|_, _| Reply::Result(group(&["adding carol"])));
    let output = daemon.ctl(&["group", "add", "ops", "carol"]).output().unwrap();
    assert_eq!(stdout(&output), "ops: adding carol, under way\n");
    assert!(stderr(&output).contains("fastchatctl group show ops"), "{}", stderr(&output));
}

#[test]
fn what_nobody_can_undo_for_others_needs_a_yes_from_a_script_too() {
    let daemon = FakeDaemon::start(|method, _| Reply::Result(result(method)));
    for line in [&["group", "delete", "ops"][..], &["key", "rotate"]] {
        let output = daemon.ctl(line).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        assert!(stderr(&output).contains("--yes"), "{}", stderr(&output));
    }
    assert!(daemon.try_asked().is_none());
}

#[test]
fn at_a_terminal_an_end_is_asked_about_and_no_ends_nothing() {
    let daemon = FakeDaemon::start(|method, _| Reply::Result(result(method)));
    for line in [
        &["group", "remove", "ops", "bob"][..],
        &["group", "leave", "ops"],
        &["group", "delete", "ops"],
        &["device", "revoke", "phone"],
    ] {
        let output = on_a_terminal(&daemon.ctl(line), "no\n");
        assert_eq!(output.status.code(), Some(1), "{line:?}: {}", stdout(&output));
        assert!(daemon.try_asked().is_none(), "{line:?}");
        let output = on_a_terminal(&daemon.ctl(line), "yes\n");
        assert!(output.status.success(), "{line:?}: {}", stdout(&output));
        daemon.asked();
    }
}

#[test]
fn status_tells_what_waits_in_the_groups_of_an_unlocked_store() {
    let daemon = FakeDaemon::start(|method, _| {
        Reply::Result(match method {
            "daemon.status" => json!({
                "version": "0.1.0", "pid": 1, "uptime_ms": 1, "locked": false, "key_store": "file", "bus": false,
                "cursor": "1", "accounts": [account()],
            }),
            "group.list" => json!({ "groups": [group(&["adding carol"])] }),
            other => result(other),
        })
    });
    let shown = stdout(&daemon.ctl(&["status"]).output().unwrap());
    assert!(
        shown.contains("alice@h:1  online  1 contact (1 verified), 1 group\n  ops              adding carol\n"),
        "{shown}"
    );
}

#[test]
fn whoami_prints_the_account_alone_for_scripts() {
    let daemon = FakeDaemon::start(|method, _| Reply::Result(result(method)));
    assert_eq!(stdout(&daemon.ctl(&["whoami"]).output().unwrap()), "alice@h:1\n");
    let unknown = daemon.ctl(&["whoami", "--account", "zoe"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(7));
}

#[test]
fn doctor_fails_when_a_check_has_failed_and_says_what_to_do() {
    let daemon = FakeDaemon::start(|method, _| {
        Reply::Result(match method {
            "daemon.doctor" => {
                json!({ "checks": [{ "check": "server", "verdict": "failed", "found": "down", "next": "start it" }] })
            }
            other => result(other),
        })
    });
    let output = daemon.ctl(&["doctor"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("next: start it"), "{}", stdout(&output));
}

#[test]
fn quiet_prints_what_was_asked_for_and_no_confirmation() {
    let daemon = FakeDaemon::start(|method, _| Reply::Result(result(method)));
    assert_eq!(stdout(&daemon.ctl(&["send", "bob", "-m", "hi", "-q"]).output().unwrap()), "");
    assert_eq!(stdout(&daemon.ctl(&["unread", "-q"]).output().unwrap()), "1 direct, 2 in groups, 3 requests\n");
}

#[test]
fn a_status_bar_gets_its_object_even_without_a_daemon() {
    let daemon = FakeDaemon::start(|_, _| failed("locked", "the store is locked"));
    let output = daemon.ctl(&["unread", "--format", "waybar"]).output().unwrap();
    let shown: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&shown["class"], output.status.code()), (&json!("offline"), Some(7)));
}

#[test]
fn rpc_calls_any_method_and_takes_parameters_from_stdin() {
    let daemon = FakeDaemon::start(|_, params| Reply::Result(params.clone()));
    let output = daemon.ctl(&["rpc", "anything", r#"{"a":1}"#, "--account", "al"]).output().unwrap();
    assert_eq!(stdout(&output), "{\"a\":1,\"account\":\"al\"}\n");
    let output = crate::fake_daemon::run_with_input(daemon.ctl(&["rpc", "anything", "-"]), br#"{"b":2}"#);
    assert_eq!(stdout(&output), "{\"b\":2}\n");
    assert_eq!(daemon.ctl(&["rpc", "anything", "[1]"]).output().unwrap().status.code(), Some(1));
}

#[test]
fn a_failure_of_the_daemon_sets_the_exit_code_and_shows_the_next_step() {
    for (code, exit) in [
        ("internal", 2),
        ("unreachable", 3),
        ("server_changed", 4),
        ("rate_limited", 5),
        ("not_found", 7),
        ("locked", 7),
    ] {
        let daemon = FakeDaemon::start(move |_, _| {
            Reply::Error(json!({ "code": code, "message": "it failed", "hint": "do this", "data": { "x": 1 } }))
        });
        let output = daemon.ctl(&["chats"]).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(exit), "error: it failed\n  next: do this\n".into()));
        let output = daemon.ctl(&["chats", "--json"]).output().unwrap();
        let error = serde_json::from_str::<Value>(&stderr(&output)).unwrap()["error"].clone();
        assert_eq!(
            error,
            json!({ "code": code, "message": "it failed", "hint": "do this", "data": { "x": 1 }, "exit": exit })
        );
        assert_eq!(stdout(&output), "");
    }
}
