//! A daemon that does not run: it is started, or its absence is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::fake_daemon::{Reply, ctl, listen, stderr, stdout};

fn program(directory: &Path, name: &str, body: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// A pipe that a started program writes to, and a daemon that listens on `socket` from then on.
fn listens_when_started(pipe: &Path, socket: &Path) -> JoinHandle<Receiver<(String, Value)>> {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (pipe, socket) = (pipe.to_owned(), socket.to_owned());
    std::thread::spawn(move || {
        // Ends as soon as the program has written.
        fs::read(pipe).unwrap();
        listen(&socket, |_, _| Reply::Result(json!({ "direct": 1, "group": 0, "requests": 0 })))
    })
}

#[test]
fn a_daemon_that_does_not_run_is_started_and_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let (pipe, socket) = (directory.path().join("started"), directory.path().join("socket"));
    let listening = listens_when_started(&pipe, &socket);
    let daemon = program(directory.path(), "fastchatd", &format!("echo > '{}'", pipe.display()));
    let output = ctl(&socket, &["unread"]).env("FASTCHATD", daemon).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "1 direct, 0 in groups, 0 requests\n".into()));
    assert!(stderr(&output).starts_with("started fastchatd (pid "), "{}", stderr(&output));
    assert_eq!(listening.join().unwrap().recv().unwrap().0, "unread");
}

#[test]
fn an_installed_socket_unit_is_started_instead_of_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let (pipe, socket) = (directory.path().join("started"), directory.path().join("fastchat/fastchatd.sock"));
    fs::create_dir(directory.path().join("fastchat")).unwrap();
    let listening = listens_when_started(&pipe, &socket);
    let calls = directory.path().join("calls");
    program(
        directory.path(),
        "systemctl",
        &format!("echo \"$@\" >> '{}'\ncase \"$*\" in *start*) echo > '{}';; esac", calls.display(), pipe.display()),
    );
    let mut command = ctl(&socket, &["unread"]);
    command.env_remove("FASTCHAT_SOCKET").env("XDG_RUNTIME_DIR", directory.path()).env("PATH", directory.path());
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    let calls = fs::read_to_string(calls).unwrap();
    assert_eq!(calls, "--user --no-pager cat fastchatd.socket\n--user --no-pager start fastchatd.socket\n");
    assert_eq!(listening.join().unwrap().recv().unwrap().0, "unread");
}

#[test]
fn a_daemon_that_ends_at_once_is_told_with_its_status() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = program(directory.path(), "fastchatd", "exit 3");
    let output = ctl(&directory.path().join("socket"), &["unread"]).env("FASTCHATD", daemon).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(
        stderr(&output).contains("exit status: 3") && stderr(&output).contains("to see why"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_daemon_that_refuses_its_configuration_says_how_to_check_it() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = program(directory.path(), "fastchatd", "exit 78");
    let output = ctl(&directory.path().join("socket"), &["unread"]).env("FASTCHATD", daemon).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(stderr(&output).contains("--check-config"), "{}", stderr(&output));
}

#[test]
fn no_start_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = program(directory.path(), "fastchatd", "touch \"$(dirname \"$0\")/ran\"");
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
