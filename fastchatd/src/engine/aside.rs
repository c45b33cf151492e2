//! What is done for an account over connections of its own, beside the link: passwords, identities, links.
//!
//! The core gives keys and takes results; it never waits for any of this.
//!
//! **Invariant**: a password and an identity are changed one at a time, so a backup on the server is never sealed under a
//! password that another call has just replaced.

use fastchat_ipc::{
    ApiError, Empty, ErrorCode, LinkCode, LinkConsent, LinkFinish, LinkRequest, OfLink, Request, Rotation,
};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Mutex, oneshot};

use super::{
    front::{Front, stopping},
    now_ms,
    thread::Job,
};
use crate::{
    device_link::{KnownSide, Links, NewSide},
    sign_in::{self, Access, Planned},
};

/// What waits between two calls.
#[derive(Default)]
pub(super) struct Asides {
    new: Mutex<Links<NewSide>>,
    known: Mutex<Links<KnownSide>>,
}

/// Whether a call has to wait for people, keyrings or servers in a way that the core does not.
pub(super) fn is_aside(request: &Request) -> bool {
    matches!(
        request,
        Request::Register(_)
            | Request::Login(_)
            | Request::DaemonUnlock(_)
            | Request::ChangePassword(_)
            | Request::RotateKey(_)
            | Request::BeginLink(_)
            | Request::AwaitLink(_)
            | Request::FinishLink(_)
            | Request::LinkDevice(_)
            | Request::ConfirmDeviceLink(_)
            | Request::CreateBackup(_)
            | Request::VerifyBackup(_)
            | Request::RestoreBackup(_)
    )
}

impl Front {
    /// The calls that are neither signing in nor unlocking.
    pub(super) async fn serve_account(&self, request: Request) -> Result<Value, ApiError> {
        match request {
            Request::ChangePassword(params) => {
                let _turn = self.turn.lock().await;
                sign_in::change_password(&self.access(params.account.clone()).await?, &params).await?;
                value(&Empty {})
            }
            Request::RotateKey(params) => self.rotate(params).await,
            Request::BeginLink(params) => self.begin_link(&params).await,
            Request::AwaitLink(params) => self.await_link(&params).await,
            Request::FinishLink(params) => self.finish_link(&params).await,
            Request::LinkDevice(params) => self.link_device(params).await,
            Request::ConfirmDeviceLink(params) => self.confirm_device_link(&params).await,
            Request::CreateBackup(params) => self.create_backup(params).await,
            Request::VerifyBackup(params) => self.verify_backup(params).await,
            Request::RestoreBackup(params) => self.restore_backup(params).await,
            other => Err(ApiError::new(ErrorCode::Internal, format!("{} does not come here", other.name()))),
        }
    }

    async fn access(&self, account: String) -> Result<Access, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.jobs()?.send(Job::Access(account, answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    async fn rotate(&self, params: Rotation) -> Result<Value, ApiError> {
        let _turn = self.turn.lock().await;
        let access = self.access(params.account).await?;
        let rotated = match sign_in::plan_rotation(access, &params.password).await? {
            Planned::Done(rotated) => rotated,
            Planned::New(plan) => {
                let prepared = Box::new(plan.prepared()?);
                self.ask(|answer| Job::RotationPrepared(prepared, answer)).await?;
                Box::new(plan.carry_out().await?)
            }
        };
        self.ask(|answer| Job::Rotated(rotated, answer)).await
    }

    async fn begin_link(&self, params: &LinkRequest) -> Result<Value, ApiError> {
        let server = sign_in::server(&params.address)?;
        self.asides.new.lock().await.room()?;
        let known = {
            let _turn = self.turn.lock().await;
            self.rehearse(params.key_store, &params.passphrase).await?;
            match self.jobs() {
                Ok(jobs) => {
                    let (answer, answered) = oneshot::channel();
                    jobs.send(Job::PinOf(server, answer)).await.map_err(|_| stopping())?;
                    answered.await.map_err(|_| stopping())?
                }
                Err(error) if error.code == ErrorCode::NoAccount => None,
                Err(error) => return Err(error),
            }
        };
        let (link, begun) = NewSide::begin(params, known, now_ms()).await?;
        self.asides.new.lock().await.put(link);
        value(&begun)
    }

    async fn await_link(&self, params: &OfLink) -> Result<Value, ApiError> {
        let link = self.asides.new.lock().await.take(&params.link)?;
        let (link, outcome) = link.wait(params.timeout_ms).await;
        let mut links = self.asides.new.lock().await;
        match link {
            Some(link) => drop(links.put(link)),
            None => links.forget(&params.link),
        }
        value(&outcome?)
    }

    async fn finish_link(&self, params: &LinkFinish) -> Result<Value, ApiError> {
        let link = self.asides.new.lock().await.take(&params.link)?;
        let outcome = self.come_in_by(link, params.accept).await;
        self.asides.new.lock().await.forget(&params.link);
        outcome
    }

    async fn come_in_by(&self, link: NewSide, accept: bool) -> Result<Value, ApiError> {
        if let Some(account) = link.account().filter(|_| accept)
            && let Err(error) = self.may_sign_in(account).await
        {
            link.abandon().await;
            return Err(error);
        }
        let asked = link.asked().clone();
        let invited = link.agree(accept).await?;
        let _turn = self.turn.lock().await;
        self.come_in(asked.key_store, &asked.passphrase, invited.log_in()).await
    }

    async fn link_device(&self, params: LinkCode) -> Result<Value, ApiError> {
        self.asides.known.lock().await.room()?;
        let access = self.access(params.account).await?;
        let (link, offer) = KnownSide::begin(access, &params.code).await?;
        self.asides.known.lock().await.put(link);
        value(&offer)
    }

    async fn confirm_device_link(&self, params: &LinkConsent) -> Result<Value, ApiError> {
        let link = self.asides.known.lock().await.take(&params.link)?;
        let outcome = self.let_in(link, params.accept).await;
        self.asides.known.lock().await.forget(&params.link);
        outcome
    }

    async fn let_in(&self, link: KnownSide, accept: bool) -> Result<Value, ApiError> {
        let account = link.account();
        let consented = link.consent(accept).await?;
        let grant = self.ask(|answer| Job::Grant(account, answer)).await.and_then(|granted| grant_in(&granted));
        match grant {
            Ok(grant) => value(&consented.hand_over(&grant, now_ms()).await?),
            Err(error) => {
                consented.abandon().await;
                Err(error)
            }
        }
    }
}

/// The core's answer to [`Job::Grant`].
fn grant_in(granted: &Value) -> Result<[u8; 32], ApiError> {
    let bytes = granted.get("grant").and_then(Value::as_array).into_iter().flatten();
    let bytes: Vec<u8> = bytes.filter_map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
    bytes.try_into().map_err(|_| ApiError::new(ErrorCode::Server, "the server's grant is none").hint("begin again"))
}

pub(super) fn value(result: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(result).map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}
