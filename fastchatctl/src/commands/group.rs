//! `group`: conversations of any number of people.
//!
//! **Invariant**: each verb is one method of the API; nothing that ends a membership is done at a terminal before the
//! person there has said yes.

mod shown;

use std::time::Duration;

use clap::{Args, Subcommand};
use fastchat_ipc::{Group as Shown, GroupName, GroupTopic, Method, NewGroup, OfAccount, OfGroup, OfMembers, method};

use crate::commands::Outcome;
use crate::daemon::{Answer, Context, call};
use crate::failure::{Exit, Failure};
use crate::local_time::Clock;
use crate::output::{BOLD, DIM, YELLOW, consent, insist, width};
use crate::safe_text;

pub(crate) use self::shown::state_word;

/// How long a change may take: the daemon answers after 30 s at the latest, done or not.
const CHANGE: Duration = Duration::from_secs(40);

/// Groups: conversations of any number of people.
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Make a group; you are its admin
    Create(Create),
    /// List the groups
    #[command(after_long_help = "\
Examples:
  fastchatctl group list
  fastchatctl group list --json | jq -r '.groups[] | select(.state == \"active\") | .name'")]
    List,
    /// Show a group: members, roles, state, changes under way
    #[command(after_long_help = "\
The authenticator is the same on all devices that agree about the group.

Examples:
  fastchatctl group show ops
  fastchatctl group show ops --json | jq -r '.members[].name'")]
    Show(Which),
    /// Set a group's name (admins)
    Rename(Rename),
    /// Set what a group is about (admins)
    Topic(Topic),
    /// Add people to a group (admins); they see nothing from before
    #[command(after_long_help = "Example:\n  fastchatctl group add ops carol dave")]
    Add(Members),
    /// Remove people from a group (admins); they open nothing that comes later
    #[command(after_long_help = "Examples:\n  fastchatctl group remove ops mallory\n  \
        fastchatctl group remove ops mallory --yes")]
    Remove(Remove),
    /// Make members admins (admins)
    #[command(after_long_help = "Example:\n  fastchatctl group promote ops bob")]
    Promote(Members),
    /// Make admins plain members (admins)
    #[command(after_long_help = "Example:\n  fastchatctl group demote ops bob")]
    Demote(Members),
    /// Leave a group; its history stays here
    #[command(after_long_help = "\
The last admin cannot leave while others are in: promote somebody first, or delete the group.

Examples:
  fastchatctl group leave ops
  fastchatctl group leave ops --yes")]
    Leave(Ending),
    /// End a group for everybody (admins); the history stays
    #[command(after_long_help = "Examples:\n  fastchatctl group delete ops\n  fastchatctl group delete ops --yes")]
    Delete(Ending),
}

/// A group.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The group's name, or its id where several have that name
    group: String,
}

/// A group that comes to be.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl group create ops bob carol
  fastchatctl group create 'Night shift' --topic 'Who is on call' bob")]
pub(crate) struct Create {
    /// What to call it, up to 64 characters
    name: String,
    /// Who else is to be in, by name or alias
    #[arg(value_name = "MEMBER")]
    members: Vec<String>,
    /// What it is about, up to 256 characters
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    topic: String,
}

/// A group and its new name.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  fastchatctl group rename ops operations")]
pub(crate) struct Rename {
    /// The group's name, or its id where several have that name
    group: String,
    /// What to call it, up to 64 characters
    name: String,
}

/// A group and its new topic.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl group topic ops 'Servers and their troubles'
  fastchatctl group topic ops ''   removes it")]
pub(crate) struct Topic {
    /// The group's name, or its id where several have that name
    group: String,
    /// What it is about, up to 256 characters
    #[arg(value_name = "TEXT")]
    topic: String,
}

/// A group and people.
#[derive(Debug, Args)]
pub(crate) struct Members {
    /// The group's name, or its id where several have that name
    group: String,
    /// Whom it concerns, by name or alias
    #[arg(value_name = "MEMBER", required = true)]
    members: Vec<String>,
}

/// A group and people who go.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    who: Members,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// A group that ends, for us or for all.
#[derive(Debug, Args)]
pub(crate) struct Ending {
    /// The group's name, or its id where several have that name
    group: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Group {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(command) => command.run(context).await,
            Self::List => list(context).await,
            Self::Show(which) => show(which, context).await,
            Self::Rename(command) => command.run(context).await,
            Self::Topic(command) => command.run(context).await,
            Self::Add(who) => who.change::<method::AddGroupMembers>("added to", context).await,
            Self::Remove(command) => command.run(context).await,
            Self::Promote(who) => who.change::<method::PromoteGroupMembers>("made admin of", context).await,
            Self::Demote(who) => who.change::<method::DemoteGroupMembers>("made a plain member of", context).await,
            Self::Leave(which) => which.leave(context).await,
            Self::Delete(which) => which.delete(context).await,
        }
    }
}

