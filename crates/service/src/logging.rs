//! Where log lines go: the journal when stderr is the journal's, else stderr.
//!
//! **Invariant**: no message content, password, token or key is ever a log field; account names are at `debug` only.

use std::{
    env,
    io::{self, IsTerminal},
};

use anyhow::Context;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Libraries that would log what passes through them, passwords in calls among it: they speak up only when something is
/// wrong, whatever the filter says.
const QUIET: [&str; 2] = ["zbus=warn", "sled=warn"];

/// Whether a text is a log filter.
///
/// # Errors
/// What is wrong with it.
pub fn check(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(|_| ()).map_err(|error| error.to_string())
}

/// Starts logging. `RUST_LOG` wins over the configured filter.
///
/// # Errors
/// The filter is not one, or logging was started before.
pub fn start(configured: &str) -> anyhow::Result<()> {
    let filter = match env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter,
        _ => configured.to_owned(),
    };
    let mut filter: EnvFilter = filter.parse().with_context(|| format!("{filter:?} is not a log filter"))?;
    for directive in QUIET {
        filter = filter.add_directive(directive.parse().context("a directive of ours")?);
    }
    let layer = match journal() {
        Some(layer) => layer.boxed(),
        None => {
            let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false).boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().context("starting the log")
}

fn journal() -> Option<tracing_journald::Layer> {
    let stream = env::var("JOURNAL_STREAM").ok()?;
    let (device, inode) = stream.split_once(':')?;
    let stderr = rustix::fs::fstat(io::stderr()).ok()?;
    if device.parse() != Ok(stderr.st_dev) || inode.parse() != Ok(stderr.st_ino) {
        return None;
    }
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    let layer = tracing_journald::layer().ok()?;
    Some(layer.with_field_prefix(Some("FC".to_owned())).with_priority_mappings(priorities))
}
