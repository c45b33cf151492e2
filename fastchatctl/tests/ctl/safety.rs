//! What others wrote cannot act on the terminal; a reader that goes is no error; a wrong command line exits with 1.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::fake_daemon::{FakeDaemon, Reply, on_a_terminal, stderr, stdout};

/// An escape that clears the screen, a C1 one, a direction override, and a line that looks like another message.
const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\u{202e}txt\n12:00 alice: forged\r\u{7f}";

fn hostile(method: &str) -> Reply {
    let message = json!({
        "id": HOSTILE, "chat": HOSTILE, "from": HOSTILE, "mine": false, "sent_at_ms": 1, "accepted_at_ms": 1,
        "kind": "text", "state": "failed", "text": HOSTILE, "error": HOSTILE, "position": 1,
    });
    let chat = json!({
        "id": HOSTILE, "account": HOSTILE, "kind": "group", "title": HOSTILE, "contact": HOSTILE, "unread": 1,
        "muted": false, "request": false, "held": false, "last": message,
    });
    let event = json!({
        "cursor": "1", "at_ms": 1, "account": HOSTILE, "durable": true, "event": "message_received", "chat": HOSTILE,
        "id": HOSTILE, "request": false, "message": message,
    });
    let account = json!({
        "account": HOSTILE, "state": "offline", "reason": HOSTILE, "device": HOSTILE, "device_name": HOSTILE,
        "fingerprint": HOSTILE, "pin": HOSTILE, "outbox": 1,
    });
    let group = json!({
        "id": HOSTILE, "account": HOSTILE, "name": HOSTILE, "topic": HOSTILE, "chat": HOSTILE, "admin": false,
        "members": [{
            "name": HOSTILE, "admin": true, "devices": 1, "verified": false, "key_changed": true, "leaving": true,
        }],
        "state": "joining", "epoch": 1, "authenticator": HOSTILE, "pending": [HOSTILE], "unread": 1, "created_at_ms": 1,
    });
    let device = json!({
        "id": HOSTILE, "name": HOSTILE, "added_at_ms": 1, "seen_at_ms": 0, "connected": false, "current": false,
    });
    let new_device = json!({
        "cursor": "2", "at_ms": 1, "account": HOSTILE, "durable": true, "event": "new_device", "device": HOSTILE,
        "name": HOSTILE,
    });
    Reply::Result(match method {
        "history" => json!({ "chat": HOSTILE, "messages": [message], "more": true }),
        "chats" => json!({ "chats": [chat] }),
        "outbox.list" => json!({ "messages": [message] }),
        "contact.list" => json!({ "contacts": [{
            "name": HOSTILE, "alias": HOSTILE, "state": "request", "chat": HOSTILE, "fingerprint": HOSTILE,
            "verified": false, "key_changed": true, "active": false, "active_since_ms": 0,
        }] }),
        "daemon.status" => json!({
            "version": HOSTILE, "pid": 1, "uptime_ms": 1, "locked": false, "key_store": "file", "bus": false,
            "cursor": "1", "accounts": [account],
        }),
        "account.list" => json!({ "accounts": [account] }),
        "group.list" => json!({ "groups": [group] }),
        "group.add" | "group.show" => group,
        "device.list" => json!({ "devices": [device, device] }),
        "backup.verify" => json!({
            "path": HOSTILE, "account": HOSTILE, "created_at_ms": 1, "contacts": 1, "chats": 1, "messages": 1,
            "fingerprint": HOSTILE, "bytes": 1,
        }),
        "notify.status" => json!({
            "backend": HOSTILE, "server": HOSTILE, "capabilities": [HOSTILE], "reply": HOSTILE, "preview": "full",
            "dnd": false, "dnd_until_ms": 0, "muted": [HOSTILE],
        }),
        "key.show" => json!({
            "own": HOSTILE, "contact": HOSTILE, "fingerprint": HOSTILE, "safety_number": HOSTILE, "qr": HOSTILE,
            "verified": false, "changed_safety_number": HOSTILE,
        }),
        "send" => json!({ "messages": [{
            "to": HOSTILE, "id": "m", "chat": "c", "state": "failed",
            "error": { "code": "refused", "message": HOSTILE, "hint": HOSTILE },
        }] }),
        "events.subscribe" => return Reply::Events(vec![new_device, event]),
        _ => return Reply::Error(json!({ "code": "refused", "message": HOSTILE, "hint": HOSTILE })),
    })
}

fn is_harmless(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}'))
        && !text.lines().any(|line| line.starts_with("12:00 alice"))
}

