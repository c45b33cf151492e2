//! A server process of a test, in a directory of its own.
//!
//! **Invariant**: it ends with the test.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::ChildStdout,
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_fastchat-server");

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) link: String,
    pub(crate) dir: TempDir,
    config: String,
    child: Child,
}

impl Server {
    /// With cheap password hashes and otherwise the defaults.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With these lines in its configuration (tables without `[auth]`).
    pub(crate) async fn start_with(config: &str) -> Self {
        let config = format!("listen = \"127.0.0.1:0\"\n{config}\n[auth]\nbcrypt_cost = 4\n");
        Self::start_in(tempfile::tempdir().unwrap(), config).await
    }

    async fn start_in(dir: TempDir, config: String) -> Self {
        fs::write(dir.path().join("server.toml"), &config).unwrap();
        let mut child = Command::new(BINARY)
            .args(["run", "--config"])
            .arg(dir.path().join("server.toml"))
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = ChildStdout::from_std(child.stdout.take().unwrap()).unwrap();
        let mut lines = BufReader::new(stdout).lines();
        let mut line =
            async || tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap();
        let address = line().await.strip_prefix("listening on ").unwrap().parse().unwrap();
        let link = line().await;
        Self { address, link, dir, config, child }
    }

    /// Ends it without warning and starts it again on the same data.
    pub(crate) async fn kill_and_restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.restart().await
    }

    /// Checks that it stops cleanly, as it was asked to, and starts it again on the same data.
    pub(crate) async fn restart_when_stopped(mut self) -> Self {
        let status = tokio::task::block_in_place(|| self.child.wait()).unwrap();
        assert!(status.success(), "{status}");
        self.restart().await
    }

    async fn restart(mut self) -> Self {
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let config = self.config.clone();
        drop(self);
        Self::start_in(dir, config).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Runs another command of the program on this server's data.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        run(arguments, &self.dir.path().join("data"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program and waits for its end.
pub(crate) fn run(arguments: &[&str], data_dir: &Path) -> Output {
    Command::new(BINARY).args(arguments).arg("--data-dir").arg(data_dir).output().unwrap()
}
