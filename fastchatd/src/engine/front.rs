//! What stands before the core: unlocking, signing in, and answers while there is no core yet.
//!
//! **Invariant**: the key of the store is made once, with the first account, and kept only when that account was made.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use fastchat_ipc::{
    ApiError, Check, Doctor, ErrorCode, Event, EventKind, Events, KeyStore, Request, SignIn, Status, Subscribed,
    Unlock, Verdict,
};
use fastchat_wire::{Address, Pin};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{Mutex, broadcast, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Alert, Call, Surroundings},
    core::discovery,
    root_key::{self, Found, RootKey},
    sign_in::{self, SignedIn},
};

use super::{
    Answer, EngineSettings,
    aside::{Asides, is_aside},
    now_ms,
    thread::{self, Job, Outlets, Start},
};

/// Where the daemon stands.
enum Stage {
    /// No account was ever made here.
    Nothing,
    /// There is a store and its key is not here; why.
    Locked(KeyStore, String),
    /// The core works.
    Open(mpsc::Sender<Job>),
}

pub(super) struct Front {
    settings: EngineSettings,
    outlets: Outlets,
    started_at_ms: u64,
    stage: watch::Sender<Arc<Stage>>,
    /// One sign-in, unlocking, change of a password or an identity at a time.
    pub(super) turn: Mutex<()>,
    pub(super) asides: Asides,
}

impl Front {
    pub(super) fn new(
        settings: EngineSettings,
        events: broadcast::Sender<Event>,
        surroundings: watch::Receiver<Surroundings>,
        alerts: mpsc::Sender<Alert>,
        broken: mpsc::Sender<anyhow::Error>,
    ) -> Self {
        let outlets = Outlets { events, alerts, surroundings, broken };
        let (stage, _) = watch::channel(Arc::new(Stage::Nothing));
        Self { settings, outlets, started_at_ms: now_ms(), stage, turn: Mutex::new(()), asides: Asides::default() }
    }

