//! `unlock`: opens the store after the daemon has started.
//!
//! **Invariant**: a passphrase is asked for only where one protects the store.

use std::path::PathBuf;

use clap::Args;
use fastchat_ipc::{Empty, KeyStore, method};
use zeroize::Zeroize;

use crate::commands::Outcome;
use crate::daemon::{Context, call};
use crate::failure::Exit;
use crate::password::Source;

/// Unlock the store, with its passphrase or the Secret Service
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  fastchatctl unlock\n  fastchatctl unlock --passphrase-file ~/.fastchat-passphrase"
)]
pub(crate) struct Unlock {
    /// Read the passphrase from the first line of stdin
    #[arg(long, conflicts_with = "passphrase_file")]
    passphrase_stdin: bool,
    /// Read the passphrase from the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Unlock {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let out = context.out;
        let mut client = context.connect().await?;
        let mut status = call::<method::DaemonStatus>(&mut client, &Empty {}).await?;
        let was_locked = status.value.locked;
        if was_locked {
            let mut request = fastchat_ipc::Unlock::default();
            if status.value.key_store == KeyStore::Passphrase {
                let (stdin, file) = (self.passphrase_stdin, self.passphrase_file);
                let source = Source {
                    what: "passphrase",
                    stdin,
                    file,
                    ways: "`--passphrase-stdin` or `--passphrase-file FILE`",
                };
                request.passphrase = source.obtain("Passphrase for the keys on this device: ", false, out)?.to_string();
            }
            let answer = call::<method::DaemonUnlock>(&mut client, &request).await;
            request.passphrase.zeroize();
            status = answer?;
        }
        if out.json {
            out.json(&status.raw)?;
        } else {
            out.done(if was_locked { "unlocked" } else { "it was not locked" })?;
        }
        Ok(Exit::Ok)
    }
}
