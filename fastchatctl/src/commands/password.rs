//! `password`: another password for the account.
//!
//! **Invariant**: neither password is an argument, and the new one is asked for twice.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use fastchat_ipc::{PasswordChange, method};
use zeroize::{Zeroize, Zeroizing};

use crate::commands::Outcome;
use crate::daemon::{Context, call};
use crate::failure::{Exit, Failure};
use crate::password::{Source, two_lines};

/// How long the change may take: both passwords are stretched, and the backup is encrypted anew.
const CHANGE: Duration = Duration::from_secs(120);

/// Change the account's password
///
/// The identity backup on the server is encrypted anew under it. Other devices stay logged in unless told otherwise.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl password
  fastchatctl password --end-other-devices
  fastchatctl password --password-file old --new-password-file new
  printf '%s\\n%s\\n' \"$old\" \"$new\" | fastchatctl password --password-stdin")]
pub(crate) struct Password {
    /// End the sessions of all other devices: they have to log in again
    #[arg(long)]
    end_other_devices: bool,
    /// Read the old password from the first line of stdin, and the new one from the second
    #[arg(long, conflicts_with_all = ["password_file", "new_password_file"])]
    password_stdin: bool,
    /// Read the old password from the first line of this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Read the new password from the first line of this file
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
}

impl Password {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let mut client = context.connect().await?;
        let (old, new) = self.passwords(context)?;
        if old == new {
            return Err(Failure::usage("the new password is the old one").next("choose another"));
        }
        let mut request = PasswordChange {
            account: context.account.clone(),
            old: old.to_string(),
            new: new.to_string(),
            end_other_devices: self.end_other_devices,
        };
        client.set_deadline(context.timeout.unwrap_or(CHANGE));
        let answer = call::<method::ChangePassword>(&mut client, &request).await;
        request.old.zeroize();
        request.new.zeroize();
        let answer = answer?;
        if context.out.json {
            context.out.json(&answer.raw)?;
            return Ok(Exit::Ok);
        }
        let others = if self.end_other_devices { "; the other devices have to log in again" } else { "" };
        context.out.done(format!("the password is changed{others}"))?;
        Ok(Exit::Ok)
    }

    /// The old and the new one.
    fn passwords(&self, context: &Context) -> Result<(Zeroizing<String>, Zeroizing<String>), Failure> {
        if self.password_stdin {
            return two_lines("password");
        }
        let source = |what, file: &Option<PathBuf>, ways| Source { what, stdin: false, file: file.clone(), ways };
        let old = source("password", &self.password_file, "`--password-stdin` or `--password-file FILE`");
        let new = source("new password", &self.new_password_file, "`--password-stdin` or `--new-password-file FILE`");
        let old = old.obtain("Password until now: ", false, context.out)?;
        Ok((old, new.obtain("New password: ", true, context.out)?))
    }
}
