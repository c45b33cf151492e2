//! `fastchatctl` and the servers' and daemons' command lines, as people and scripts use them.
//!
//! **Invariant**: exit codes are those of DESIGN section 7; what comes from others never reaches a terminal unescaped.

use std::fs;

use anyhow::Result;
use fastchat_ipc::{MessageState, method};
use fastchat_tests::{Daemon, PASSWORD, Person, Server, program, within};
use serde_json::Value;
use tokio::process::Command;

async fn two(server: &Server) -> Result<(Person, Person)> {
    tokio::try_join!(Person::registered("alice", server), Person::registered("bob", server))
}

#[tokio::test]
async fn each_way_of_failing_has_its_exit_code() -> Result<()> {
    let mut server = Server::start().await?;
    let mut alice = Person::registered("alice", &server).await?;
    let away = Daemon::prepare("away")?;
    away.ctl().run(&["status"]).await?.expect(6)?;
    let ctl = alice.daemon.ctl();
    ctl.run(&["send"]).await?.expect(1)?;
    ctl.run(&["no-such-command"]).await?.expect(1)?;
    ctl.run(&["send", "nobody", "-m", "hi"]).await?.expect(7)?;
    ctl.run(&["history", "nobody"]).await?.expect(7)?;
    ctl.run(&["watch", "--once", "--event", "message_received", "--timeout", "50ms"]).await?.expect(3)?;
    let failure = ctl.run(&["--json", "history", "nobody"]).await?.expect(7)?.failure()?;
    assert_eq!((&failure["code"], &failure["exit"]), (&"not_found".into(), &7.into()));
    assert!(failure["hint"].is_string() && failure["message"].is_string(), "{failure}");
    server.stop().await?;
    let queued = ["send", "bob", "-m", "later", "--wait", "sent", "--timeout", "100ms"];
    let ended = ctl.run(&queued).await?.expect(8)?;
    assert!(ended.stderr.contains("kept"), "{}", ended.stderr);
    ctl.run(&["send", "bob", "-m", "later"]).await?.expect(0)?;
    let other = Person::sign_in(&server.account("carol"));
    assert_eq!(alice.refusal::<method::Register>(&other).await?.code, fastchat_ipc::ErrorCode::Unreachable);
    let (address, password) = (server.account("carol"), format!("{PASSWORD}\n"));
    alice.daemon.ctl().fed(&password, &["register", &address, "--password-stdin"]).await?.expect(3)?;
    Ok(())
}

#[tokio::test]
async fn a_script_sends_from_a_pipe_and_reads_json() -> Result<()> {
    let server = Server::start().await?;
    let (alice, mut bob) = two(&server).await?;
    let sent = alice.daemon.ctl().fed("two\nlines\n", &["send", "bob", "--json", "--wait", "delivered"]).await?;
    let sent = sent.expect(0)?.json()?;
    assert_eq!(sent["messages"][0]["state"], "delivered");
    alice.daemon.ctl().fed("through a dash", &["send", "bob", "-"]).await?.expect(0)?;
    bob.hears("alice", "through a dash").await?;
    assert_eq!(bob.heard("alice").await?, ["two\nlines", "through a dash"]);
    let ctl = bob.daemon.ctl();
    let watched = ctl.ok(&["watch", "--json", "--since", "0", "--once", "--event", "message_received"]).await?;
    let event: Value = serde_json::from_str(&watched)?;
    assert_eq!((&event["event"], &event["message"]["text"]), (&"message_received".into(), &"two\nlines".into()));
    assert!(event["cursor"].is_string() && event["account"].is_string(), "{event}");
    let rest = ctl.ok(&["watch", "--json", "--since", "0", "--timeout", "200ms"]).await?;
    let events = rest.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    assert!(events.iter().filter(|event| event["event"] == "message_received").count() == 2, "{rest}");
    let chats: Value = serde_json::from_str(&ctl.ok(&["chats", "--json"]).await?)?;
    assert_eq!((&chats["chats"][0]["unread"], &chats["chats"][0]["request"]), (&2.into(), &true.into()));
    let history: Value = serde_json::from_str(&ctl.ok(&["history", "alice", "-n", "1", "--json"]).await?)?;
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!(history["more"], true);
    let bar: Value = serde_json::from_str(&ctl.ok(&["unread", "--format", "waybar"]).await?)?;
    assert!(bar["text"].is_string() && bar["class"].is_string(), "{bar}");
    let found: Value = serde_json::from_str(&ctl.ok(&["rpc", "rpc.discover"]).await?)?;
    assert_eq!(found["methods"].as_array().map(Vec::len), Some(fastchat_ipc::METHODS.len()));
    let unknown = ctl.run(&["--json", "rpc", "history", "{\"chat\":\"alice\",\"lmit\":1}"]).await?.expect(1)?;
    assert!(unknown.failure()?["message"].as_str().is_some_and(|text| text.contains("lmit")));
    Ok(())
}