async fn list(context: &Context) -> Outcome {
    let answer = context.call::<method::ListGroups>(&OfAccount { account: context.account.clone() }).await?;
    if context.out.json {
        context.out.json(&answer.raw)?;
        return Ok(Exit::Ok);
    }
    if answer.value.groups.is_empty() {
        context.out.done("no groups yet; next: fastchatctl group create NAME MEMBER…")?;
    }
    context.out.text(shown::list(&answer.value.groups, width()))?;
    Ok(Exit::Ok)
}

async fn show(which: Which, context: &Context) -> Outcome {
    let request = OfGroup { account: context.account.clone(), group: which.group };
    let answer = context.call::<method::ShowGroup>(&request).await?;
    if context.out.json {
        context.out.json(&answer.raw)?;
    } else {
        context.out.text(shown::page(&answer.value, &Clock::system()))?;
    }
    Ok(Exit::Ok)
}

/// Asks for a change.
async fn change<M: Method<Result = Shown>>(params: &M::Params, context: &Context) -> Result<Answer<Shown>, Failure> {
    let mut client = context.connect().await?;
    client.set_deadline(context.timeout.unwrap_or(CHANGE));
    call::<M>(&mut client, params).await
}

/// Prints what a change came to: that it is done, or what is still under way.
fn report(answer: &Answer<Shown>, done: &str, context: &Context) -> Outcome {
    if context.out.json {
        context.out.json(&answer.raw)?;
        return Ok(Exit::Ok);
    }
    let pending: Vec<String> = answer.value.pending.iter().map(|change| safe_text::line(change)).collect();
    if pending.is_empty() {
        context.out.done(done)?;
        return Ok(Exit::Ok);
    }
    let (name, group) = (safe_text::line(&answer.value.name), safe_text::argument(&answer.value.name));
    let pending = pending.join(", ");
    context.out.done(format!("{BOLD}{name}{BOLD:#}: {YELLOW}{pending}{YELLOW:#}, under way"))?;
    context.out.note(format!("{DIM}it goes on by itself; fastchatctl group show {group}{DIM:#}"));
    Ok(Exit::Ok)
}

impl Create {
    async fn run(self, context: &Context) -> Outcome {
        let name = safe_text::line(&self.name);
        let request =
            NewGroup { account: context.account.clone(), name: self.name, topic: self.topic, members: self.members };
        let answer = change::<method::CreateGroup>(&request, context).await?;
        report(&answer, &format!("group {BOLD}{name}{BOLD:#} is made"), context)
    }
}

impl Rename {
    async fn run(self, context: &Context) -> Outcome {
        let (old, new) = (safe_text::line(&self.group), safe_text::line(&self.name));
        let request = GroupName { account: context.account.clone(), group: self.group, name: self.name };
        let answer = change::<method::RenameGroup>(&request, context).await?;
        report(&answer, &format!("{old} is called {BOLD}{new}{BOLD:#} now"), context)
    }
}

impl Topic {
    async fn run(self, context: &Context) -> Outcome {
        let group = safe_text::line(&self.group);
        let done = match safe_text::line(&self.topic) {
            topic if topic.is_empty() => format!("{group} has no topic any more"),
            topic => format!("{group} is about: {topic}"),
        };
        let request = GroupTopic { account: context.account.clone(), group: self.group, topic: self.topic };
        let answer = change::<method::SetGroupTopic>(&request, context).await?;
        report(&answer, &done, context)
    }
}

impl Members {
    async fn change<M>(self, done: &str, context: &Context) -> Outcome
    where
        M: Method<Params = OfMembers, Result = Shown>,
    {
        let done = format!("{}: {done} {}", self.names(), safe_text::line(&self.group));
        let request = OfMembers { account: context.account.clone(), group: self.group, members: self.members };
        let answer = change::<M>(&request, context).await?;
        report(&answer, &done, context)
    }

    /// The people, for people.
    fn names(&self) -> String {
        self.members.iter().map(|name| safe_text::line(name)).collect::<Vec<_>>().join(", ")
    }
}

impl Remove {
    async fn run(self, context: &Context) -> Outcome {
        let question = format!("Remove {BOLD}{}{BOLD:#} from {}?", self.who.names(), safe_text::line(&self.who.group));
        consent(self.yes, &question)?;
        self.who.change::<method::RemoveGroupMembers>("removed from", context).await
    }
}

impl Ending {
    async fn leave(self, context: &Context) -> Outcome {
        let group = safe_text::line(&self.group);
        consent(self.yes, &format!("Leave {BOLD}{group}{BOLD:#}? Only an admin can bring you back."))?;
        let answer = self.call::<method::LeaveGroup>(context).await?;
        report(&answer, &format!("you have left {group}"), context)
    }

    async fn delete(self, context: &Context) -> Outcome {
        let group = safe_text::line(&self.group);
        insist(self.yes, &format!("End {BOLD}{group}{BOLD:#} for everybody? It cannot be brought back."))?;
        let answer = self.call::<method::DeleteGroup>(context).await?;
        report(&answer, &format!("{group} has ended for everybody"), context)
    }

    async fn call<M: Method<Params = OfGroup, Result = Shown>>(
        self,
        context: &Context,
    ) -> Result<Answer<Shown>, Failure> {
        change::<M>(&OfGroup { account: context.account.clone(), group: self.group }, context).await
    }
}
