//! `fastchat-server`: the command line.
//!
//! **Invariant**: exit code 78 says "the configuration is wrong: starting again will not help", 1 anything else.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use fastchat_server::{
    config::{Config, ConfigError},
    invite,
    run::{self, Options, Unusable},
};
use fastchat_service::logging;

/// `EX_CONFIG` of sysexits.
const CONFIG_IS_WRONG: u8 = 78;

/// The FastChat server: orders, stores and delivers what it cannot read
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server until SIGTERM
    Run(Run),
    /// Say whether a configuration file is valid
    CheckConfig {
        /// The file; by default the system's
        file: Option<PathBuf>,
        /// The same, as an option
        #[arg(long, conflicts_with = "file", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make, show and end invites (works while the server runs)
    #[command(subcommand)]
    Invite(Invite),
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    place: Place,
    /// TCP port; 0 takes any free one, which is printed
    #[arg(long)]
    port: Option<u16>,
    /// Address and port to listen on, as in 127.0.0.1:8887
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

#[derive(Args)]
struct Place {
    /// Configuration file; by default /etc/fastchat/server.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where database and certificate are
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Invite {
    /// Make an invite and print it
    Create {
        #[command(flatten)]
        place: Place,
        /// How many accounts can be made with it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// For how long it is good: 12h, 7d, 2w
        #[arg(long, default_value = "7d", value_parser = invite::duration)]
        expires: Duration,
        /// A note for yourself
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Show the invites that are good
    List {
        #[command(flatten)]
        place: Place,
    },
    /// End an invite
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Its id, from `invite list`
        id: String,
    },
}

fn main() -> ExitCode {
    // A task that panics must not leave half a server behind.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    match start(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fastchat-server: {error:#}");
            let is_config = error.is::<ConfigError>() || error.is::<Unusable>();
            ExitCode::from(if is_config { CONFIG_IS_WRONG } else { 1 })
        }
    }
}

fn start(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(Run { place: Place { config, data_dir }, port, listen }) => {
            let options = Options { config, port, listen, data_dir };
            let config = options.load()?;
            logging::start(&config.log)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let outcome = runtime.block_on(run::run(options, config));
            runtime.shutdown_timeout(Duration::from_secs(1));
            outcome
        }
        Command::CheckConfig { file, config } => {
            let path = file.or(config);
            Config::load(path.as_deref())?;
            let shown = path.unwrap_or_else(|| fastchat_server::config::SYSTEM_CONFIG.into());
            println!("{} is valid", shown.display());
            Ok(())
        }
        Command::Invite(invite) => {
            let (place, command) = match invite {
                Invite::Create { place, uses, expires, note } => {
                    (place, invite::Command::Create { uses, expires, note })
                }
                Invite::List { place } => (place, invite::Command::List),
                Invite::Revoke { place, id } => (place, invite::Command::Revoke { id }),
            };
            let options = Options { config: place.config, data_dir: place.data_dir, ..Options::default() };
            let data_dir = run::data_dir(&options.load()?);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(invite::run(&data_dir, command, &mut io::stdout()))
        }
    }
}
