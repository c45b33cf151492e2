//! A message bus for one test, without activatable services.
//!
//! **Invariant**: its daemon ends with the value that holds it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use fastchatd::bus::SessionBus;
use tempfile::TempDir;
use zbus::{Connection, connection::Builder};

pub(crate) struct PrivateBus {
    daemon: Child,
    address: String,
    _directory: TempDir,
}

impl PrivateBus {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("bus.conf");
        let listen = directory.path().join("bus");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
            listen.display()
        );
        std::fs::write(&config, text).expect("the bus's configuration");
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            // It complains when it may not raise its own limits.
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon runs (Debian: apt-get install dbus-daemon)");
        let mut address = String::new();
        let output = daemon.stdout.take().expect("its output");
        // Printed once it listens.
        BufReader::new(output).read_line(&mut address).expect("its address");
        Self { daemon, address: address.trim().to_owned(), _directory: directory }
    }

    pub(crate) fn address(&self) -> SessionBus {
        SessionBus::At(self.address.clone())
    }

    pub(crate) async fn connect(&self) -> Connection {
        let builder = Builder::address(self.address.as_str()).expect("an address");
        builder.build().await.expect("a connection to the private bus")
    }

    /// Ends the bus.
    pub(crate) fn stop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        self.stop();
    }
}
