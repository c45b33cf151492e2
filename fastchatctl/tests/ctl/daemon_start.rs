//! A daemon that does not run: it is started, or its absence is told.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::fake_daemon::{Reply, ctl, listen, stderr, stdout};

fn program(directory: &Path, body: &str) -> PathBuf {
    let path = directory.join("fastchatd");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn a_daemon_that_does_not_run_is_started_and_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let (fifo, socket) = (directory.path().join("started"), directory.path().join("socket"));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let daemon = program(directory.path(), &format!("echo > '{}'", fifo.display()));
    let listening = std::thread::spawn({
        let socket = socket.clone();
        move || {
            // Opens as soon as the program is started.
            File::open(fifo).unwrap();
            listen(&socket, |_, _| Reply::Result(json!({ "direct": 1, "group": 0, "requests": 0 })))
        }
    });
    let output = ctl(&socket, &["unread"]).env("FASTCHATD", daemon).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "1 direct, 0 in groups, 0 requests\n".into()));
    assert!(stderr(&output).starts_with("started fastchatd (pid "), "{}", stderr(&output));
    assert_eq!(listening.join().unwrap().recv().unwrap().0, "unread");
}

#[test]
fn a_daemon_that_ends_at_once_is_told_with_its_status() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = program(directory.path(), "exit 78");
    let output = ctl(&directory.path().join("socket"), &["unread"]).env("FASTCHATD", daemon).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(
        stderr(&output).contains("exit status: 78") && stderr(&output).contains("to see why"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn no_start_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = program(directory.path(), "touch \"$(dirname \"$0\")/ran\"");
    let mut command = ctl(&directory.path().join("socket"), &["unread", "--no-start"]);
    let output = command.env("FASTCHATD", daemon).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(stderr(&output).contains("next:") && !directory.path().join("ran").exists(), "{}", stderr(&output));
}

#[test]
fn a_daemon_that_does_not_answer_ends_the_call_at_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    // Connections are taken by the system, and nobody reads them.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let output = ctl(&socket, &["unread", "--timeout", "50ms"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("--timeout"), "{}", stderr(&output));
}
