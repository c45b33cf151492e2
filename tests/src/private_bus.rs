//! A message bus for one test, without activatable services unless the test gives some.
//!
//! **Invariant**: it ends with the value that holds it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use zbus::{Connection, connection::Builder, fdo::DBusProxy};

use crate::within;

/// A running `dbus-daemon`.
pub struct PrivateBus {
    _daemon: Child,
    address: String,
    place: TempDir,
}

impl PrivateBus {
    /// Starts one. Files in its `services` directory are activatable services; the environment of what it starts is the
    /// test's own.
    ///
    /// # Errors
    /// `dbus-daemon` is not installed or does not start.
    pub async fn start() -> Result<Self> {
        let place = tempfile::Builder::new().prefix("fc-bus-").tempdir()?;
        let services = place.path().join("services");
        fs::create_dir(&services)?;
        let config = place.path().join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <servicedir>{}</servicedir>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
            place.path().join("socket").display(),
            services.display(),
        );
        fs::write(&config, text)?;
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .stderr(File::create(place.path().join("log"))?)
            .kill_on_drop(true)
            .spawn()
            .context("dbus-daemon runs (Debian: apt-get install dbus-daemon)")?;
        let output = daemon.stdout.take().context("its output")?;
        let mut address = String::new();
        // Printed once it listens.
        let line = async { Ok(BufReader::new(output).read_line(&mut address).await?) };
        within("the bus listens", line).await?;
        Ok(Self { _daemon: daemon, address: address.trim().to_owned(), place })
    }

    /// What `DBUS_SESSION_BUS_ADDRESS` shall be.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where descriptions of activatable services go.
    #[must_use]
    pub fn services(&self) -> PathBuf {
        self.place.path().join("services")
    }

    /// Its directory.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// Waits until somebody owns a name on it.
    ///
    /// # Errors
    /// Nobody does in time.
    pub async fn owned(&self, name: &str) -> Result<()> {
        let proxy = DBusProxy::new(&self.connect().await?).await?;
        within(&format!("somebody owns {name}"), async {
            let mut changes = proxy.receive_name_owner_changed_with_args(&[(0, name)]).await?;
            while !proxy.name_has_owner(name.try_into()?).await? {
                changes.next().await.context("the bus went away")?;
            }
            Ok(())
        })
        .await
    }

    /// A connection to it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn connect(&self) -> Result<Connection> {
        let builder = Builder::address(self.address.as_str())?;
        within("a connection to the private bus", async { Ok(builder.build().await?) }).await
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        // Also what the services say that it started.
        eprintln!(
            "--- the log of the bus ---\n{}",
            fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
        );
    }
}
