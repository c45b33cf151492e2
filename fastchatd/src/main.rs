//! `fastchatd`: the command line of the daemon.
//!
//! **Invariant**: exit code 78 says "the configuration is wrong: starting again will not help", 1 anything else.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use fastchat_service::{lifecycle, logging};
use fastchatd::{
    api::Api,
    bus::{self, SessionBus},
    config::{Config, ConfigError},
    core::AlertDefaults,
    engine::{self, EngineSettings},
    notify::{self, NotifySettings},
    rpc,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// `EX_CONFIG` of sysexits.
const CONFIG_IS_WRONG: u8 = 78;
/// Alerts that wait for the notifier at most.
const ALERTS: usize = 64;

/// The FastChat daemon: holds your connection, your keys and your messages
///
/// One runs per user. `fastchatctl` starts it when it is needed; systemd can do so too (fastchatd.socket).
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Configuration file; by default $XDG_CONFIG_HOME/fastchat/config.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where store and keys are; by default $XDG_DATA_HOME/fastchat
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The socket to answer on; by default $FASTCHAT_SOCKET, else $XDG_RUNTIME_DIR/fastchat/fastchatd.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Say whether the configuration is valid, and end
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    // A task that panics must not leave half a daemon behind.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    match start(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fastchatd: {error:#}");
            ExitCode::from(if error.is::<ConfigError>() { CONFIG_IS_WRONG } else { 1 })
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let mut config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        println!("the configuration is valid");
        return Ok(());
    }
    config.data_dir = cli.data_dir.unwrap_or(config.data_dir);
    config.socket = cli.socket.unwrap_or(config.socket);
    logging::start(&config.log)?;
    // Two threads: one person's traffic is little, and each thread costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run(config: Config) -> anyhow::Result<()> {
    let (listener, socket) = match rpc::from_systemd()? {
        Some(listener) => (listener, "the service manager's".to_owned()),
        None => {
            let socket = config.socket.display().to_string();
            let listener = rpc::bind(&config.socket);
            (listener.with_context(|| format!("the socket {socket} cannot be used"))?, socket)
        }
    };
    let mut signals = lifecycle::Signals::install()?;
    let stop = CancellationToken::new();
    let (api, ends) = Api::new();
    let (alerts, alerted) = mpsc::channel(ALERTS);
    let settings = EngineSettings {
        data: config.data_dir.clone(),
        alerts: AlertDefaults { enabled: config.notify.enabled, preview: config.notify.preview },
    };
    let notifications = NotifySettings {
        enabled: config.notify.enabled,
        reply_command: Some(config.notify.reply_command).filter(|command| !command.is_empty()),
        bus: SessionBus::FromEnvironment,
    };
    let engine = engine::run(settings, ends, alerts, stop.child_token());
    let fronts = [
        tokio::spawn(rpc::serve(api.clone(), listener, stop.child_token())),
        tokio::spawn(bus::run(api.clone(), SessionBus::FromEnvironment, stop.child_token())),
        tokio::spawn(notify::run(alerted, api, notifications, stop.child_token())),
    ];
    tokio::pin!(engine);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket, "ready");
    lifecycle::ready();
    let mut watchdog = lifecycle::watchdog().map(tokio::time::interval);
    let outcome = loop {
        tokio::select! {
            outcome = &mut engine => break outcome,
            request = signals.next() => match request {
                lifecycle::Request::Stop => {
                    lifecycle::stopping(Duration::from_secs(10));
                    stop.cancel();
                    // Calls under way are answered before the store closes.
                    break engine.await;
                }
                lifecycle::Request::Reload => tracing::info!("the configuration is read at start only"),
            },
            () = tick(&mut watchdog) => lifecycle::alive(),
        }
    };
    stop.cancel();
    for front in fronts {
        // A front that panicked has ended the process already.
        let _ = tokio::time::timeout(Duration::from_secs(3), front).await;
    }
    outcome
}

async fn tick(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
