//! `status`, `whoami`, `doctor`, `logout`: the daemon and the accounts on it.
//!
//! **Invariant**: nothing is removed at a terminal before the person there has said yes.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anstyle::Style;
use clap::Args;
use fastchat_ipc::{
    Account, AccountState, Check, Client, Contact, ContactState, Empty, Group, GroupState, KeyStore, OfAccount,
    Verdict, method,
};
use serde_json::json;

use crate::commands::{Outcome, group};
use crate::daemon::{Context, call};
use crate::failure::{Exit, Failure};
use crate::local_time::spelled;
use crate::output::{BOLD, DIM, GREEN, RED, YELLOW, confirm, counted, is_interactive};
use crate::safe_text;
use crate::table::Table;

/// Show the daemon and the accounts.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  fastchatctl status\n  fastchatctl status --json | jq -r '.accounts[].state'")]
pub(crate) struct Status {}

/// Show which account is the default one.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  fastchatctl whoami\n  fastchatctl whoami --json | jq -r .fingerprint")]
pub(crate) struct Whoami {}

/// Check everything, and say how to mend what is wrong
///
/// Looks at store, key protection, bus, notifications and servers. Exits with 2 when a check has failed.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  fastchatctl doctor")]
pub(crate) struct Doctor {}

/// Remove an account, its keys and its history from this device.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  fastchatctl logout\n  fastchatctl logout --account bob@chat.example.org --yes"
)]
pub(crate) struct Logout {
    /// Also when the server cannot be told, or messages wait in the outbox
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Status {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let mut client = context.connect().await?;
        let status = call::<method::DaemonStatus>(&mut client, &Empty {}).await?;
        if context.out.json {
            context.out.json(&status.raw)?;
            return Ok(Exit::Ok);
        }
        let status = status.value;
        let uptime = spelled(Duration::from_millis(status.uptime_ms));
        let version = safe_text::line(&status.version);
        let mut text = format!("fastchatd {version}, pid {}, running for {uptime}\n", status.pid);
        if status.locked {
            text.push_str(&format!("{YELLOW}locked{YELLOW:#}; next: fastchatctl unlock\n"));
        } else if status.key_store != KeyStore::Auto {
            text.push_str(&format!("store protected by {}\n", key_store_word(status.key_store)));
        }
        if status.accounts.is_empty() && !status.locked {
            text.push_str("no account; next: fastchatctl register USER@HOST\n");
        }
        let mut table = Table::default();
        for account in &status.accounts {
            let people = if status.locked { None } else { People::ask(&mut client, &account.account).await };
            account_lines(&mut table, account, people.as_ref());
        }
        // Why an account is not online is never cut off.
        text.push_str(&table.show(usize::MAX));
        context.out.text(text)?;
        Ok(Exit::Ok)
    }
}

/// Whom an account knows.
struct People {
    contacts: Vec<Contact>,
    groups: Vec<Group>,
}

impl People {
    /// `None` where the daemon does not tell.
    async fn ask(client: &mut Client, account: &str) -> Option<Self> {
        let of = OfAccount { account: account.to_owned() };
        let contacts = call::<method::ListContacts>(client, &of).await.ok()?.value.contacts;
        let mut groups = call::<method::ListGroups>(client, &of).await.ok()?.value.groups;
        groups.retain(|group| !matches!(group.state, GroupState::Left | GroupState::Deleted));
        Some(Self { contacts, groups })
    }

    /// `3 contacts (1 verified), 2 groups`; nothing for nobody.
    fn counted(&self) -> Option<String> {
        let known: Vec<&Contact> =
            self.contacts.iter().filter(|contact| contact.state == ContactState::Accepted).collect();
        if known.is_empty() && self.groups.is_empty() {
            return None;
        }
        let verified = known.iter().filter(|contact| contact.verified).count();
        let (contacts, groups) = (counted(known.len(), "contact"), counted(self.groups.len(), "group"));
        Some(format!("{contacts} ({verified} verified), {groups}"))
    }

    /// Who or what waits for something, and for what.
    fn waiting(&self) -> impl Iterator<Item = (&str, String, Style)> {
        let changed = self.contacts.iter().filter(|contact| contact.key_changed).map(|contact| {
            let advice = format!("key changed; fastchatctl key show {}", safe_text::argument(&contact.name));
            (contact.name.as_str(), advice, RED)
        });
        let groups = self.groups.iter().filter_map(|group| {
            let state = (group.state != GroupState::Active).then(|| group::state_word(group.state).0.to_owned());
            let pending = group.pending.iter().map(|change| safe_text::line(change));
            let waits: Vec<String> = state.into_iter().chain(pending).collect();
            (!waits.is_empty()).then(|| (group.name.as_str(), waits.join(", "), YELLOW))
        });
        changed.chain(groups)
    }
}

/// An account, and below it what waits there.
fn account_lines(table: &mut Table, account: &Account, people: Option<&People>) {
    let (word, style) = state_word(account.state);
    let mut more = Vec::new();
    if !account.reason.is_empty() {
        more.push(safe_text::line(&account.reason));
    }
    if account.outbox > 0 {
        more.push(format!("{} in the outbox", account.outbox));
    }
    more.extend(people.and_then(People::counted));
    table.line([(safe_text::line(&account.account), BOLD), (word.to_owned(), style), (more.join("; "), Style::new())]);
    for (name, waits, style) in people.into_iter().flat_map(People::waiting) {
        table.line([(format!("  {}", safe_text::line(name)), Style::new()), (String::new(), style), (waits, style)]);
    }
}

