//! Notifications, with a made-up service and with a real one.
//!
//! **Invariant**: what a stranger wrote is in no notification; each bus and display is private to its test.

mod service;

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use fastchat_ipc::{BUS_NAME, MarkRead, OfContact, method};
use fastchat_tests::{Daemon, Person, PrivateBus, Server, within};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::interval,
};

use service::{Asked, NAME, PATH, Service};

async fn on_the_bus(name: &str, bus: &PrivateBus, server: &Server) -> Result<Person> {
    let mut daemon = Daemon::prepare(name)?;
    daemon.set("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let mut person = Person::with(name, daemon).await?;
    bus.owned(BUS_NAME).await?;
    person.call::<method::Register>(&Person::sign_in(&server.account(name))).await?;
    person.online().await?;
    Ok(person)
}

#[tokio::test]
async fn a_notification_shows_can_be_answered_and_goes_when_it_is_read() -> Result<()> {
    let (server, bus) = (Server::start().await?, PrivateBus::start().await?);
    let mut service = Service::start(&bus).await?;
    let mut bob = on_the_bus("bob", &bus, &server).await?;
    let mut alice = Person::registered("alice", &server).await?;
    alice.deliver("bob", "the text of a stranger").await?;
    let Asked::Show { summary, body, .. } = service.next().await? else { bail!("nothing is shown") };
    assert!(!format!("{summary}{body}").contains("text of a stranger"), "{summary}: {body}");
    assert!(body.contains("alice"), "{summary}: {body}");
    bob.call::<method::AcceptContact>(&OfContact { contact: "alice".into(), ..OfContact::default() }).await?;
    alice.deliver("bob", "a <b>bold</b> text").await?;
    // What stood there for the request may be withdrawn first.
    let (id, actions) = loop {
        if let Asked::Show { id, summary, body, actions, .. } = service.next().await?
            && body.contains("text")
        {
            assert!(summary.contains("alice"), "{summary}");
            assert!(body.contains("a &lt;b&gt;bold&lt;/b&gt; text"), "{body}");
            break (id, actions);
        }
    };
    assert!(actions.iter().any(|action| action == "inline-reply"), "{actions:?}");
    service.reply(id, "answered where it showed").await?;
    alice.hears("bob", "answered where it showed").await?;
    alice.deliver("bob", "one more").await?;
    let shown = loop {
        if let Asked::Show { id, body, .. } = service.next().await?
            && body.contains("one more")
        {
            break id;
        }
    };
    bob.call::<method::MarkChatRead>(&MarkRead { chat: "alice".into(), ..MarkRead::default() }).await?;
    while !matches!(service.next().await?, Asked::Close(id) if id == shown) {}
    Ok(())
}

#[tokio::test]
async fn messages_of_one_chat_replace_each_other_and_a_muted_chat_is_silent() -> Result<()> {
    let (server, bus) = (Server::start().await?, PrivateBus::start().await?);
    let mut service = Service::start(&bus).await?;
    let mut bob = on_the_bus("bob", &bus, &server).await?;
    let mut alice = Person::registered("alice", &server).await?;
    bob.deliver("alice", "hello").await?;
    alice.deliver("bob", "one").await?;
    let Asked::Show { id, .. } = service.next().await? else { bail!("nothing is shown") };
    alice.deliver("bob", "two").await?;
    let Asked::Show { replaces, body, .. } = service.next().await? else { bail!("nothing is shown") };
    assert_eq!(replaces, id);
    assert!(body.contains("two"), "{body}");
    let chat = fastchat_ipc::OfChat { chat: "alice".into(), ..fastchat_ipc::OfChat::default() };
    bob.call::<method::MuteChat>(&chat).await?;
    alice.deliver("bob", "in silence").await?;
    bob.call::<method::UnmuteChat>(&chat).await?;
    bob.daemon.ctl().ok(&["notify", "preview", "sender"]).await?;
    alice.deliver("bob", "the hidden one").await?;
    loop {
        if let Asked::Show { summary, body, .. } = service.next().await? {
            assert!(!body.contains("silence") && !body.contains("hidden"), "{summary}: {body}");
            if summary.contains("alice") || body.contains("new message") {
                return Ok(());
            }
        }
    }
}

/// An X server without a screen.
struct Display {
    _server: Child,
    name: String,
}

impl Display {
    async fn start() -> Result<Self> {
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "640x360x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(server.stdout.take().context("its output")?).lines();
        let number = within("the X server is ready", async { lines.next_line().await?.context("it ended") }).await?;
        Ok(Self { _server: server, name: format!(":{}", number.trim()) })
    }
}

/// Where pictures are kept: `$FASTCHAT_ARTIFACTS`, else `artifacts` in the build directory.
fn artifacts() -> Result<PathBuf> {
    let directory = match std::env::var_os("FASTCHAT_ARTIFACTS").filter(|directory| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = std::env::current_exe()?;
            own.ancestors().nth(3).context("the build directory")?.join("artifacts")
        }
    };
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    if !found {
        eprintln!("skipped: {name} is not installed (Debian: apt-get install dunst xvfb imagemagick)");
    }
    found
}

