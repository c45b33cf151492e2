//! The thread that owns the core.
//!
//! **Invariant**: it never waits for anything but its inputs, its deadlines and the disk.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Context;
use fastchat_ipc::{ApiError, Event, KeyStore, Request, Restored};
use fastchat_wire::{Address, Pin, ServerAddress};
use tokio::{
    runtime::Handle,
    sync::{broadcast, mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    api::{Alert, Surroundings},
    backup::{ChatRecord, ContactRecord, Header, MessageRecord, Record},
    core::{Action, AlertDefaults, BackupPage, BackupPlace, CallId, Core, Input, Process},
    fault,
    link::{self, AccountKey, FromLink, LinkSettings, ToLink, Token},
    root_key::RootKey,
    sign_in::{Access, PreparedRotation, Rotated, SignedIn},
    store::Store,
};

use super::{Answer, now_ms};

/// Inputs that wait for the thread at most.
const INPUTS: usize = 1024;
/// Frames that wait for a link at most.
const FRAMES: usize = 4096;
/// Inputs that are taken in before the next `fdatasync`.
const ROUND: usize = 256;
/// The thread looks around at least this often.
const IDLE: Duration = Duration::from_secs(60);

/// Something for the thread to do.
pub(super) enum Job {
    /// A call of the API.
    Call(Request, Answer),
    /// News of a link.
    Link(AccountKey, FromLink),
    /// Somebody signed in.
    SignedIn(Box<SignedIn>, Answer),
    /// A new identity is to be made durable before the server hears of it.
    RotationPrepared(Box<PreparedRotation>, Answer),
    /// The server has an account's new identity.
    Rotated(Box<Rotated>, Answer),
    /// The server's grant for a device that is being linked to this account.
    Grant(String, Answer),
    /// An account's keys, for work aside.
    Access(String, oneshot::Sender<Result<Access, ApiError>>),
    /// What a backup of an account begins with, made at this time.
    BackupHeader(String, u64, oneshot::Sender<Result<(Header, Record), ApiError>>),
    /// A page of a backup of an account.
    BackupPage(String, BackupPlace, oneshot::Sender<Result<BackupPage, ApiError>>),
    /// Whether a backup of an account may be restored to an account here; then its full name.
    MayRestore(String, String, oneshot::Sender<Result<String, ApiError>>),
    /// Contacts of a backup, and the counts so far.
    RestoredContacts(String, Vec<ContactRecord>, Restored, Answer),
    /// A chat of a backup with messages of it, and the counts so far.
    RestoredChat(String, Box<ChatRecord>, Vec<MessageRecord>, Restored, Answer),
    /// The key that a server is known by.
    PinOf(ServerAddress, oneshot::Sender<Option<Pin>>),
    /// Whether somebody may sign in under this address; then the key that its server is known by.
    MaySignIn(Address, oneshot::Sender<Result<Option<Pin>, ApiError>>),
    /// Finish, and end.
    Stop(oneshot::Sender<()>),
}

impl From<(AccountKey, FromLink)> for Job {
    fn from((account, news): (AccountKey, FromLink)) -> Self {
        Self::Link(account, news)
    }
}

/// Where the thread's results go.
#[derive(Clone)]
pub(super) struct Outlets {
    pub(super) events: broadcast::Sender<Event>,
    pub(super) alerts: mpsc::Sender<Alert>,
    pub(super) surroundings: watch::Receiver<Surroundings>,
    pub(super) broken: mpsc::Sender<anyhow::Error>,
}

/// What the thread is started with.
pub(super) struct Start {
    pub(super) root: RootKey,
    pub(super) key_store: KeyStore,
    pub(super) started_at_ms: u64,
    pub(super) alerts: AlertDefaults,
}

/// Opens the store in `directory` and starts the thread. Blocks.
///
/// # Errors
/// The store cannot be opened.
pub(super) fn start(
    directory: &Path,
    start: Start,
    outlets: Outlets,
    runtime: Handle,
) -> anyhow::Result<mpsc::Sender<Job>> {
    let store = Store::open(directory, start.root.as_bytes(), start.key_store)
        .with_context(|| format!("the store in {} cannot be opened", directory.display()))?;
    let process = Process { started_at_ms: start.started_at_ms, key_store: start.key_store, alerts: start.alerts };
    let core = Core::new(store, process, now_ms())?;
    let (jobs, inputs) = mpsc::channel(INPUTS);
    let thread = Thread {
        core,
        jobs: jobs.downgrade(),
        outlets,
        runtime,
        links: BTreeMap::new(),
        owners: BTreeMap::new(),
        next_link: 1,
        answers: BTreeMap::new(),
        next_call: 1,
    };
    std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || thread.run(inputs))
        .context("the engine's thread")?;
    Ok(jobs)
}

