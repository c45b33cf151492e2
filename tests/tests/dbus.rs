//! The daemon on a session bus: the same API from `busctl`, signals without texts, and starting by socket or bus.
//!
//! **Invariant**: each bus is private to its test.

use std::{collections::HashMap, process::Stdio};

use anyhow::{Context, Result, ensure};
use fastchat_ipc::{BUS_NAME, Empty, ROOT_PATH, account_path, contact_path, conversation_path, method};
use fastchat_tests::{Daemon, PASSWORD, Person, PrivateBus, Running, Server, program, within};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use zbus::{
    MatchRule, Message, MessageStream,
    message::Type,
    zvariant::{OwnedObjectPath, OwnedValue},
};

/// Whether a program is there; says that its test is skipped when not.
fn is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    if !found {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// Runs `busctl` on a bus; gives the answer's data, or what it complained about.
async fn busctl(bus: &PrivateBus, arguments: &[&str]) -> Result<Result<Value, String>> {
    let mut command = Command::new("busctl");
    command.arg(format!("--address={}", bus.address())).args(["--json=short", "--timeout=60"]).args(arguments);
    let output = within("busctl", async { Ok(command.kill_on_drop(true).output().await?) }).await?;
    if !output.status.success() {
        return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let text = String::from_utf8(output.stdout)?;
    let value: Value = if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text)? };
    Ok(Ok(value["data"].clone()))
}

/// Calls a method of ours by `busctl`.
async fn call(bus: &PrivateBus, path: &str, member: &str, arguments: &[&str]) -> Result<Result<Value, String>> {
    let (interface, member) = member.split_once('.').context("Interface.Member")?;
    let interface = format!("{BUS_NAME}.{interface}");
    busctl(bus, &[&["call", BUS_NAME, path, &interface, member], arguments].concat()).await
}

/// Waits until a property has a value: objects and properties follow what happens a moment later, with a signal.
async fn property(bus: &PrivateBus, path: &str, name: &str, expected: &Value) -> Result<()> {
    let (interface, name) = name.split_once('.').context("Interface.Property")?;
    let interface = format!("{BUS_NAME}.{interface}");
    let mut signals = Signals::of(bus).await?;
    within(&format!("{name} of {path} is {expected}"), async {
        while busctl(bus, &["get-property", BUS_NAME, path, &interface, name]).await? != Ok(expected.clone()) {
            signals.0.next().await.context("the bus went away")??;
        }
        Ok(())
    })
    .await
}

/// The value of a variant in `busctl`'s JSON.
fn value<'a>(dict: &'a Value, key: &str) -> &'a Value {
    &dict[key]["data"]
}