    pub(super) async fn serve(self, mut calls: mpsc::Receiver<Call>, stop: CancellationToken) -> anyhow::Result<()> {
        self.begin().await?;
        let front = Arc::new(self);
        let mut asides = JoinSet::new();
        loop {
            let call = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = asides.join_next(), if !asides.is_empty() => continue,
                call = calls.recv() => call,
            };
            let Some(Call { request, answer }) = call else { break };
            let front = Arc::clone(&front);
            match request {
                request if is_aside(&request) => {
                    asides.spawn(async move { front.aside(request, answer).await });
                }
                request => front.pass(request, answer).await,
            }
        }
        asides.abort_all();
        front.finish().await;
        Ok(())
    }

    /// Looks for the key, and opens the store if that needs nobody's help.
    async fn begin(&self) -> anyhow::Result<()> {
        let (found, key_store) = root_key::find(&self.settings.data).await?;
        match found {
            Found::Nothing if self.store_directory().exists() => anyhow::bail!(
                "{} holds a store, but the record of its key ({}) is gone: put it back from a backup, or move the \
                 store away",
                self.store_directory().display(),
                self.settings.data.join("key.toml").display()
            ),
            Found::Nothing => {}
            Found::Ready(root) => {
                self.open(root, key_store).await?;
            }
            Found::NeedsPassphrase => self.lock(key_store, "the store is locked with a passphrase"),
            Found::NeedsSecretService(why) => self.lock(key_store, &why),
        }
        Ok(())
    }

    fn lock(&self, key_store: KeyStore, why: &str) {
        tracing::info!("the store is locked: {why}");
        self.stage.send_replace(Arc::new(Stage::Locked(key_store, why.to_owned())));
    }

    async fn open(&self, root: RootKey, key_store: KeyStore) -> anyhow::Result<mpsc::Sender<Job>> {
        let start = Start { root, key_store, started_at_ms: self.started_at_ms, alerts: self.settings.alerts };
        let directory = self.store_directory();
        let (outlets, runtime) = (self.outlets.clone(), Handle::current());
        let opened = tokio::task::spawn_blocking(move || thread::start(&directory, start, outlets, runtime));
        let jobs = opened.await.context("opening the store")??;
        self.stage.send_replace(Arc::new(Stage::Open(jobs.clone())));
        Ok(jobs)
    }

    fn store_directory(&self) -> PathBuf {
        self.settings.data.join("store")
    }

    /// Passes a call to the core, or answers it in its place.
    async fn pass(&self, request: Request, answer: Answer) {
        let stage = Arc::clone(&self.stage.borrow());
        let outcome = match stage.as_ref() {
            Stage::Open(jobs) => {
                // The engine is stopping when it takes nothing any more; the caller's channel closes then.
                let _ = jobs.send(Job::Call(request, answer)).await;
                return;
            }
            Stage::Nothing => self.answer_without_store(&request, KeyStore::Auto, None),
            Stage::Locked(key_store, why) => self.answer_without_store(&request, *key_store, Some(why)),
        };
        // A caller that is gone does not need to know.
        let _ = answer.send(outcome);
    }

    fn answer_without_store(
        &self,
        request: &Request,
        key_store: KeyStore,
        locked: Option<&String>,
    ) -> Result<Value, ApiError> {
        let value = |value: Result<Value, serde_json::Error>| {
            value.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
        };
        match request {
            Request::Discover(_) => value(serde_json::to_value(discovery())),
            Request::DaemonStatus(_) => value(serde_json::to_value(self.status(key_store, locked.is_some()))),
            Request::DaemonDoctor(_) => value(serde_json::to_value(doctor(locked))),
            Request::ListAccounts(_) if locked.is_none() => Ok(serde_json::json!({ "accounts": [] })),
            Request::SubscribeEvents(_) if locked.is_none() => {
                value(serde_json::to_value(Subscribed { cursor: "0".into() }))
            }
            Request::ReadEventLog(params) if locked.is_none() => value(serde_json::to_value(no_events(&params.since))),
            _ => Err(locked.map_or_else(no_account, |why| self::locked(why))),
        }
    }

    fn status(&self, key_store: KeyStore, locked: bool) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: now_ms().saturating_sub(self.started_at_ms),
            locked,
            key_store,
            bus: self.outlets.surroundings.borrow().bus,
            cursor: "0".into(),
            accounts: Vec::new(),
        }
    }

    /// A call that has to wait for people, keyrings or servers.
    async fn aside(&self, request: Request, answer: Answer) {
        let outcome = match request {
            Request::Register(params) => self.sign_in(params, true).await,
            Request::Login(params) => self.sign_in(params, false).await,
            Request::DaemonUnlock(params) => self.unlock(&params).await,
            other => self.serve_account(other).await,
        };
        // A caller that is gone does not need to know.
        let _ = answer.send(outcome);
    }

    async fn unlock(&self, params: &Unlock) -> Result<Value, ApiError> {
        let _turn = self.turn.lock().await;
        let stage = Arc::clone(&self.stage.borrow());
        if let Stage::Locked(key_store, _) = stage.as_ref() {
            let root = root_key::unlock(&self.settings.data, &params.passphrase).await?;
            self.open(root, *key_store).await.map_err(|error| broken_store(&error))?;
        }
        let (answer, answered) = oneshot::channel();
        self.pass(Request::DaemonStatus(fastchat_ipc::Empty {}), answer).await;
        answered.await.map_err(|_| stopping())?
    }

    async fn sign_in(&self, mut params: SignIn, new: bool) -> Result<Value, ApiError> {
        let _turn = self.turn.lock().await;
        let known = self.may_sign_in(&sign_in::address(&params.address)?).await?;
        // What is known of the server counts, unless the caller names another key.
        if let Some(pin) = known.filter(|_| params.pin.is_empty()) {
            params.pin = pin.to_string();
        }
        let signing = async { if new { sign_in::register(&params).await } else { sign_in::login(&params).await } };
        self.come_in(params.key_store, &params.passphrase, signing).await
    }

    /// Whether somebody may sign in under this address; gives the key that its server is known by.
    pub(super) async fn may_sign_in(&self, address: &Address) -> Result<Option<Pin>, ApiError> {
        let stage = Arc::clone(&self.stage.borrow());
        match stage.as_ref() {
            Stage::Open(jobs) => {
                let (answer, answered) = oneshot::channel();
                jobs.send(Job::MaySignIn(address.clone(), answer)).await.map_err(|_| stopping())?;
                answered.await.map_err(|_| stopping())?
            }
            Stage::Locked(_, why) => Err(locked(why)),
            Stage::Nothing => Ok(None),
        }
    }

    /// Signs in, and gives the account to the core; with the first account the key of the store is made. It takes a turn
    /// of its own: the caller has it.
    pub(super) async fn come_in(
        &self,
        key_store: KeyStore,
        passphrase: &str,
        signing: impl Future<Output = Result<SignedIn, ApiError>>,
    ) -> Result<Value, ApiError> {
        let stage = Arc::clone(&self.stage.borrow());
        let first = match stage.as_ref() {
            Stage::Locked(_, why) => return Err(locked(why)),
            Stage::Open(_) => None,
            Stage::Nothing => Some(root_key::create(&self.settings.data, key_store, passphrase).await?),
        };
        let signed = match signing.await {
            Ok(signed) => signed,
            Err(error) => {
                if first.is_some() {
                    root_key::discard(&self.settings.data).await;
                }
                return Err(error);
            }
        };
        if let Some((root, key_store)) = first {
            self.open(root, key_store).await.map_err(|error| broken_store(&error))?;
        }
        self.ask(|answer| Job::SignedIn(Box::new(signed), answer)).await
    }

    /// Has the core do something, and waits for what comes of it.
    pub(super) async fn ask(&self, job: impl FnOnce(Answer) -> Job) -> Result<Value, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.jobs()?.send(job(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// The way to the core.
    pub(super) fn jobs(&self) -> Result<mpsc::Sender<Job>, ApiError> {
        match self.stage.borrow().as_ref() {
            Stage::Open(jobs) => Ok(jobs.clone()),
            Stage::Locked(_, why) => Err(locked(why)),
            Stage::Nothing => Err(no_account()),
        }
    }

    /// Whether the key store that was chosen can be had, before somebody goes to the trouble of linking.
    pub(super) async fn rehearse(&self, key_store: KeyStore, passphrase: &str) -> Result<(), ApiError> {
        let stage = Arc::clone(&self.stage.borrow());
        if matches!(stage.as_ref(), Stage::Nothing) {
            root_key::create(&self.settings.data, key_store, passphrase).await?;
            root_key::discard(&self.settings.data).await;
        }
        Ok(())
    }

    /// Lets the core finish what it has taken in.
    async fn finish(&self) {
        let stage = Arc::clone(&self.stage.borrow());
        if let Stage::Open(jobs) = stage.as_ref() {
            let (end, ended) = oneshot::channel();
            if jobs.send(Job::Stop(end)).await.is_ok() {
                // When the thread is gone already, there is nothing to wait for.
                let _ = ended.await;
            }
        }
    }
}

/// The event log where there is none. A cursor of an earlier store would hide the first events of the next one.
fn no_events(since: &str) -> Events {
    let cursor = String::from("0");
    let lost = || Event {
        cursor: cursor.clone(),
        at_ms: now_ms(),
        account: String::new(),
        durable: true,
        kind: EventKind::EventsLost {},
    };
    let events = if since.is_empty() || since == cursor { Vec::new() } else { vec![lost()] };
    Events { events, cursor }
}

fn doctor(locked: Option<&String>) -> Doctor {
    let (verdict, found, next) = match locked {
        Some(why) => (Verdict::Failed, format!("locked: {why}"), "fastchatctl unlock"),
        None => (Verdict::Warning, "no account yet, so no store".to_owned(), "fastchatctl register NAME@HOST"),
    };
    Doctor { checks: vec![Check { check: "store".into(), verdict, found, next: next.into() }] }
}

fn locked(why: &str) -> ApiError {
    ApiError::new(ErrorCode::Locked, format!("the store is locked: {why}")).hint("`fastchatctl unlock`")
}

fn no_account() -> ApiError {
    ApiError::new(ErrorCode::NoAccount, "there is no account yet")
        .hint("`fastchatctl register NAME@HOST` makes one, `fastchatctl login NAME@HOST` brings yours here")
}

fn broken_store(error: &anyhow::Error) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("{error:#}")).hint("the daemon's log says more")
}

pub(super) fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the daemon is stopping")
}
