//! Puts a server together, keeps it going, takes it down.
//!
//! **Invariant**: READY is said when connections are taken; after a failure of the store nothing more is said to
//! anybody.

use std::{
    env, fmt,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use fastchat_service::lifecycle::{self, Request, Signals};
use fastchat_store::{Accounts, Log, SqliteStore, Store};
use fastchat_wire::{AddressError, Link, ServerAddress};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{self, Passwords},
    certificate::{self, Identity},
    clock,
    config::{self, Config},
    connection::{Live, Services},
    core::Settings,
    handshakes::Checks,
    hub::Hub,
    listen,
    rates::{Origin, Rates},
};

/// Frames of more than 1 MiB that are read at a time, over all connections.
const LARGE_FRAMES: usize = 32;
/// How often old entries are looked for, and how many go in one transaction.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3_600);
const EXPIRY_BATCH: u32 = 1_000;
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// What the command line says; it wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--port`
    pub port: Option<u16>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
}

impl Options {
    /// The configuration with these options in it.
    ///
    /// # Errors
    /// The file is not valid.
    pub fn load(&self) -> Result<Config, config::ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(listen) = self.listen {
            config.listen = listen.to_string();
        }
        if let (Some(port), Ok(mut address)) = (self.port, config::listen_address(&config.listen)) {
            address.set_port(port);
            config.listen = address.to_string();
        }
        if let Some(data_dir) = &self.data_dir {
            config.data_dir = Some(data_dir.clone());
        }
        Ok(config)
    }
}

/// Where the data are: as configured, or systemd's state directory, or the system's or the user's own.
#[must_use]
pub fn data_dir(config: &Config) -> PathBuf {
    if let Some(configured) = &config.data_dir {
        return configured.clone();
    }
    if let Some(state) = env::var_os("STATE_DIRECTORY").filter(|state| !state.is_empty()) {
        let first = state.to_string_lossy().split(':').next().map(PathBuf::from);
        return first.unwrap_or_else(|| PathBuf::from(&state));
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/fastchat");
    }
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".local/share");
    env::var_os("XDG_DATA_HOME").map_or_else(home, PathBuf::from).join("fastchat-server")
}

/// Something is wrong with the configuration that only shows when it is used.
#[derive(Debug)]
pub struct Unusable(anyhow::Error);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Unusable {}

/// Runs a server until it is asked to stop or the store fails.
///
/// # Errors
/// It cannot start, or the store has failed.
pub async fn run(options: Options, config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("taking signals")?;
    let data_dir = data_dir(&config);
    let store = SqliteStore::open(&data_dir)?;
    let identity = certificate::load(&config.tls, &data_dir).map_err(Unusable)?;
    let address = config::listen_address(&config.listen).map_err(anyhow::Error::msg)?;
    let listener = listen::bind(address).with_context(|| format!("listening on {address}"))?;
    let bound = listener.local_addr()?;
    let server = Server::start(store, config, identity, listener).await?;
    announce(bound, &server.live.borrow())?;
    lifecycle::ready();
    tokio::select! {
        reason = server.store.failed() => anyhow::bail!("the database failed, stopping at once: {reason}"),
        () = serve_signals(&mut signals, &options, &server.live, &data_dir) => {}
    }
    tokio::select! {
        () = server.stop() => Ok(()),
        () = next_stop(&mut signals) => {
            tracing::warn!("stopping at once, as asked");
            Ok(())
        }
    }
}

/// A running server.
struct Server {
    store: SqliteStore,
    hub: Hub,
    live: watch::Sender<Arc<Live>>,
    stopping: CancellationToken,
    connections: tokio::task::JoinHandle<JoinSet<Origin>>,
}

impl Server {
    async fn start(
        store: SqliteStore,
        config: Config,
        identity: Identity,
        listener: TcpListener,
    ) -> anyhow::Result<Self> {
        let cost = config.auth.bcrypt_cost.small();
        if cost < 10 {
            tracing::warn!(
                cost,
                "auth.bcrypt_cost is for tests only: guessing passwords from a stolen database is easy"
            );
        }
        let secret = store.server_secret("fake salts", auth::random_bytes()?).await?;
        let passwords = Passwords::start(secret, cost).await?;
        let settings = settings(&config)?;
        let hub = Hub::start(store.clone(), settings, lifecycle::watchdog());
        let stopping = CancellationToken::new();
        let (live, watched) = watch::channel(Arc::new(Live { config, identity }));
        let services = Services {
            store: store.clone(),
            hub: hub.clone(),
            rates: Rates::start(),
            passwords,
            checks: Checks::default(),
            large_frames: Arc::new(Semaphore::new(LARGE_FRAMES)),
            links: watch::Sender::new(0),
            live: watched.clone(),
            stopping: stopping.clone(),
        };
        tokio::spawn(expire(store.clone(), watched));
        let connections = tokio::spawn(listen::accept(listener, services));
        Ok(Self { store, hub, live, stopping, connections })
    }