/// An account's link, as the thread holds it.
struct Link {
    number: AccountKey,
    orders: mpsc::Sender<ToLink>,
    settings: LinkSettings,
}

struct Thread {
    core: Core,
    jobs: mpsc::WeakSender<Job>,
    outlets: Outlets,
    runtime: Handle,
    links: BTreeMap<AccountKey, Link>,
    /// Which account each link is of. A link goes by a number of its own, so that the last words of one that was replaced
    /// are not taken for those of its successor.
    owners: BTreeMap<AccountKey, AccountKey>,
    next_link: u32,
    answers: BTreeMap<CallId, Answer>,
    next_call: u64,
}

impl Thread {
    fn run(mut self, mut inputs: mpsc::Receiver<Job>) {
        let runtime = self.runtime.clone();
        if let Err(error) = self.rounds(&runtime, &mut inputs) {
            let error = anyhow::Error::new(error)
                .context("the store cannot be used any more; nothing was lost of what was confirmed");
            // The receiver ends the process; when it is gone, the process ends anyway.
            let _ = self.outlets.broken.blocking_send(error);
        }
    }

    fn rounds(&mut self, runtime: &Handle, inputs: &mut mpsc::Receiver<Job>) -> Result<(), crate::core::Broken> {
        self.carry_out()?;
        loop {
            let mut ends = Vec::new();
            let first = match runtime.block_on(async { timeout(self.patience(), inputs.recv()).await }) {
                Ok(Some(job)) => Some(job),
                Ok(None) => return Ok(()),
                Err(_) => None,
            };
            self.core.set_surroundings(self.outlets.surroundings.borrow().clone());
            self.core.step(now_ms(), Input::Tick)?;
            for job in first.into_iter().chain(std::iter::from_fn(|| inputs.try_recv().ok())).take(ROUND) {
                ends.extend(self.take(job)?);
            }
            self.carry_out()?;
            if !ends.is_empty() {
                self.links.clear();
                for end in ends {
                    // Whoever asked may be gone.
                    let _ = end.send(());
                }
                return Ok(());
            }
        }
    }

    fn patience(&self) -> Duration {
        let until = self.core.next_deadline().map(|at| Duration::from_millis(at.saturating_sub(now_ms())));
        until.map_or(IDLE, |until| until.min(IDLE))
    }

    /// Takes a job in. Gives where to say that the end is reached, if that is what was asked for.
    fn take(&mut self, job: Job) -> Result<Option<oneshot::Sender<()>>, crate::core::Broken> {
        match job {
            Job::Call(request, answer) => {
                let call = self.number(answer);
                self.core.step(now_ms(), Input::Call(call, request))?;
            }
            Job::Link(number, news) => {
                if let Some(account) = self.owners.get(&number).copied() {
                    self.keep_token(account, &news);
                    self.core.step(now_ms(), Input::Link(account, news))?;
                }
            }
            Job::SignedIn(signed, answer) => {
                let call = self.number(answer);
                self.core.step(now_ms(), Input::SignedIn(call, signed))?;
            }
            Job::RotationPrepared(prepared, answer) => {
                let call = self.number(answer);
                self.core.step(now_ms(), Input::RotationPrepared(call, prepared))?;
            }
            Job::Rotated(rotated, answer) => {
                let call = self.number(answer);
                self.core.step(now_ms(), Input::Rotated(call, rotated))?;
            }
            Job::Grant(account, answer) => {
                let call = self.number(answer);
                self.core.step(now_ms(), Input::Grant(call, account))?;
            }
            Job::BackupHeader(account, now, answer) => drop(answer.send(self.core.backup_header(&account, now))),
            Job::BackupPage(account, place, answer) => drop(answer.send(self.core.backup_page(&account, place))),
            Job::MayRestore(account, of, answer) => drop(answer.send(self.core.may_restore(&account, &of))),
            Job::RestoredContacts(account, records, restored, answer) => {
                let call = self.number(answer);
                self.core.step(now_ms(), Input::RestoredContacts(call, account, records, restored))?;
            }
            Job::RestoredChat(account, chat, messages, restored, answer) => {
                let call = self.number(answer);
                self.core.step(now_ms(), Input::RestoredChat(call, account, chat, messages, restored))?;
            }
            Job::Access(account, answer) => drop(answer.send(self.core.access(&account))),
            Job::PinOf(server, answer) => drop(answer.send(self.core.pin_of(&server))),
            // A caller that is gone does not need to know.
            Job::MaySignIn(address, answer) => drop(answer.send(self.core.may_sign_in(&address))),
            Job::Stop(end) => return Ok(Some(end)),
        }
        Ok(None)
    }

