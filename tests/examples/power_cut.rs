//! A power cut, without the cut: the disk is an image file, and what has not reached it at some moment is lost.
//!
//! `power_cut DIRECTORY [PRELOAD]` mounts an ext4 image in DIRECTORY (needs root and loop devices), lets a server and
//! two daemons keep their data on it, and copies the image while messages flow. A copy has what was written through to
//! the device and nothing that only the page cache had. Everything goes on from the copy, as after a power cut, and
//! every message that was acknowledged before has to be there, once, in order. PRELOAD is a library that makes fsync do
//! nothing: with it something must be lost, or the test could not fail.
//!
//! Exit code 0: nothing was lost; 3: something was; 1: it could not be tried.
//!
//! **Invariant**: while the image is copied, nothing that is tested runs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use fastchat_ipc::{Client, MessageState, Send, Wait, method};
use fastchat_tests::{Daemon, Person, Server};
use rand::RngExt;
use rustix::process::Signal;
use tokio::{sync::mpsc, time::timeout};

/// Power cuts.
const ROUNDS: usize = 4;
/// How long the daemons have to come to the same state again.
const RECOVERY: Duration = Duration::from_secs(20);

/// A disk in a file.
struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Disk {
    fn make(place: &Path) -> Result<Self> {
        let disk = Self { image: place.join("disk.img"), mounted_at: place.join("disk") };
        fs::create_dir_all(&disk.mounted_at)?;
        fs::File::create(&disk.image)?.set_len(256 << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    /// The journal is committed when somebody asks for it, and not by itself: what nobody asked for is lost.
    fn mount(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop,commit=300"]).arg(&self.image).arg(&self.mounted_at))
    }

    /// Keeps what is on the disk now, and nothing else.
    fn snapshot(&self) -> Result<PathBuf> {
        let copy = self.image.with_extension("copy");
        run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&copy))?;
        Ok(copy)
    }

    /// Goes on from a snapshot.
    fn go_back_to(&self, snapshot: &Path) -> Result<()> {
        run(Command::new("umount").arg(&self.mounted_at))?;
        fs::rename(snapshot, &self.image)?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is being ended may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.mounted_at).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Sends without end; tells of each text that the server has accepted.
async fn talk(mut client: Client, round: usize, accepted: mpsc::UnboundedSender<String>) -> Result<()> {
    for number in 0.. {
        let text = format!("{round}.{number}");
        let params = Send { to: vec!["bob".into()], text: text.clone(), wait: Wait::Sent, ..Send::default() };
        let sent = client.call::<method::SendMessage>(&params).await?;
        let state = sent.messages.first().context("an answer")?.state;
        if matches!(state, MessageState::Sent | MessageState::Delivered) && accepted.send(text).is_err() {
            break;
        }
    }
    Ok(())
}

struct World {
    disk: Disk,
    server: Server,
    alice: Person,
    bob: Person,
    accepted: Vec<String>,
}

impl World {
    async fn make(place: &Path, preload: Option<&Path>) -> Result<Self> {
        let disk = Disk::make(place)?;
        let preload = preload.map(|library| ("LD_PRELOAD", library));
        let server = Server::start_on(&disk.mounted_at.join("server"), preload).await?;
        let mut people = Vec::new();
        for name in ["alice", "bob"] {
            let mut daemon = Daemon::prepare(name)?;
            daemon.set("XDG_DATA_HOME", disk.mounted_at.join(name));
            if let Some((variable, library)) = preload {
                daemon.set(variable, library);
            }
            let mut person = Person::with(name, daemon).await?;
            person.call::<method::Register>(&Person::sign_in(&server.account(name))).await?;
            person.online().await?;
            people.push(person);
        }
        let (Some(mut bob), Some(mut alice)) = (people.pop(), people.pop()) else { bail!("two people") };
        alice.deliver("bob", "first").await?;
        if preload.is_some() {
            // What is to be lost is what is acknowledged from now on, not the stores themselves.
            run(Command::new("sync").arg("-f").arg(&disk.mounted_at))?;
        }
        bob.daemon.stop().await?;
        Ok(Self { disk, server, alice, bob, accepted: vec!["first".to_owned()] })
    }

    /// Messages flow, the power goes, everything starts again.
    async fn cut(&mut self, round: usize) -> Result<()> {
        let enough = rand::rng().random_range(20..120);
        let (tell, mut told) = mpsc::unbounded_channel();
        let talking = tokio::spawn(talk(self.alice.daemon.client().await?, round, tell));
        for _ in 0..enough {
            let next = timeout(RECOVERY, told.recv()).await.context("messages flow")?;
            self.accepted.push(next.context("the sender ended")?);
        }
        self.server.signal(Signal::STOP)?;
        self.alice.daemon.signal(Signal::STOP)?;
        // Acknowledged before they stopped, though heard of only now.
        while let Ok(text) = told.try_recv() {
            self.accepted.push(text);
        }
        let snapshot = self.disk.snapshot()?;
        talking.abort();
        self.alice.daemon.kill().await?;
        self.server.kill().await?;
        self.disk.go_back_to(&snapshot)
    }

    /// What is wrong after the cut; nothing when all is well.
    async fn losses(&mut self) -> Result<()> {
        self.server.restart().await?;
        self.alice.daemon.start().await?;
        self.bob.daemon.start().await?;
        let last = self.accepted.last().context("something was accepted")?;
        let came = timeout(RECOVERY, self.bob.hears("alice", last)).await;
        let heard = self.bob.heard("alice").await?;
        let written = self.alice.texts("bob").await?;
        let mut losses = Vec::new();
        for (whose, texts) in [("the server", &heard), ("alice's daemon", &written)] {
            let missing = self.accepted.iter().filter(|text| !texts.contains(text)).count();
            // What was on its way may have come as well; the order of the rest is theirs.
            let known: Vec<&String> = texts.iter().filter(|text| self.accepted.contains(text)).collect();
            if missing > 0 {
                losses.push(format!("{whose} lost {missing} of {} messages", self.accepted.len()));
            } else if known != self.accepted.iter().collect::<Vec<_>>() {
                losses.push(format!("{whose} repeats or reorders: {known:?}"));
            }
        }
        ensure!(losses.is_empty(), "{}", losses.join("; "));
        came.context("the last message comes")??;
        self.bob.daemon.stop().await
    }
}

/// Whether nothing was lost.
async fn try_it(place: &Path, preload: Option<&Path>) -> Result<bool> {
    let mut world = World::make(place, preload).await?;
    for round in 1..=ROUNDS {
        world.cut(round).await?;
        if let Err(loss) = world.losses().await {
            println!("power cut {round}: {loss:#}");
            return Ok(false);
        }
        println!("power cut {round}: all {} acknowledged messages are there, once, in order", world.accepted.len());
    }
    Ok(true)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let (place, preload) = match arguments.as_slice() {
        [place] => (place, None),
        [place, preload] => (place, Some(preload.as_path())),
        _ => {
            eprintln!("usage: power_cut DIRECTORY [PRELOAD]");
            return ExitCode::from(1);
        }
    };
    match try_it(place, preload).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            eprintln!("power_cut: {error:#}");
            ExitCode::from(1)
        }
    }
}
