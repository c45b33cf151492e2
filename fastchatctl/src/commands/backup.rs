//! `backup`: an encrypted file with the account's identity, contacts and history.
//!
//! **Invariant**: what is encrypted is the daemon's business alone; here a file is moved or copied as it is.

mod place;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use fastchat_ipc::{BackupFile, BackupInfo, Client, Method, method};
use zeroize::Zeroize;

use self::place::{Staged, Target};
use crate::commands::Outcome;
use crate::daemon::{Answer, Context, call};
use crate::failure::{Exit, Failure};
use crate::local_time::Clock;
use crate::output::{BOLD, counted};
use crate::password::Source;
use crate::safe_text;

/// How long writing or reading a backup may take.
const BACKUP: Duration = Duration::from_secs(300);

/// Backups: an encrypted file with identity, contacts and history.
#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Write a backup of the account
    #[command(after_long_help = "\
Keep the passphrase in another place than the file: without it nobody reads the backup, with it everybody does.

Examples:
  fastchatctl backup create ~/alice.fastchat-backup
  fastchatctl backup create /media/usb/alice.backup --passphrase-file ~/.backup-passphrase")]
    Create(File),
    /// Read a backup through, and tell what it holds
    #[command(after_long_help = "Example:\n  fastchatctl backup verify ~/alice.fastchat-backup")]
    Verify(File),
    /// Bring contacts and history from a backup here
    #[command(after_long_help = "\
What is here already stays as it is. The account has to be on this device: log in or link first.

Example:
  fastchatctl backup restore ~/alice.fastchat-backup")]
    Restore(File),
}

/// A backup and its passphrase.
#[derive(Debug, Args)]
pub(crate) struct File {
    /// The file
    file: PathBuf,
    /// Read the passphrase from the first line of stdin
    #[arg(long, conflicts_with = "passphrase_file")]
    passphrase_stdin: bool,
    /// Read the passphrase from the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Backup {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(file) => file.create(context).await,
            Self::Verify(file) => file.verify(context).await,
            Self::Restore(file) => file.restore(context).await,
        }
    }
}

impl File {
    async fn create(self, context: &Context) -> Outcome {
        let target = Target::new(&self.file)?;
        let mut client = context.connect().await?;
        let mut request = fastchat_ipc::Backup {
            account: context.account.clone(),
            path: target.path.clone(),
            passphrase: self.passphrase(true, context)?,
        };
        client.set_deadline(context.timeout.unwrap_or(BACKUP));
        let answer = create(&mut client, &mut request, &target).await;
        request.passphrase.zeroize();
        let mut answer = answer?;
        if context.out.json {
            answer.raw["path"] = target.path.into();
            context.out.json(&answer.raw)?;
        } else {
            let path = safe_text::line(&target.path);
            context.out.done(format!("backup written to {BOLD}{path}{BOLD:#}\n{}", described(&answer.value)))?;
        }
        Ok(Exit::Ok)
    }

    async fn verify(self, context: &Context) -> Outcome {
        let path = place::readable(&self.file)?;
        let mut client = context.connect().await?;
        let mut request = BackupFile { path: path.clone(), passphrase: self.passphrase(false, context)? };
        client.set_deadline(context.timeout.unwrap_or(BACKUP));
        let answer = reach::<method::VerifyBackup>(&mut client, &mut request, |request| &mut request.path).await;
        request.passphrase.zeroize();
        let mut answer = answer?;
        if context.out.json {
            answer.raw["path"] = path.into();
            context.out.json(&answer.raw)?;
        } else {
            context.out.text(format!("the backup is whole\n{}", described(&answer.value)))?;
        }
        Ok(Exit::Ok)
    }

    async fn restore(self, context: &Context) -> Outcome {
        let path = place::readable(&self.file)?;
        let mut client = context.connect().await?;
        let passphrase = self.passphrase(false, context)?;
        let mut request = fastchat_ipc::Backup { account: context.account.clone(), path: path.clone(), passphrase };
        client.set_deadline(context.timeout.unwrap_or(BACKUP));
        let answer = reach::<method::RestoreBackup>(&mut client, &mut request, |request| &mut request.path).await;
        request.passphrase.zeroize();
        let mut answer = answer?;
        if context.out.json {
            answer.raw["backup"]["path"] = path.into();
            context.out.json(&answer.raw)?;
        } else {
            let new = &answer.value;
            let new = holdings(new.contacts, new.chats, new.messages);
            context.out.done(format!("restored; new here: {new}\n{}", described(&answer.value.backup)))?;
        }
        Ok(Exit::Ok)
    }

    fn passphrase(&self, is_new: bool, context: &Context) -> Result<String, Failure> {
        let source = Source {
            what: "passphrase",
            stdin: self.passphrase_stdin,
            file: self.passphrase_file.clone(),
            ways: "`--passphrase-stdin` or `--passphrase-file FILE`",
        };
        Ok(source.obtain("Passphrase of the backup: ", is_new, context.out)?.to_string())
    }
}

/// Has the backup written into the daemon's directory and takes it from there; where that cannot be, has it written to
/// its place at once.
async fn create(
    client: &mut Client,
    request: &mut fastchat_ipc::Backup,
    target: &Target,
) -> Result<Answer<BackupInfo>, Failure> {
    if let Some(staged) = Staged::new() {
        request.path.clone_from(&staged.path);
        match call::<method::CreateBackup>(client, request).await {
            Ok(answer) => return target.take(&staged).map(|()| answer),
            // Its directory may be another one, where it may write no more than it may elsewhere.
            Err(error) if !["not_found", "refused", "internal"].contains(&error.code()) => return Err(error),
            Err(_) => {}
        }
    }
    request.path.clone_from(&target.path);
    let answer = call::<method::CreateBackup>(client, request).await?;
    target.check().map(|()| answer)
}

/// Calls `M` with the file; once more with a copy in the daemon's directory when the daemon does not see the file.
async fn reach<M: Method>(
    client: &mut Client,
    request: &mut M::Params,
    path: impl Fn(&mut M::Params) -> &mut String,
) -> Result<Answer<M::Result>, Failure> {
    match call::<M>(client, request).await {
        Err(error) if error.code() == "not_found" => {
            let Some(staged) = Staged::new() else { return Err(error) };
            if staged.copy_of(path(request)).is_err() {
                return Err(error);
            }
            path(request).clone_from(&staged.path);
            call::<M>(client, request).await
        }
        outcome => outcome,
    }
}

fn described(backup: &BackupInfo) -> String {
    let holdings = holdings(backup.contacts, backup.chats, backup.messages);
    let (account, key) = (safe_text::line(&backup.account), safe_text::line(&backup.fingerprint));
    let made = Clock::system().stamp(backup.created_at_ms);
    format!("  {account}, made {made}, {}\n  {holdings}\n  key {key}", size(backup.bytes))
}

fn holdings(contacts: u64, chats: u64, messages: u64) -> String {
    let counted = |count: u64, one| counted(usize::try_from(count).unwrap_or(usize::MAX), one);
    format!("{}, {}, {}", counted(contacts, "contact"), counted(chats, "chat"), counted(messages, "message"))
}

/// `512 B`, `14 KiB`, `3.2 MiB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_reads_well() {
        let sizes = [0, 1023, 1024, 14_000, 3_355_444].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1 KiB", "14 KiB", "3.2 MiB"]);
    }
}