    fn number(&mut self, answer: Answer) -> CallId {
        let call = CallId(self.next_call);
        self.next_call += 1;
        self.answers.retain(|_, answer| !answer.is_closed());
        self.answers.insert(call, answer);
        call
    }

    fn carry_out(&mut self) -> Result<(), crate::core::Broken> {
        let actions = self.core.sync()?;
        fault::synced();
        for action in actions {
            match action {
                Action::Answer(call, outcome) => {
                    if let Some(answer) = self.answers.remove(&call) {
                        // Whoever asked may be gone.
                        let _ = answer.send(outcome);
                    }
                }
                Action::StartLink(account, settings) => self.start_link(account, settings),
                Action::StopLink(account) => self.stop_link(account),
                Action::Link(account, order) => self.tell_link(account, order),
                // Without subscribers there is nobody to tell.
                Action::Announce(event) => drop(self.outlets.events.send(event)),
                Action::Alert(alert) => {
                    if self.outlets.alerts.try_send(alert).is_err() {
                        tracing::debug!("the notifier is behind; the next notification shows what is unread");
                    }
                }
                Action::TestNotification(call) => self.test_notification(call),
            }
        }
        fault::sent();
        Ok(())
    }

    fn start_link(&mut self, account: AccountKey, settings: LinkSettings) {
        self.stop_link(account);
        let Some(jobs) = self.jobs.upgrade() else { return };
        let (orders, ordered) = mpsc::channel(FRAMES);
        let number = AccountKey(self.next_link);
        self.next_link += 1;
        let _entered = self.runtime.enter();
        drop(link::spawn(number, settings.clone(), ordered, jobs));
        self.owners.insert(number, account);
        self.links.insert(account, Link { number, orders, settings });
    }

    /// A link that is started again goes by the newest token.
    fn keep_token(&mut self, account: AccountKey, news: &FromLink) {
        if let FromLink::Up(up) = news
            && let Some(token) = Token::from_bytes(&up.session.token)
            && let Some(link) = self.links.get_mut(&account)
        {
            link.settings.token = token;
        }
    }

    fn stop_link(&mut self, account: AccountKey) {
        if let Some(link) = self.links.remove(&account) {
            self.owners.remove(&link.number);
        }
    }

    fn tell_link(&mut self, account: AccountKey, order: ToLink) {
        let Some(link) = self.links.get(&account) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = link.orders.try_send(order) {
            // The server takes nothing any more. A new connection begins from what is durable.
            tracing::warn!("the connection is stuck; a new one takes its place");
            let settings = link.settings.clone();
            self.start_link(account, settings);
        }
    }

    fn test_notification(&mut self, call: CallId) {
        let Some(answer) = self.answers.remove(&call) else { return };
        let (alerts, jobs) = (self.outlets.alerts.clone(), self.jobs.clone());
        self.runtime.spawn(async move {
            let (shown, outcome) = oneshot::channel();
            let sent = alerts.send(Alert::Test(shown)).await;
            let outcome = match (sent, outcome.await) {
                (Ok(()), Ok(outcome)) => outcome,
                _ => Err(ApiError::new(fastchat_ipc::ErrorCode::ShuttingDown, "notifications are stopping")),
            };
            match (outcome, jobs.upgrade()) {
                (Ok(()), Some(jobs)) => {
                    let request = Request::NotificationStatus(fastchat_ipc::Empty {});
                    // The engine is stopping when it takes nothing any more; the caller's channel closes then.
                    let _ = jobs.send(Job::Call(request, answer)).await;
                }
                (Err(error), _) => drop(answer.send(Err(error))),
                (Ok(()), None) => {}
            }
        });
    }
}
