//! `register` and `login`: secrets, and whom to trust.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::fake_daemon::{FakeDaemon, Reply, on_a_terminal, run_with_input, stderr, stdout};

const PIN: &str = "sha256:abababababababababababababababababababababababababababababababab";

fn account() -> Reply {
    Reply::Result(json!({
        "account": "alice@h:8887", "state": "online", "reason": "", "device": "d", "device_name": "laptop",
        "fingerprint": "ab", "pin": "", "outbox": 0,
    }))
}

fn status(locked: bool, key_store: &str) -> Reply {
    Reply::Result(json!({
        "version": "0.1.0", "pid": 1, "uptime_ms": 1, "locked": locked, "key_store": key_store, "bus": false,
        "cursor": "1", "accounts": [],
    }))
}

/// A server with a key of its own, on a machine without a Secret Service.
fn untrusted() -> FakeDaemon {
    FakeDaemon::start(|method, params| {
        if method == "daemon.status" {
            return status(false, "auto");
        }
        if params["pin"] == "" && params["accept_new"] == false {
            return Reply::Error(json!({
                "code": "untrusted_server", "message": format!("not trusted: {PIN}"), "data": { "pin": PIN },
            }));
        }
        if params["key_store"] == "auto" {
            let hint = "choose with `--key-store passphrase` or `--key-store file`";
            return Reply::Error(json!({ "code": "refused", "message": "no Secret Service", "hint": hint }));
        }
        account()
    })
}

fn trusting() -> FakeDaemon {
    FakeDaemon::start(|method, _| if method == "daemon.status" { status(false, "auto") } else { account() })
}

#[test]
fn an_unknown_server_is_refused_where_nobody_can_be_asked() {
    let daemon = untrusted();
    let output = run_with_input(daemon.ctl(&["register", "alice@h", "--password-stdin"]), b"secret\n");
    assert_eq!((output.status.code(), stdout(&output)), (Some(4), String::new()));
    assert!(stderr(&output).contains(PIN) && stderr(&output).contains("--accept-new"), "{}", stderr(&output));
    let asked = daemon.asked_for("account.register");
    assert_eq!((&asked["address"], &asked["password"]), (&json!("alice@h:8887"), &json!("secret")));
    assert!(daemon.try_asked().is_none(), "it was asked again");
}

#[test]
fn accept_new_and_file_are_consent_enough_for_a_script() {
    let daemon = untrusted();
    let arguments = ["register", "alice@h", "--password-stdin", "--accept-new", "--key-store", "file", "--invite", "T"];
    let output = run_with_input(daemon.ctl(&arguments), b"secret\n");
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert_eq!(stdout(&output), "registered alice@h:8887 on this device (laptop)\n");
    let asked = daemon.asked_for("account.register");
    assert_eq!(
        (&asked["accept_new"], &asked["key_store"], &asked["invite"]),
        (&json!(true), &json!("file"), &json!("T"))
    );
}

