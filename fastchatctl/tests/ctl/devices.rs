//! Linking, backups, passwords: secrets stay off the command line, and only a person says that two numbers are equal.

use std::fs;

use serde_json::{Value, json};

use crate::commands::result;
use crate::fake_daemon::{FakeDaemon, Reply, failed, on_a_terminal, run_with_input, stderr, stdout};

fn daemon() -> FakeDaemon {
    FakeDaemon::start(|method, _| {
        let mut result = result(method);
        if method == "daemon.status" {
            result["locked"] = json!(false);
        }
        Reply::Result(result)
    })
}

#[test]
fn a_new_device_shows_the_code_and_comes_in_when_the_numbers_are_the_same() {
    let daemon = daemon();
    let output = on_a_terminal(&daemon.ctl(&["link", "h", "--device-name", "tablet"]), "yes\n");
    let shown = stdout(&output);
    assert!(output.status.success(), "{shown}");
    for part in ["CODE-1", "▀", "fastchatctl device link", "123 456", "alice@h:1", "is on this device now"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let begun = daemon.asked_for("account.link_begin");
    assert_eq!((&begun["address"], &begun["device_name"]), (&json!("h:8887"), &json!("tablet")));
    assert_eq!(daemon.asked_for("account.link_wait")["link"], "l1");
    assert_eq!(daemon.asked_for("account.link_finish"), json!({ "link": "l1", "accept": true }));
}

#[test]
fn different_numbers_end_the_link_on_the_new_device() {
    let daemon = daemon();
    let output = on_a_terminal(&daemon.ctl(&["link", "h", "--no-qr"]), "no\n");
    assert_eq!(output.status.code(), Some(4), "{}", stdout(&output));
    assert!(stdout(&output).contains("nothing was given away") && !stdout(&output).contains('▀'));
    assert_eq!(daemon.asked_for("account.link_finish")["accept"], false);
}

#[test]
fn a_device_lets_another_in_when_the_numbers_are_the_same() {
    let daemon = daemon();
    let output = on_a_terminal(&daemon.ctl(&["device", "link"]), "CODE -1\nyes\n");
    let shown = stdout(&output);
    assert!(output.status.success() && shown.contains("tablet") && shown.contains("123 456"), "{shown}");
    assert_eq!(daemon.asked_for("device.link")["code"], "CODE-1");
    assert_eq!(daemon.asked_for("device.link_confirm")["accept"], true);

    let output = on_a_terminal(&daemon.ctl(&["device", "link", "CODE-1"]), "no\n");
    assert_eq!(output.status.code(), Some(4), "{}", stdout(&output));
    assert_eq!(daemon.asked_for("device.link_confirm")["accept"], false);
}

#[test]
fn without_a_terminal_nobody_can_compare_and_nothing_begins() {
    let daemon = daemon();
    for line in [&["link", "h"][..], &["device", "link", "CODE-1"]] {
        let output = daemon.ctl(line).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        assert!(stderr(&output).contains("link_"), "{}", stderr(&output));
    }
    let output = on_a_terminal(&daemon.ctl(&["link", "alice@h"]), "");
    assert!(stdout(&output).contains("fastchatctl link h"), "{}", stdout(&output));
    assert!(daemon.try_asked().is_none());
}

#[test]
fn a_link_that_nobody_takes_ends() {
    let daemon = FakeDaemon::start(|method, _| match method {
        "account.link_wait" => failed("timed_out", "nobody has taken the code yet"),
        "daemon.status" => {
            let mut status = result(method);
            status["locked"] = json!(false);
            Reply::Result(status)
        }
        other => Reply::Result(result(other)),
    });
    let output = on_a_terminal(&daemon.ctl(&["link", "h", "--no-qr", "--timeout", "1s"]), "");
    assert_eq!(output.status.code(), Some(3), "{}", stdout(&output));
    assert!(stdout(&output).contains("begin anew"), "{}", stdout(&output));
}

/// A daemon that sees the files in `seen` alone, and writes what it is asked for there.
fn with_files(seen: &'static str) -> FakeDaemon {
    FakeDaemon::start(move |method, params| {
        let path = params["path"].as_str().unwrap_or_default();
        match method {
            "backup.create" if path.contains(seen) => fs::write(path, "the backup").unwrap(),
            "backup.create" => return failed("refused", "the file system is read-only"),
            "backup.verify" | "backup.restore" if !path.contains(seen) => {
                return failed("not_found", "there is no such file");
            }
            "backup.verify" | "backup.restore" => assert_eq!(fs::read_to_string(path).unwrap(), "the backup"),
            _ => {}
        }
        Reply::Result(result(method))
    })
}

/// `backup VERB FILE` in the test's directory, with the passphrase on stdin.
fn backup(daemon: &FakeDaemon, verb: &str, file: &str) -> std::process::Output {
    let mut ctl = daemon.ctl(&["backup", verb, file, "--passphrase-stdin"]);
    ctl.current_dir(daemon.path("")).env("XDG_DATA_HOME", daemon.path("data"));
    run_with_input(ctl, b"open sesame\n")
}

#[test]
fn a_backup_goes_by_its_absolute_path_where_the_daemon_has_no_directory_of_the_usual_name() {
    let daemon = with_files("/a.backup");
    for (verb, method) in [("create", "backup.create"), ("verify", "backup.verify"), ("restore", "backup.restore")] {
        let output = backup(&daemon, verb, "a.backup");
        assert!(output.status.success(), "{verb}: {}", stderr(&output));
        assert!(stdout(&output).contains("1 contact, 2 chats, 3 messages"), "{}", stdout(&output));
        let asked = daemon.asked_for(method);
        assert_eq!(asked["passphrase"], "open sesame");
        let path = asked["path"].as_str().unwrap();
        assert!(path.starts_with('/') && path.ends_with("/a.backup"), "{path}");
    }
}

#[test]
fn a_backup_comes_through_the_sandbox_of_the_daemon_and_leaves_nothing_there() {
    let daemon = with_files("/data/fastchat/");
    fs::create_dir_all(daemon.path("data/fastchat")).unwrap();
    for verb in ["create", "verify", "restore"] {
        let output = backup(&daemon, verb, "a.backup");
        assert!(output.status.success(), "{verb}: {}", stderr(&output));
        assert_eq!(fs::read_to_string(daemon.path("a.backup")).unwrap(), "the backup");
        assert_eq!(fs::read_dir(daemon.path("data/fastchat/staging")).unwrap().count(), 0, "{verb}");
    }
}

#[test]
fn a_backup_overwrites_nothing_and_a_place_that_is_none_is_told_before_the_passphrase() {
    let daemon = with_files("/a.backup");
    fs::write(daemon.path("a.backup"), "older").unwrap();
    for (verb, file) in [("create", "a.backup"), ("create", "none/b.backup"), ("verify", "b.backup"), ("restore", ".")]
    {
        let output = backup(&daemon, verb, file);
        assert_eq!(output.status.code(), Some(7), "{verb} {file}");
        assert!(stderr(&output).contains("next: "), "{}", stderr(&output));
    }
    assert_eq!(fs::read_to_string(daemon.path("a.backup")).unwrap(), "older");
    assert!(daemon.try_asked().is_none());
}

#[test]
fn json_names_the_file_where_the_person_wanted_it() {
    let daemon = with_files("/data/fastchat/");
    fs::create_dir_all(daemon.path("data/fastchat")).unwrap();
    let passphrase = daemon.path("passphrase");
    fs::write(&passphrase, "open sesame\n").unwrap();
    let mut ctl = daemon.ctl(&["backup", "create", "a.backup", "--json", "--passphrase-file"]);
    ctl.arg(passphrase).current_dir(daemon.path("")).env("XDG_DATA_HOME", daemon.path("data"));
    let mut shown: Value = serde_json::from_str(&stdout(&ctl.output().unwrap())).unwrap();
    assert!(shown["path"].as_str().unwrap().ends_with("/a.backup"), "{shown}");
    shown["path"] = result("backup.create")["path"].clone();
    assert_eq!(shown, result("backup.create"));
}

#[test]
fn a_password_is_changed_with_both_on_stdin_or_in_files() {
    let daemon = daemon();
    let output = run_with_input(daemon.ctl(&["password", "--password-stdin", "--end-other-devices"]), b"old\nnew\n");
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    let asked = daemon.asked_for("account.password");
    assert_eq!(asked, json!({ "account": "", "old": "old", "new": "new", "end_other_devices": true }));

    for (name, text) in [("old", "one\n"), ("new", "two\n")] {
        fs::write(daemon.path(name), text).unwrap();
    }
    let mut ctl = daemon.ctl(&["password", "--json"]);
    ctl.arg("--password-file").arg(daemon.path("old")).arg("--new-password-file").arg(daemon.path("new"));
    assert_eq!(stdout(&ctl.output().unwrap()), "{}\n");
    let asked = daemon.asked_for("account.password");
    assert_eq!(
        (&asked["old"], &asked["new"], &asked["end_other_devices"]),
        (&json!("one"), &json!("two"), &json!(false))
    );

    for wrong in [&b"old\n"[..], b"same\nsame\n", b"\nnew\n"] {
        let output = run_with_input(daemon.ctl(&["password", "--password-stdin"]), wrong);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    }
}

#[test]
fn a_new_identity_is_made_with_the_password_from_stdin() {
    let daemon = daemon();
    let output = run_with_input(daemon.ctl(&["key", "rotate", "--yes", "--password-stdin"]), b"secret\n");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(daemon.asked_for("key.rotate"), json!({ "account": "", "password": "secret" }));
}

#[test]
fn a_scanned_code_is_compared_by_the_daemon() {
    let daemon = daemon();
    let code = format!("fastchat-safety:{}", "12345".repeat(12));
    let output = daemon.ctl(&["key", "verify", "bob", "--qr", &code]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(daemon.asked_for("key.verify")["safety_number"], ["12345"; 12].join(" "));
    let output = daemon.ctl(&["key", "verify", "bob", "--qr", "fastchat-key:bob@h:1:ab"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