#[test]
fn no_command_lets_an_escape_through() {
    let daemon = FakeDaemon::start(|method, _| hostile(method));
    let lines: &[&[&str]] = &[
        &["history", "bob"],
        &["chats"],
        &["outbox", "list"],
        &["contact", "list"],
        &["contact", "add", HOSTILE],
        &["status"],
        &["whoami"],
        &["notify", "status"],
        &["key", "show", "bob", "--qr"],
        &["send", HOSTILE, "-m", "x"],
        &["watch", "--once", "--timeout", "10s"],
        &["rpc", "history"],
        &["rpc", "nonsense"],
        &["mark-read", HOSTILE],
        &["group", "list"],
        &["group", "show", "ops"],
        &["group", "add", "ops", HOSTILE],
        &["group", "create", HOSTILE],
        &["group", "topic", "ops", HOSTILE],
        &["group", "leave", HOSTILE],
        &["device", "list"],
        &["device", "revoke", HOSTILE],
        &["backup", "verify", "/proc/self/status", "--passphrase-file", "/proc/sys/kernel/ostype"],
        &["watch", "--once", "--event", "message_received", "--timeout", "10s"],
        &["link", "h"],
    ];
    for line in lines {
        for json in [&[][..], &["--json"]] {
            let output = daemon.ctl(line).args(json).output().unwrap();
            let printed = format!("{}{}", stdout(&output), stderr(&output));
            assert!(!printed.is_empty() && is_harmless(&printed), "{line:?} {json:?}: {}", printed.escape_debug());
        }
    }
}

#[test]
fn json_keeps_every_character_of_a_text() {
    let daemon = FakeDaemon::start(|method, _| hostile(method));
    let output = daemon.ctl(&["history", "bob", "--json"]).output().unwrap();
    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result["messages"][0]["text"], HOSTILE);
}

#[test]
fn colours_appear_on_a_terminal_alone_and_not_under_no_color() {
    let daemon = FakeDaemon::start(|method, _| hostile(method));
    let mut command = daemon.ctl(&["status"]);
    command.env_remove("NO_COLOR");
    assert!(stdout(&on_a_terminal(&command, "")).contains("\u{1b}["));
    assert!(!stdout(&command.output().unwrap()).contains('\u{1b}'));
    assert!(!stdout(&on_a_terminal(command.env("NO_COLOR", "1"), "")).contains('\u{1b}'));
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let daemon = FakeDaemon::start(|method, _| hostile(method));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = daemon.ctl(&["history", "bob"]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn a_wrong_command_line_exits_with_1_and_help_with_0() {
    let daemon = FakeDaemon::start(|method, _| hostile(method));
    for line in [&["bogus"][..], &["send"], &["history"], &["chats", "--timeout", "soon"], &["outbox", "cancel"]] {
        let output = daemon.ctl(line).output().unwrap();
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{line:?}");
        let output = daemon.ctl(line).arg("--json").output().unwrap();
        let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
        assert_eq!((output.status.code(), &error["error"]["code"]), (Some(1), &json!("usage")));
    }
    for line in [&[][..], &["--help"], &["send", "--help"], &["--version"], &["completion", "bash"]] {
        let output = daemon.ctl(line).output().unwrap();
        assert!(output.status.success() && stdout(&output).contains("fastchatctl"), "{line:?}");
    }
    assert!(daemon.try_asked().is_none());
}

/// The commands that a help text lists, each with its summary.
fn listed(help: &str) -> Vec<(String, String)> {
    let commands = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    let lines = commands.lines().map(|line| line.trim().split_once(' ').unwrap_or((line.trim(), "")));
    lines
        .map(|(name, summary)| (name.to_owned(), summary.trim().to_owned()))
        .filter(|(name, _)| name != "help")
        .collect()
}

#[test]
fn every_command_has_a_line_of_help_and_an_example() {
    let daemon = FakeDaemon::start(|method, _| hostile(method));
    let help = |command: &[&str]| stdout(&daemon.ctl(command).arg("--help").output().unwrap());
    let mut seen = 0;
    for (name, summary) in listed(&help(&[])) {
        assert!(!summary.is_empty(), "{name} has no summary");
        let below = listed(&help(&[&name]));
        if below.is_empty() {
            assert!(help(&[&name]).contains("Example"), "{name} has no example");
            seen += 1;
        }
        for (verb, summary) in below {
            assert!(!summary.is_empty(), "{name} {verb} has no summary");
            assert!(help(&[&name, &verb]).contains("Example"), "{name} {verb} has no example");
            seen += 1;
        }
    }
    assert_eq!(seen, 56, "commands were added or lost");
}