#[tokio::test]
async fn dunst_shows_a_message() -> Result<()> {
    if !["dunst", "Xvfb", "import", "identify"].into_iter().all(is_there) {
        return Ok(());
    }
    let (server, bus, display) = (Server::start().await?, PrivateBus::start().await?, Display::start().await?);
    let _dunst = Command::new("dunst")
        .env("DISPLAY", &display.name)
        .env("DBUS_SESSION_BUS_ADDRESS", bus.address())
        .env("XDG_CONFIG_HOME", bus.place())
        .env("HOME", bus.place())
        .env_remove("WAYLAND_DISPLAY")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    bus.owned(NAME).await?;
    let mut bob = on_the_bus("bob", &bus, &server).await?;
    let mut alice = Person::registered("alice", &server).await?;
    bob.deliver("alice", "hello alice").await?;
    let status = bob.call::<method::NotificationStatus>(&fastchat_ipc::Empty {}).await?;
    assert!(status.backend == "service" && status.server.contains("dunst"), "{status:?}");
    alice.deliver("bob", "hello bob, this is a real notification").await?;
    let client = bus.connect().await?;
    let dunst = zbus::proxy::Builder::<zbus::Proxy<'_>>::new(&client)
        .destination(NAME)?
        .path(PATH)?
        .interface("org.dunstproject.cmd0")?
        // It does not tell of every change.
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await?;
    within("dunst displays it", async {
        // It tells nobody when it has drawn.
        let mut looks = interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            if dunst.get_property::<u32>("displayedLength").await? > 0 {
                return Ok(());
            }
        }
    })
    .await?;
    let picture = artifacts()?.join("notification.png");
    within("the picture shows something", async {
        let mut looks = interval(Duration::from_millis(100));
        loop {
            looks.tick().await;
            let mut import = Command::new("import");
            import.args(["-window", "root"]).arg(&picture).env("DISPLAY", &display.name).kill_on_drop(true);
            anyhow::ensure!(import.status().await?.success(), "no picture was taken");
            let mut identify = Command::new("identify");
            let colours = identify.args(["-format", "%k"]).arg(&picture).kill_on_drop(true).output().await?;
            // An empty screen has one.
            if String::from_utf8_lossy(&colours.stdout).trim().parse::<u32>().is_ok_and(|colours| colours > 3) {
                return Ok(());
            }
        }
    })
    .await?;
    eprintln!("the picture is {}", picture.display());
    bob.call::<method::MarkChatRead>(&MarkRead { chat: "alice".into(), ..MarkRead::default() }).await?;
    within("dunst withdraws it", async {
        let mut looks = interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            if dunst.get_property::<u32>("displayedLength").await? == 0 {
                return Ok(());
            }
        }
    })
    .await
}