#[test]
fn at_a_terminal_the_fingerprint_is_shown_and_yes_trusts_it() {
    let daemon = untrusted();
    let file = daemon.path("password");
    fs::write(&file, "secret\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let command = daemon.ctl(&["register", "alice@h", "--password-file", file.to_str().unwrap()]);
    let output = on_a_terminal(&command, "yes\nfile\n");
    assert!(output.status.success() && stdout(&output).contains(PIN), "{}", stdout(&output));
    let pins: Vec<Value> = (0..3).map(|_| daemon.asked_for("account.register")["pin"].clone()).collect();
    assert_eq!(pins, [json!(""), json!(PIN), json!(PIN)]);

    let output = on_a_terminal(&command, "no\n");
    assert_eq!(output.status.code(), Some(4), "{}", stdout(&output));
}

#[test]
fn a_changed_server_key_is_loud_and_never_a_question() {
    let daemon = FakeDaemon::start(|method, _| match method {
        "daemon.status" => status(false, "file"),
        _ => {
            Reply::Error(json!({ "code": "server_changed", "message": "the key has changed", "data": { "pin": PIN } }))
        }
    });
    let file = daemon.path("password");
    fs::write(&file, "secret").unwrap();
    let output = on_a_terminal(&daemon.ctl(&["login", "alice@h", "--password-file", file.to_str().unwrap()]), "yes\n");
    assert_eq!(output.status.code(), Some(4));
    assert!(stdout(&output).contains("THE SERVER'S KEY HAS CHANGED"), "{}", stdout(&output));
    assert!(stdout(&output).contains("others can read"), "{}", stdout(&output));
    daemon.asked_for("account.login");
    assert!(daemon.try_asked().is_none(), "it was asked again");
}

#[test]
fn accept_new_does_not_cover_a_server_that_is_known_already() {
    let known = json!({
        "account": "bob@h:8887", "state": "untrusted", "reason": "", "device": "", "device_name": "",
        "fingerprint": "", "pin": PIN, "outbox": 0,
    });
    let daemon = FakeDaemon::start(move |method, _| match method {
        "daemon.status" => {
            let Reply::Result(mut status) = status(false, "file") else { panic!("it is a result") };
            status["accounts"] = json!([known]);
            Reply::Result(status)
        }
        _ => account(),
    });
    run_with_input(daemon.ctl(&["register", "alice@h", "--password-stdin", "--accept-new"]), b"secret\n");
    assert_eq!(daemon.asked_for("account.register")["pin"], PIN);
    run_with_input(daemon.ctl(&["register", "alice@other", "--password-stdin", "--accept-new"]), b"secret\n");
    assert_eq!(daemon.asked_for("account.register")["pin"], "");
}

#[test]
fn a_link_gives_the_server_and_its_pin() {
    let daemon = trusting();
    let link = format!("fastchat://chat.example.org:9000?pin={PIN}");
    let output = run_with_input(daemon.ctl(&["login", "alice", "--server", &link, "--password-stdin"]), b"secret\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let asked = daemon.asked_for("account.login");
    assert_eq!((&asked["address"], &asked["pin"]), (&json!("alice@chat.example.org:9000"), &json!(PIN)));
}

#[test]
fn a_wrong_address_or_pin_is_refused_before_a_password_is_asked_for() {
    let daemon = trusting();
    for arguments in [
        &["register", "alice"][..],
        &["register", "al ice@h"],
        &["register", "alice@h:99999"],
        &["register", "alice@h", "--pin", "sha256:ab"],
        &["register", "alice@h", "--server", "other"],
        &["register", "alice", "--server", "http://h"],
    ] {
        let output = daemon.ctl(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
    assert!(daemon.try_asked().is_none());
}

#[test]
fn a_passphrase_comes_from_a_file_for_scripts_and_only_for_a_new_store() {
    let daemon = trusting();
    let file = daemon.path("passphrase");
    fs::write(&file, "open sesame\n").unwrap();
    let arguments = ["login", "a@h", "--password-stdin", "--key-store", "passphrase", "--passphrase-file"];
    let output = run_with_input(
        {
            let mut ctl = daemon.ctl(&arguments);
            ctl.arg(&file);
            ctl
        },
        b"secret\n",
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(daemon.asked_for("account.login")["passphrase"], "open sesame");
}

#[test]
fn no_password_without_a_terminal_says_how_to_give_it() {
    let daemon = trusting();
    let mut setsid = Command::new("setsid");
    let ctl = daemon.ctl(&["register", "alice@h"]);
    setsid.arg("--wait").arg(ctl.get_program()).args(ctl.get_args());
    setsid.envs(ctl.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run_with_input(setsid, b"");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("--password-stdin"), "{}", stderr(&output));
}

#[test]
fn a_new_identity_needs_a_yes() {
    let daemon = trusting();
    let arguments = ["login", "alice@h", "--new-identity", "--password-stdin"];
    assert_eq!(run_with_input(daemon.ctl(&arguments), b"secret\n").status.code(), Some(1));
    assert!(daemon.try_asked().is_none());
    let output = run_with_input(
        {
            let mut ctl = daemon.ctl(&arguments);
            ctl.arg("--yes");
            ctl
        },
        b"secret\n",
    );
    assert!(output.status.success());
    assert_eq!(daemon.asked_for("account.login")["new_identity"], true);
}

#[test]
fn a_locked_store_is_told_before_a_password_is_asked_for() {
    let daemon = FakeDaemon::start(|_, _| status(true, "passphrase"));
    let output = daemon.ctl(&["login", "alice@h"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(stderr(&output).contains("fastchatctl unlock"), "{}", stderr(&output));
}

#[test]
fn unlock_sends_the_passphrase_where_one_protects_the_store() {
    let daemon = FakeDaemon::start(|method, _| status(method == "daemon.status", "passphrase"));
    let output = run_with_input(daemon.ctl(&["unlock", "--passphrase-stdin"]), b"open sesame\n");
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "unlocked\n".into()));
    assert_eq!(daemon.asked_for("daemon.unlock")["passphrase"], "open sesame");
}
