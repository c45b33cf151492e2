//! The operator's `invite` commands, which work while a server runs.
//!
//! **Invariant**: an invite is shown once, when it is made; the store has only its hash.

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Context, bail};
use fastchat_store::{Invites, NewInvite, SqliteStore};

use crate::{auth, clock};

/// What to do with invites.
#[derive(Debug, Clone)]
pub enum Command {
    /// Make one.
    Create {
        /// How many accounts it makes.
        uses: u32,
        /// For how long.
        expires: Duration,
        /// For the operator.
        note: String,
    },
    /// Show those that are good.
    List,
    /// End one.
    Revoke {
        /// The beginning of its id.
        id: String,
    },
}

/// Carries out a command on the store in `data_dir`, writing to `out`.
///
/// # Errors
/// There is no store, it cannot be written, or there is no such invite.
pub async fn run(data_dir: &Path, command: Command, out: &mut impl Write) -> anyhow::Result<()> {
    let store = SqliteStore::open_beside(data_dir)?;
    let now_ms = clock::now_ms();
    match command {
        Command::Create { uses, expires, note } => {
            let bytes = auth::random_bytes()?;
            let text = data_encoding::BASE32_NOPAD.encode(bytes.get(..20).context("an invite has 20 bytes")?);
            let text = text.to_ascii_lowercase();
            let expires_ms = now_ms.saturating_add(u64::try_from(expires.as_millis()).unwrap_or(u64::MAX));
            // What SQLite can hold.
            let expires_ms = expires_ms.min(i64::MAX.unsigned_abs());
            let hash = auth::invite_hash(&text);
            store.create_invite(NewInvite { hash, uses, expires_ms, note, now_ms }).await?;
            writeln!(out, "{text}")?;
        }
        Command::List => {
            for invite in store.invites(now_ms).await? {
                let left = Duration::from_millis(invite.expires_ms.saturating_sub(now_ms));
                let hours = left.as_secs() / 3_600;
                let (id, uses, note) = (invite.id, invite.uses_left, invite.note);
                writeln!(out, "{id}  uses left: {uses}  ends in: {} d {} h  {note}", hours / 24, hours % 24)?;
            }
        }
        Command::Revoke { id } => {
            if !store.revoke_invite(id.clone()).await? {
                bail!("no single invite has the id {id}: `fastchat-server invite list` shows them (at least 8 digits)");
            }
            writeln!(out, "revoked {id}")?;
        }
    }
    Ok(())
}

/// Reads `90s`, `15m`, `12h`, `7d`, `2w`.
///
/// # Errors
/// A text for people.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: write it as 12h, 7d or 2w");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number: u32 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "7", "d", "-1d", "1y", "ä"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