#[tokio::test]
async fn what_others_write_never_reaches_a_terminal_unescaped() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, bob) = two(&server).await?;
    let hostile = "before\u{1b}[2J\u{1b}]0;title\u{7}\u{202e}after\r\nerror: fake";
    alice.deliver("bob", hostile).await?;
    bob.daemon.ctl().ok(&["contact", "accept", "alice"]).await?;
    alice.deliver("bob", hostile).await?;
    let ctl = bob.daemon.ctl();
    for command in [
        &["history", "alice"][..],
        &["chats"],
        &["watch", "--since", "0", "--timeout", "200ms"],
        &["history", "alice", "--json"],
    ] {
        let shown = ctl.ok(command).await?;
        assert!(shown.contains("before") && shown.contains("after"), "{command:?}: {shown}");
        assert!(!shown.chars().any(|c| c == '\u{202e}' || (c.is_control() && c != '\n')), "{command:?}: {shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with("error: fake")), "{command:?}: {shown}");
    }
    let history: Value = serde_json::from_str(&ctl.ok(&["history", "alice", "--json"]).await?)?;
    assert_eq!(history["messages"][0]["text"], hostile);
    Ok(())
}

#[tokio::test]
async fn a_malformed_configuration_names_file_line_and_column_and_exits_78() -> Result<()> {
    let place = tempfile::tempdir()?;
    let file = place.path().join("made-up.toml");
    for (text, at) in
        [("\n\nno_such_key = 1\n", ":3:1:"), ("log = \"info\"\ndata_dir = [\n", ":2:"), ("log = 7", ":1:7:")]
    {
        fs::write(&file, text)?;
        for (name, arguments) in [("fastchatd", &[][..]), ("fastchat-server", &["run"])] {
            let mut command = Command::new(program(name)?);
            command.args(arguments).arg("--config").arg(&file).env("HOME", place.path()).kill_on_drop(true);
            let output = within(name, async { Ok(command.output().await?) }).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{name}: {said}");
            assert!(said.contains(&format!("{}{at}", file.display())), "{name}: {said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn ctl_starts_a_daemon_when_none_answers() -> Result<()> {
    let mut daemon = Daemon::prepare("alice")?;
    daemon.set("FASTCHATD", program("fastchatd")?);
    let status = daemon.ctl().may_start().ok(&["status", "--json"]).await?;
    let status: Value = serde_json::from_str(&status)?;
    // It is on its own: the next command finds the same one.
    let again: Value = serde_json::from_str(&daemon.ctl().ok(&["status", "--json"]).await?)?;
    assert_eq!(again["pid"], status["pid"]);
    daemon.end_foreign().await
}

#[tokio::test]
async fn ctl_says_why_a_daemon_does_not_start() -> Result<()> {
    let daemon = Daemon::prepare("alice")?;
    daemon.configure("no_such_key = 1\n")?;
    let ended = daemon.ctl().may_start().run(&["status"]).await?.expect(6)?;
    assert!(ended.stderr.contains("configuration") && ended.stderr.contains("--check-config"), "{}", ended.stderr);
    Ok(())
}

#[tokio::test]
async fn completions_name_every_command() -> Result<()> {
    let daemon = Daemon::prepare("nobody")?;
    for shell in ["bash", "zsh", "fish"] {
        let script = daemon.ctl().ok(&["completion", shell]).await?;
        for command in ["register", "mark-read", "outbox", "doctor"] {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_ctl_leaves_its_message_whole_or_not_there() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "first").await?;
    server.signal(rustix::process::Signal::STOP)?;
    // While it waits for the delivery that does not come.
    let mut command = alice.daemon.command("fastchatctl")?;
    command.args(["send", "bob", "-m", "second", "--wait", "delivered"]).kill_on_drop(true);
    let mut ctl = command.spawn()?;
    alice
        .until("the message is queued", async |alice| {
            let outbox = alice.call::<method::ListOutbox>(&fastchat_ipc::OfAccount::default()).await?.messages;
            Ok(outbox.iter().any(|message| message.state == MessageState::Queued).then_some(()))
        })
        .await?;
    ctl.kill().await?;
    server.signal(rustix::process::Signal::CONT)?;
    alice.deliver("bob", "third").await?;
    assert_eq!(bob.heard("alice").await?, ["first", "second", "third"]);
    Ok(())
}
