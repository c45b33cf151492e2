//! A `fastchatd` of a test, with a home of its own.
//!
//! **Invariant**: it sees no session of the tester: no bus, no display, no runtime directory but its own.

use std::{
    ffi::OsString,
    fs,
    os::unix::{fs::DirBuilderExt, process::ExitStatusExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use fastchat_ipc::{Client, Empty, method};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{Ctl, PATIENCE, Running, program, within};

/// Names a daemon's fault point.
const CRASH_AT: &str = "FASTCHAT_CRASH_AT";

/// A daemon; running or not.
pub struct Daemon {
    running: Option<Running>,
    name: String,
    environment: Vec<(OsString, OsString)>,
    home: TempDir,
}

impl Daemon {
    /// A home for a daemon that does not run yet.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn prepare(name: &str) -> Result<Self> {
        let home = tempfile::Builder::new().prefix(&format!("fc-{name}-")).tempdir()?;
        for directory in ["config/fastchat", "data"] {
            fs::create_dir_all(home.path().join(directory))?;
        }
        // As the login manager makes it.
        fs::DirBuilder::new().mode(0o700).create(home.path().join("run"))?;
        let mut daemon = Self { running: None, name: name.to_owned(), environment: Vec::new(), home };
        daemon.configure("")?;
        daemon.set("HOME", daemon.home.path().to_owned());
        daemon.set("XDG_CONFIG_HOME", daemon.home.path().join("config"));
        daemon.set("XDG_DATA_HOME", daemon.home.path().join("data"));
        daemon.set("XDG_RUNTIME_DIR", daemon.home.path().join("run"));
        daemon.set("FASTCHAT_SOCKET", daemon.socket());
        Ok(daemon)
    }

    /// Sets a variable of its environment; counts from the next start on.
    pub fn set(&mut self, variable: &str, value: impl Into<OsString>) {
        self.environment.push((variable.into(), value.into()));
    }

    /// Lets it end at a fault point (see CONTRIBUTING.md), or at none; counts from the next start on.
    pub fn crash_at(&mut self, point: Option<&str>) {
        self.environment.retain(|(variable, _)| variable != CRASH_AT);
        if let Some(point) = point {
            self.set(CRASH_AT, point);
        }
    }

    /// Waits until it has ended at its fault point.
    ///
    /// # Errors
    /// It goes on, or ended in another way.
    pub async fn crashed(&mut self) -> Result<()> {
        let mut running = self.running.take().context("it does not run")?;
        let status = running.ended().await?;
        if status.signal() != Some(Signal::ABORT.as_raw()) || !running.log().contains("ends at the fault point") {
            bail!("{}'s daemon ended with {status}, and not at its fault point", self.name);
        }
        running.is_expected();
        Ok(())
    }

    /// What it wrote into its log, in all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join(format!("{}.log", self.name))).unwrap_or_default()
    }

    /// Copies its data directory, as a backup of the machine would; it must not run.
    ///
    /// # Errors
    /// It runs, or the files cannot be copied.
    pub fn save(&self) -> Result<TempDir> {
        ensure!(self.running.is_none(), "{}'s daemon runs", self.name);
        let copy = tempfile::Builder::new().prefix("fc-copy-").tempdir()?;
        copy_directory(&self.home.path().join("data"), copy.path())?;
        Ok(copy)
    }

    /// Puts an older copy in the place of its data directory; it must not run.
    ///
    /// # Errors
    /// It runs, or the files cannot be copied.
    pub fn restore(&self, copy: &TempDir) -> Result<()> {
        ensure!(self.running.is_none(), "{}'s daemon runs", self.name);
        let data = self.home.path().join("data");
        fs::remove_dir_all(&data)?;
        copy_directory(copy.path(), &data)
    }

    /// A variable of its environment; empty when it is not set.
    #[must_use]
    pub fn variable(&self, name: &str) -> String {
        let found = self.environment.iter().rev().find(|(variable, _)| variable == name);
        found.map_or_else(String::new, |(_, value)| value.to_string_lossy().into_owned())
    }

    /// Puts these lines into its configuration; they count from the next start on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        fs::write(self.config(), format!("log = \"info,fastchatd=debug\"\n{config}"))?;
        Ok(())
    }

    /// Starts it; does nothing when it runs.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&mut self) -> Result<()> {
        if self.running.is_none() {
            let command = self.command("fastchatd")?;
            self.running = Some(Running::start(&self.name, command, self.home.path()).await?);
        }
        Ok(())
    }

    /// kill -9.
    ///
    /// # Errors
    /// It cannot be collected.
    pub async fn kill(&mut self) -> Result<()> {
        match self.running.take() {
            Some(mut running) => running.kill().await,
            None => Ok(()),
        }
    }

    /// Stops it as the service manager does.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let status = running.terminate().await?;
        if !status.success() {
            bail!("{}'s daemon ended with {status}", self.name);
        }
        Ok(())
    }

    /// Ends a daemon that something else has started in this home, and waits until it is gone.
    ///
    /// # Errors
    /// None answers, or it does not end in time.
    pub async fn end_foreign(&self) -> Result<()> {
        let mut client = self.client().await?;
        let pid = client.call::<method::DaemonStatus>(&Empty {}).await?.pid;
        let mut events = client.subscribe("").await?;
        kill_process(Pid::from_raw(pid.cast_signed()).context("its process id")?, Signal::TERM)?;
        // Its connections end with it.
        within("the daemon ends", async {
            while events.next().await.is_ok() {}
            Ok(())
        })
        .await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.as_ref().map_or(Ok(()), |running| running.signal(signal))
    }

    /// A connection to it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn client(&self) -> Result<Client> {
        let path = self.socket();
        Client::connect(&path, PATIENCE).await.with_context(|| format!("{}'s daemon", self.name))
    }

    /// `fastchatctl` for this daemon.
    #[must_use]
    pub fn ctl(&self) -> Ctl<'_> {
        Ctl::new(self)
    }

    /// One of the programs in this daemon's environment.
    ///
    /// # Errors
    /// The program is not built.
    pub fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(program(name)?);
        for variable in ["DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "NOTIFY_SOCKET", "LISTEN_FDS"] {
            command.env_remove(variable);
        }
        command.env("NO_COLOR", "1").env("TZ", "UTC").envs(self.environment.iter().cloned());
        Ok(command)
    }

    /// Its process id; 0 when it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.as_ref().map_or(0, Running::pid)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("run/fastchat/fastchatd.sock")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.home.path().join("config/fastchat/config.toml")
    }

    /// Its home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