async fn on_the_bus(name: &str, bus: &PrivateBus) -> Result<Person> {
    let mut daemon = Daemon::prepare(name)?;
    daemon.set("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let person = Person::with(name, daemon).await?;
    bus.owned(BUS_NAME).await?;
    Ok(person)
}

#[tokio::test]
async fn busctl_can_do_what_the_socket_can() -> Result<()> {
    if !is_there("busctl") {
        return Ok(());
    }
    let (server, bus) = (Server::start().await?, PrivateBus::start().await?);
    let mut alice = on_the_bus("alice", &bus).await?;
    let mut bob = Person::registered("bob", &server).await?;
    let address = server.account("alice");
    let options = ["2", "pin", "s", server.pin(), "key_store", "s", "file"];
    let register = [&["ssa{sv}", &address, PASSWORD][..], &options].concat();
    let made = call(&bus, ROOT_PATH, "Daemon.Register", &register).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(value(&made[0], "account"), &Value::from(address.clone()));
    alice.online().await?;
    let account = account_path(&address);
    property(&bus, &account, "Account.State", &"online".into()).await?;
    let send = |to: &'static str| ["assa{sv}", "1", to, "over the bus", "1", "wait", "s", "delivered"];
    let sent = call(&bus, &account, "Account.Send", &send("bob")).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(value(&value(&sent[0], "messages")[0], "state"), "delivered", "{sent}");
    let chat = value(&value(&sent[0], "messages")[0], "chat").as_str().context("the chat")?.to_owned();
    assert_eq!(bob.heard("alice").await?, ["over the bus"]);
    let refused = call(&bus, &account, "Account.Send", &send("nobody")).await?;
    ensure!(
        refused.clone().is_err_and(|text| text.contains("nobody") && text.contains("check the spelling")),
        "{refused:?}"
    );
    bob.deliver("alice", "an answer").await?;
    let path = conversation_path(&address, &chat);
    property(&bus, &path, "Conversation.Unread", &1.into()).await?;
    let history = call(&bus, &path, "Conversation.History", &["a{sv}", "1", "limit", "u", "10"]).await?;
    let history = history.map_err(anyhow::Error::msg)?;
    let texts: Vec<&Value> = value(&history[0], "messages")
        .as_array()
        .context("messages")?
        .iter()
        .map(|message| value(message, "text"))
        .collect();
    assert_eq!(texts, ["over the bus", "an answer"]);
    let contact = contact_path(&address, "bob");
    property(&bus, &contact, "Contact.State", &"accepted".into()).await?;
    call(&bus, &contact, "Contact.SetAlias", &["sa{sv}", "Robert", "0"]).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(alice.contact("bob").await?.alias, "Robert");
    let status = call(&bus, ROOT_PATH, "Daemon.Status", &["a{sv}", "0"]).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(value(&status[0], "pid"), &Value::from(alice.daemon.pid()));
    Ok(())
}

/// What a daemon says on the bus.
struct Signals(MessageStream);

impl Signals {
    async fn of(bus: &PrivateBus) -> Result<Self> {
        let rule = MatchRule::builder().msg_type(Type::Signal).sender(BUS_NAME)?.build();
        Ok(Self(MessageStream::for_match_rule(rule, &bus.connect().await?, Some(1024)).await?))
    }

    /// Waits for a signal of that name on an object.
    async fn next(
        &mut self,
        member: &str,
        wanted: impl Fn(&Message) -> bool,
        seen: &mut Vec<Message>,
    ) -> Result<Message> {
        within(&format!("{member} comes"), async {
            loop {
                let message = self.0.next().await.context("the bus went away")??;
                seen.push(message.clone());
                if message.header().member().is_some_and(|name| name.as_str() == member) && wanted(&message) {
                    return Ok(message);
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn signals_tell_of_what_happens_by_ids_and_never_by_texts() -> Result<()> {
    let (server, bus) = (Server::start().await?, PrivateBus::start().await?);
    let mut alice = on_the_bus("alice", &bus).await?;
    let mut bob = Person::registered("bob", &server).await?;
    alice.call::<method::Register>(&Person::sign_in(&server.account("alice"))).await?;
    alice.online().await?;
    let (mut signals, mut seen) = (Signals::of(&bus).await?, Vec::new());
    alice.deliver("bob", "hello bob").await?;
    let account = account_path(&server.account("alice"));
    let is_chat = |message: &Message| {
        let body = message.body();
        let added = body.deserialize::<(OwnedObjectPath, HashMap<String, HashMap<String, OwnedValue>>)>();
        added.is_ok_and(|(path, _)| path.as_str().starts_with(&format!("{account}/conversations/")))
    };
    let added = signals.next("InterfacesAdded", is_chat, &mut seen).await?;
    let (path, _): (OwnedObjectPath, HashMap<String, HashMap<String, OwnedValue>>) = added.body().deserialize()?;
    let sent = bob.deliver("alice", "the hidden text").await?;
    let received = signals.next("MessageReceived", |_| true, &mut seen).await?;
    let (cursor, conversation, id): (String, OwnedObjectPath, String) = received.body().deserialize()?;
    assert_eq!((&conversation, &id), (&path, &sent.id));
    assert!(!cursor.is_empty());
    let is_unread = |message: &Message| {
        let body = message.body();
        let changed = body.deserialize::<(String, HashMap<String, OwnedValue>, Vec<String>)>();
        changed
            .is_ok_and(|(interface, changed, _)| interface.ends_with("Conversation") && changed.contains_key("Unread"))
    };
    // It may have come before the other signal.
    if !seen.iter().any(&is_unread) {
        signals.next("PropertiesChanged", is_unread, &mut seen).await?;
    }
    for message in &seen {
        let bytes = message.data().bytes();
        let leaks = bytes.windows(6).any(|window| window == b"hidden");
        assert!(!leaks, "the text is in {message:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_first_client_of_a_handed_over_socket_starts_the_daemon() -> Result<()> {
    if !is_there("systemd-socket-activate") {
        return Ok(());
    }
    let server = Server::start().await?;
    let daemon = Daemon::prepare("alice")?;
    std::fs::create_dir_all(daemon.socket().parent().context("the socket's directory")?)?;
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(daemon.socket());
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "FASTCHAT_SOCKET"] {
        command.arg("--setenv").arg(format!("{name}={}", daemon.variable(name)));
    }
    command.arg(program("fastchatd")?).env_remove("NOTIFY_SOCKET").env_remove("DBUS_SESSION_BUS_ADDRESS");
    let mut activator = command.stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut said = BufReader::new(activator.stderr.take().context("what it says")?).lines();
    within("systemd listens", async {
        while let Some(line) = said.next_line().await? {
            if line.contains("Listening on") {
                return Ok(());
            }
        }
        anyhow::bail!("it ended")
    })
    .await?;
    // The activator becomes the daemon: the same process answers.
    let mut client = daemon.client().await?;
    let status = client.call::<method::DaemonStatus>(&Empty {}).await?;
    assert_eq!(Some(status.pid), activator.id());
    client.call::<method::Register>(&Person::sign_in(&server.account("alice"))).await?;
    Ok(())
}

#[tokio::test]
async fn the_first_call_of_the_name_on_the_bus_starts_the_daemon() -> Result<()> {
    let bus = PrivateBus::start().await?;
    let daemon = Daemon::prepare("alice")?;
    let mut environment = vec![format!("DBUS_SESSION_BUS_ADDRESS={}", bus.address())];
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "FASTCHAT_SOCKET"] {
        environment.push(format!("{name}={}", daemon.variable(name)));
    }
    let exec = format!("/usr/bin/env {} {}", environment.join(" "), program("fastchatd")?.display());
    let description = format!("[D-BUS Service]\nName={BUS_NAME}\nExec={exec}\n");
    std::fs::write(bus.services().join(format!("{BUS_NAME}.service")), description)?;
    let client = bus.connect().await?;
    let reload =
        client.call_method(Some("org.freedesktop.DBus"), "/", Some("org.freedesktop.DBus"), "ReloadConfig", &());
    within("the bus reads the description", async { Ok(reload.await?) }).await?;
    let options = HashMap::<String, OwnedValue>::new();
    let interface = format!("{BUS_NAME}.Daemon");
    let answer = within("the daemon answers", async {
        Ok(client.call_method(Some(BUS_NAME), ROOT_PATH, Some(interface.as_str()), "Status", &options).await?)
    })
    .await?;
    let status: HashMap<String, OwnedValue> = answer.body().deserialize()?;
    assert!(!bool::try_from(status["locked"].clone())?);
    // The same one answers on its socket.
    daemon.end_foreign().await
}

#[tokio::test]
async fn without_a_bus_the_socket_serves_and_a_second_daemon_is_refused() -> Result<()> {
    let mut daemon = Daemon::prepare("alice")?;
    daemon.start().await?;
    let mut second = Running::spawn("second", daemon.command("fastchatd")?, &daemon.home())?;
    assert_eq!(second.ended().await?.code(), Some(1));
    assert!(second.log().contains("a daemon runs already"), "{}", second.log());
    daemon.client().await?.call::<method::DaemonStatus>(&Empty {}).await?;
    Ok(())
}