impl Whoami {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let listed = context.call::<method::ListAccounts>(&Empty {}).await?;
        let names = listed.value.accounts.iter().map(|account| account.account.as_str());
        let Some(place) = find(names, &context.account) else { return Err(no_such_account(&context.account)) };
        if context.out.json {
            context.out.json(&listed.raw["accounts"][place])?;
            return Ok(Exit::Ok);
        }
        let account = &listed.value.accounts[place];
        context.out.text(safe_text::line(&account.account))?;
        if io::stdout().is_terminal() {
            // Only for people: `$(fastchatctl whoami)` is the name.
            let (device, key) = (safe_text::line(&account.device_name), safe_text::line(&account.fingerprint));
            context.out.done(format!("{DIM}device{DIM:#}  {device}\n{DIM}key{DIM:#}     {key}"))?;
        }
        Ok(Exit::Ok)
    }
}

/// The place of the account that is called so; the first when no name is given. Port and host may be left out.
pub(crate) fn find<'a>(mut accounts: impl Iterator<Item = &'a str>, name: &str) -> Option<usize> {
    accounts.position(|account| {
        let after = account.strip_prefix(name);
        name.is_empty() || after.is_some_and(|after| after.is_empty() || after.starts_with(['@', ':']))
    })
}

/// The failure for an account that is not there.
pub(crate) fn no_such_account(name: &str) -> Failure {
    if name.is_empty() {
        return Failure::new(Exit::Refused, "no_account", "no account is set up")
            .next("`fastchatctl register USER@HOST`, or `fastchatctl login USER@HOST`");
    }
    Failure::new(Exit::Refused, "not_found", format!("there is no account {name} here"))
        .next("`fastchatctl status` lists the accounts")
}

impl Doctor {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let mut client = context.connect().await?;
        let status = call::<method::DaemonStatus>(&mut client, &Empty {}).await?;
        let mut doctor = call::<method::DaemonDoctor>(&mut client, &Empty {}).await?;
        let own = version_check(&status.value.version);
        if let Some(checks) = doctor.raw["checks"].as_array_mut() {
            checks.insert(0, json!(own));
        }
        doctor.value.checks.insert(0, own);
        if context.out.json {
            context.out.json(&doctor.raw)?;
        } else {
            context.out.text(checks(&doctor.value.checks))?;
        }
        let has_failed = doctor.value.checks.iter().any(|check| check.verdict == Verdict::Failed);
        Ok(if has_failed { Exit::Internal } else { Exit::Ok })
    }
}

fn version_check(daemon: &str) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    let is_same = own == daemon;
    Check {
        check: "versions".into(),
        verdict: if is_same { Verdict::Ok } else { Verdict::Warning },
        found: if is_same {
            format!("fastchatctl and fastchatd are {own}")
        } else {
            format!("fastchatctl {own}, fastchatd {daemon}")
        },
        next: if is_same { String::new() } else { "restart the daemon: systemctl --user restart fastchatd".into() },
    }
}

fn checks(checks: &[Check]) -> String {
    let mut table = Table::default();
    for check in checks {
        let (word, style) = match check.verdict {
            Verdict::Ok => ("ok", GREEN),
            Verdict::Warning => ("warning", YELLOW),
            Verdict::Failed => ("failed", RED),
        };
        table.line([
            (word.to_owned(), style),
            (safe_text::line(&check.check), BOLD),
            (safe_text::line(&check.found), Style::new()),
        ]);
        if !check.next.is_empty() {
            table.line([
                (String::new(), style),
                (String::new(), style),
                (format!("next: {}", safe_text::line(&check.next)), Style::new()),
            ]);
        }
    }
    // What has to be done is never cut off.
    table.show(usize::MAX)
}

impl Logout {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let mut client = context.connect().await?;
        let listed = call::<method::ListAccounts>(&mut client, &Empty {}).await?.value.accounts;
        let names = listed.iter().map(|account| account.account.as_str());
        let Some(place) = find(names, &context.account) else { return Err(no_such_account(&context.account)) };
        let name = listed[place].account.clone();
        let shown = safe_text::line(&name);
        let question = format!("Remove {BOLD}{shown}{BOLD:#} with its keys and its history from this device?");
        if !self.yes && is_interactive() && !confirm(&question)? {
            return Err(Failure::new(Exit::Usage, "interrupted", "nothing was removed"));
        }
        let request = fastchat_ipc::Logout { account: name, force: self.force };
        let answer = call::<method::LogoutAccount>(&mut client, &request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            context.out.done(format!("{shown} is logged out and removed from this device"))?;
        }
        Ok(Exit::Ok)
    }
}

/// An account's state in words, and how it is painted.
pub(crate) fn state_word(state: AccountState) -> (&'static str, Style) {
    match state {
        AccountState::Locked => ("locked", YELLOW),
        AccountState::Offline => ("offline", YELLOW),
        AccountState::Connecting => ("connecting", YELLOW),
        AccountState::Online => ("online", GREEN),
        AccountState::LoggedOut => ("logged out", RED),
        AccountState::Untrusted => ("server untrusted", RED),
    }
}

fn key_store_word(store: KeyStore) -> &'static str {
    match store {
        KeyStore::Auto => "nothing yet",
        KeyStore::SecretService => "the Secret Service",
        KeyStore::Passphrase => "a passphrase",
        KeyStore::File => "a key file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_beginning_at_a_border() {
        let accounts = ["alice@h:1", "al@h:1", "al@h2:1"];
        let find = |name| find(accounts.into_iter(), name);
        assert_eq!([find(""), find("al"), find("al@h2"), find("al@h:1")], [Some(0), Some(1), Some(2), Some(1)]);
        assert_eq!([find("ali"), find("bob"), find("al@h:10")], [None, None, None]);
    }
}