    /// No new connections, sessions sent away, cursors written, store closed.
    async fn stop(self) {
        let within = self.live.borrow().config.drain_seconds.seconds();
        lifecycle::stopping(within + Duration::from_secs(10));
        tracing::info!("stopping: sessions are sent away");
        self.stopping.cancel();
        let connections = self.connections.await;
        self.hub.drain(within).await;
        if let Ok(mut connections) = connections {
            let all = async { while connections.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(Duration::from_secs(6), all).await;
        }
        if let Err(error) = self.store.shut_down().await {
            tracing::error!(%error, "the database was not closed cleanly; nothing accepted is lost");
        }
        let (commits, calls) = self.store.commits_and_calls();
        tracing::info!(commits, calls, "stopped");
    }
}

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let [a, b, c, d, e, f, g, h, ..] = auth::random_bytes()?;
    let limits = &config.limits;
    Ok(Settings {
        window_entries: limits.window_entries.count(),
        window_bytes: limits.window_bytes.count(),
        session_bytes: limits.window_bytes.count().saturating_mul(4),
        page_bytes: 256 << 10,
        appends: 256,
        joinings: 32,
        cursor_wait_ms: 1_000,
        seed: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
    })
}

/// The two lines that people and scripts read.
fn announce(bound: SocketAddr, live: &Live) -> anyhow::Result<()> {
    let pin = live.identity.self_signed.then_some(live.identity.pin);
    let link = Link { server: public_address(bound, &live.config)?, pin };
    tracing::info!(%bound, %link, "the server is ready");
    let mut out = std::io::stdout().lock();
    // Whoever started us may not care to read it.
    let _ = writeln!(out, "listening on {bound}\n{link}").and_then(|()| out.flush());
    Ok(())
}

/// As configured, or the address it listens on, or the host's full name, or this machine.
fn public_address(bound: SocketAddr, config: &Config) -> Result<ServerAddress, AddressError> {
    if let Some(address) = &config.public_address {
        return Ok(address.clone());
    }
    let ip = bound.ip().to_canonical();
    if !ip.is_unspecified() {
        return ServerAddress::new(&ip.to_string(), bound.port());
    }
    // A host name without a domain seldom means anything elsewhere.
    let system = rustix::system::uname();
    let name = system.nodename().to_str().ok().filter(|name| name.contains('.'));
    let named = name.and_then(|name| ServerAddress::new(name, bound.port()).ok());
    named.map_or_else(|| ServerAddress::new("127.0.0.1", bound.port()), Ok)
}

/// Reloads when asked to; returns when asked to stop.
async fn serve_signals(signals: &mut Signals, options: &Options, live: &watch::Sender<Arc<Live>>, data_dir: &Path) {
    while signals.next().await == Request::Reload {
        lifecycle::reloading();
        // Not within the match: that would hold the borrow over the replacement.
        let old = Arc::clone(&live.borrow());
        match reload(options, &old.config, data_dir) {
            Ok(fresh) => {
                live.send_replace(Arc::new(fresh));
                tracing::info!("the configuration was read again");
            }
            Err(error) => tracing::error!("the old configuration stays: {error:#}"),
        }
        lifecycle::ready();
    }
}

fn reload(options: &Options, old: &Config, data_dir: &Path) -> anyhow::Result<Live> {
    let mut config = options.load()?;
    // These are built into what is running.
    config.auth.bcrypt_cost = old.auth.bcrypt_cost;
    config.limits.window_entries = old.limits.window_entries;
    config.limits.window_bytes = old.limits.window_bytes;
    let identity = certificate::load(&config.tls, data_dir)?;
    Ok(Live { config, identity })
}

async fn next_stop(signals: &mut Signals) {
    while signals.next().await != Request::Stop {}
}

/// Removes what is older than the retention.
async fn expire(store: SqliteStore, live: watch::Receiver<Arc<Live>>) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    loop {
        interval.tick().await;
        let days = live.borrow().config.storage.retention_days.get();
        let before_ms = clock::now_ms().saturating_sub(days * DAY_MS);
        loop {
            match store.expire(before_ms, EXPIRY_BATCH).await {
                Ok(count) if count == EXPIRY_BATCH => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old entries were not removed; trying again in an hour");
                    break;
                }
            }
        }
    }
}
