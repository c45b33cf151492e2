//! A `fastchat-server` of a test, in a directory of its own.
//!
//! **Invariant**: it keeps its port and its data across restarts.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{Running, program};

/// Ports below those that the system gives to outgoing connections: a server that is down must not find its port taken.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A server; running or not.
pub struct Server {
    running: Option<Running>,
    port: u16,
    pin: String,
    data: PathBuf,
    environment: Vec<(OsString, OsString)>,
    place: TempDir,
}

impl Server {
    /// Starts one with cheap password hashes and otherwise the defaults.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// Starts one with these lines in its configuration (any tables but `[auth]` at their end).
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_with(config: &str) -> Result<Self> {
        let mut server = Self::prepare()?;
        for _ in 0..5 {
            server.port = free_port()?;
            server.configure(config)?;
            // Somebody else may have taken the port meanwhile.
            if server.restart().await.is_ok() {
                return Ok(server);
            }
        }
        server.restart().await.map(|()| server)
    }

    /// Starts one whose data are in `data`, with a variable more in its environment.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_on(data: &Path, variable: Option<(&str, &Path)>) -> Result<Self> {
        let mut server = Self::prepare()?;
        data.clone_into(&mut server.data);
        server.environment.extend(variable.map(|(name, value)| (name.into(), value.into())));
        server.port = free_port()?;
        server.configure("")?;
        server.restart().await?;
        Ok(server)
    }

    fn prepare() -> Result<Self> {
        let place = tempfile::Builder::new().prefix("fc-server-").tempdir()?;
        let data = place.path().join("data");
        Ok(Self { running: None, port: 0, pin: String::new(), data, environment: Vec::new(), place })
    }

    /// Replaces its configuration; counts from the next start on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        let listen = format!("listen = \"{}\"\n", self.address());
        fs::write(self.config(), format!("{listen}{config}\n[auth]\nbcrypt_cost = 4\n"))?;
        Ok(())
    }

    /// Starts it on the same port and data; does nothing when it runs.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut command = Command::new(program("fastchat-server")?);
        command.arg("run").arg("--config").arg(self.config()).arg("--data-dir").arg(self.data());
        command.env("RUST_LOG", "info").envs(self.environment.iter().cloned());
        self.running = Some(Running::start("server", command, self.place.path()).await?);
        let said = fs::read_to_string(self.place.path().join("server.out"))?;
        let link = said.lines().find(|line| line.starts_with("fastchat://")).context("the server's link")?;
        self.pin = link.split_once("pin=").context("the link's pin")?.1.to_owned();
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
            bail!("the server ended with {status}");
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.as_ref().map_or(Ok(()), |running| running.signal(signal))
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// The address of an account on it.
    #[must_use]
    pub fn account(&self, name: &str) -> String {
        format!("{name}@{}", self.address())
    }

    /// What it printed as its certificate's pin (`sha256:…`).
    #[must_use]
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// Its process id; 0 when it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.as_ref().map_or(0, Running::pid)
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.place.path().join("server.toml")
    }

    /// Runs another command of the program on its data.
    ///
    /// # Errors
    /// It cannot be run.
    pub async fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("fastchat-server")?);
        command.args(arguments).arg("--data-dir").arg(self.data()).arg("--config").arg(self.config());
        crate::within("a command of the server", async { Ok(command.kill_on_drop(true).output().await?) }).await
    }

    /// The directory of its configuration, data and logs.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.place.path()
    }
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let many = PORTS.end - PORTS.start;
    // Tests run as processes of their own: each begins elsewhere.
    let first = u16::try_from(std::process::id().wrapping_mul(37) % u32::from(many))?;
    for _ in 0..many {
        let port = PORTS.start + (first + NEXT.fetch_add(1, Ordering::Relaxed) % many) % many;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {} to {} is free", PORTS.start, PORTS.end)
}
