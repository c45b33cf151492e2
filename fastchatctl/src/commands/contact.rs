//! `contact`: who we know, and who may reach us.
//!
//! **Invariant**: each verb is one method of the API.

use anstyle::Style;
use clap::{Args, Subcommand};
use fastchat_ipc::{ContactState, Method, OfAccount, OfContact, SetAlias, method};

use crate::commands::Outcome;
use crate::daemon::Context;
use crate::failure::Exit;
use crate::local_time::Clock;
use crate::output::{BOLD, DIM, GREEN, RED, YELLOW};
use crate::safe_text;
use crate::table::Table;

/// Contacts: who we know, and who may reach us.
#[derive(Debug, Subcommand)]
pub(crate) enum Contact {
    /// Make somebody a contact
    #[command(after_long_help = "Example:\n  fastchatctl contact add bob")]
    Add(Who),
    /// List contacts and requests, with who is active
    #[command(
        after_long_help = "Example:\n  fastchatctl contact list --json | jq -r '.contacts[] | select(.active) | .name'"
    )]
    List,
    /// Accept a request
    #[command(after_long_help = "Example:\n  fastchatctl contact accept bob")]
    Accept(Who),
    /// Decline a request: it shows nowhere any more
    #[command(after_long_help = "Example:\n  fastchatctl contact decline mallory")]
    Decline(Who),
    /// Block somebody: the server refuses their messages
    #[command(after_long_help = "Example:\n  fastchatctl contact block mallory")]
    Block(Who),
    /// Lift a block
    #[command(after_long_help = "Example:\n  fastchatctl contact unblock mallory")]
    Unblock(Who),
    /// Remove somebody from the contacts; the chat's history stays
    #[command(after_long_help = "Example:\n  fastchatctl contact remove bob")]
    Remove(Who),
    /// Set what we call a contact
    Alias(Alias),
}

/// A contact.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// The contact's name or alias
    contact: String,
}

/// A contact and its alias.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl contact alias bob Bobby
  fastchatctl contact alias bob ''   removes it")]
pub(crate) struct Alias {
    /// The contact's name or alias
    contact: String,
    /// What to call it; nothing to remove the alias
    #[arg(default_value = "", hide_default_value = true)]
    alias: String,
}

impl Contact {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List => list(context).await,
            Self::Add(who) => change::<method::AddContact>(who, "is a contact now", context).await,
            Self::Accept(who) => change::<method::AcceptContact>(who, "is accepted", context).await,
            Self::Decline(who) => change::<method::DeclineContact>(who, "is declined", context).await,
            Self::Block(who) => change::<method::BlockContact>(who, "is blocked", context).await,
            Self::Unblock(who) => change::<method::UnblockContact>(who, "is not blocked any more", context).await,
            Self::Remove(who) => change::<method::RemoveContact>(who, "is not a contact any more", context).await,
            Self::Alias(alias) => alias.run(context).await,
        }
    }
}

async fn change<M: Method<Params = OfContact>>(who: Who, done: &str, context: &Context) -> Outcome {
    let name = safe_text::line(&who.contact);
    let answer = context.call::<M>(&OfContact { account: context.account.clone(), contact: who.contact }).await?;
    if context.out.json {
        context.out.json(&answer.raw)?;
    } else {
        context.out.done(format!("{name} {done}"))?;
    }
    Ok(Exit::Ok)
}

impl Alias {
    async fn run(self, context: &Context) -> Outcome {
        let request = SetAlias { account: context.account.clone(), contact: self.contact, alias: self.alias };
        let answer = context.call::<method::SetContactAlias>(&request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
            return Ok(Exit::Ok);
        }
        let (name, alias) = (safe_text::line(&answer.value.name), safe_text::line(&answer.value.alias));
        if alias.is_empty() {
            context.out.done(format!("{name} has no alias any more"))?;
        } else {
            context.out.done(format!("{name} is called {alias}"))?;
        }
        Ok(Exit::Ok)
    }
}

async fn list(context: &Context) -> Outcome {
    let answer = context.call::<method::ListContacts>(&OfAccount { account: context.account.clone() }).await?;
    if context.out.json {
        context.out.json(&answer.raw)?;
        return Ok(Exit::Ok);
    }
    if answer.value.contacts.is_empty() {
        context.out.done("no contacts yet; next: fastchatctl contact add NAME")?;
    }
    let clock = Clock::system();
    let mut table = Table::default();
    for contact in &answer.value.contacts {
        table.line(cells(contact, &clock));
    }
    context.out.text(table.show(usize::MAX))?;
    Ok(Exit::Ok)
}

fn cells(contact: &fastchat_ipc::Contact, clock: &Clock) -> [(String, Style); 4] {
    let (name, argument) = (safe_text::line(&contact.name), safe_text::argument(&contact.name));
    let since = clock.stamp(contact.active_since_ms);
    let (state, style) = match contact.state {
        ContactState::Accepted if contact.active => ("active".to_owned(), GREEN),
        ContactState::Accepted if since.is_empty() => ("away".to_owned(), DIM),
        ContactState::Accepted => (format!("away since {since}"), DIM),
        ContactState::Request => ("request".to_owned(), YELLOW),
        ContactState::Declined => ("declined".to_owned(), DIM),
        ContactState::Blocked => ("blocked".to_owned(), RED),
    };
    let (remark, remark_style) = match contact {
        contact if contact.key_changed => (format!("key changed; fastchatctl key show {argument}"), RED),
        contact if contact.state == ContactState::Request => (format!("fastchatctl contact accept {argument}"), DIM),
        contact if contact.verified => ("verified".to_owned(), GREEN),
        _ => (String::new(), DIM),
    };
    let alias = if contact.alias.is_empty() { String::new() } else { format!("({})", safe_text::line(&contact.alias)) };
    [(name, BOLD), (alias, Style::new()), (state, style), (remark, remark_style)]
}
