//! Another identity for an account, after the old one was stolen.
//!
//! The server takes the new identity in one step, this device in another, and anything may end between the two. So:
//! 1. [`plan_rotation`] checks the password, makes the identity, and certifies this device with it.
//! 2. The core makes [`RotationPlan::prepared`] durable.
//! 3. [`RotationPlan::carry_out`] tells the server; without an answer it asks what the server has.
//! 4. The core takes [`Rotated`] over and forgets what was prepared.
//!
//! A daemon that ends between 2 and 4 finds the prepared identity at its next start. Which of the two counts is what the
//! server gives as the account's key (`GetAccount` of the own name, as soon as a session stands): if that is the prepared
//! one, step 4 follows; if it is the old one, the prepared one is worth nothing. A repeated `key.rotate` looks first as
//! well. The server cannot choose for us: only a key that was made here is ever taken over.
//!
//! **Invariant**: the server hears of no identity that is not durable here.

use std::{fmt, time::Duration};

use fastchat_e2ee::{Device, Identity};
use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{Address, DeviceId, v1};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{Access, aside, defect, derive, exchange::Exchange, in_time, is_certain, request, seal};
use crate::link::Trust;

/// How often the server is told, when its answer does not come.
const ATTEMPTS: u32 = 3;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// An account under its new identity, which the server has.
#[derive(Debug)]
pub struct Rotated {
    /// Whose.
    pub account: Address,
    /// The new identity.
    pub identity: Identity,
    /// This device, certified by it.
    pub device: Device,
}

/// A new identity that the server has not heard of, as it is to be stored. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PreparedRotation {
    /// Whose.
    pub account: Address,
    /// The identity, as `Identity::to_bytes` writes it.
    pub identity: Zeroizing<Vec<u8>>,
    /// This device under it, as `Device::to_bytes` writes it.
    pub device: Zeroizing<Vec<u8>>,
}

impl PreparedRotation {
    /// As one record, for the store.
    ///
    /// # Errors
    /// It does not encode (it always does).
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let pair = (self.identity.as_slice(), self.device.as_slice());
        let room = Vec::with_capacity(self.identity.len() + self.device.len() + 20);
        postcard::to_extend(&pair, room).map(Zeroizing::new).map_err(|error| defect(&error))
    }

    /// Reads what [`PreparedRotation::to_bytes`] wrote; `None` for anything else.
    #[must_use]
    pub fn keys(record: &[u8]) -> Option<(Identity, Device)> {
        let (identity, device): (&[u8], &[u8]) = postcard::from_bytes(record).ok()?;
        Some((Identity::from_bytes(identity).ok()?, Device::from_bytes(device).ok()?))
    }
}

impl fmt::Debug for PreparedRotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedRotation({}, keys hidden)", self.account)
    }
}

/// What follows from asking for a rotation.
#[derive(Debug)]
pub enum Planned {
    /// The server has the identity of an earlier attempt: it is to be taken over.
    Done(Box<Rotated>),
    /// A new one is ready.
    New(Box<RotationPlan>),
}

/// A rotation that the server has not heard of.
pub struct RotationPlan {
    rotated: Rotated,
    trust: Trust,
    old_key: Vec<u8>,
    asked: v1::RotateIdentity,
}

impl fmt::Debug for RotationPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RotationPlan({})", self.rotated.account)
    }
}

/// Checks the password and makes the new identity. Changes nothing on the server.
///
/// # Errors
/// The password is wrong, the server is not reached, or the account has an identity that this device does not know.
pub async fn plan_rotation(access: Access, password: &str) -> Result<Planned, ApiError> {
    let password = request::password(password)?;
    in_time("rotating the identity", async {
        let mut exchange = Exchange::begin(&access.address, access.trust()).await?;
        let keys = derive(&password, access.name(), exchange.password_params().await?).await?;
        let session = exchange.check(&keys.auth).await?;
        exchange.close().await;
        let (trust, name) = (access.trust(), access.name().to_owned());
        let Access { address, identity: old, device, prepared, .. } = &access;
        let of_server = |(identity, _): &&(Identity, Device)| session.identity_key == identity.public().to_der();
        if prepared.as_ref().filter(of_server).is_some()
            && let Some((identity, device)) = access.prepared
        {
            return Ok(Planned::Done(Box::new(Rotated { account: access.address, identity, device })));
        }
        access.agrees(&session)?;
        let identity = aside(Identity::generate).await?.map_err(|error| defect(&error))?;
        let device = device.recertify(&identity).map_err(|error| defect(&error))?;
        let asked = v1::RotateIdentity {
            account: name.clone(),
            auth_secret: keys.auth.to_string(),
            identity_key: identity.public().to_der().to_vec().into(),
            identity_backup: seal(&keys, &identity, &name)?.into(),
            device: DeviceId(device.id()).to_wire(),
            certificate: device.certificate().to_vec().into(),
        };
        let old_key = old.public().to_der().to_vec();
        let rotated = Rotated { account: address.clone(), identity, device };
        Ok(Planned::New(Box::new(RotationPlan { rotated, trust, old_key, asked })))
    })
    .await
}

impl RotationPlan {
    /// What has to be durable before [`RotationPlan::carry_out`].
    ///
    /// # Errors
    /// The keys do not encode (they always do).
    pub fn prepared(&self) -> Result<PreparedRotation, ApiError> {
        let Rotated { account, identity, device } = &self.rotated;
        Ok(PreparedRotation {
            account: account.clone(),
            identity: identity.to_bytes().map_err(|error| defect(&error))?,
            device: device.to_bytes().map_err(|error| defect(&error))?,
        })
    }

    /// Tells the server.
    ///
    /// # Errors
    /// The server refuses, or it is not known what it did: then what was prepared must stay.
    pub async fn carry_out(self) -> Result<Rotated, ApiError> {
        in_time("rotating the identity", async {
            let mut last = None;
            for attempt in 0..ATTEMPTS {
                if attempt > 0 {
                    sleep(PAUSE).await;
                }
                match self.attempt(attempt > 0).await {
                    Ok(()) => return Ok(self.rotated),
                    Err(error) if is_certain(&error) => return Err(error),
                    Err(error) => last = Some(error),
                }
            }
            let error = last.unwrap_or_else(|| ApiError::new(ErrorCode::Unreachable, "the server is not reached"));
            let text = format!("it is not known yet whether the server has the new identity: {}", error.message);
            Err(ApiError::new(error.code, text)
                .hint("the daemon finds out when it is connected again; then look with `fastchatctl key show`"))
        })
        .await
    }

    async fn attempt(&self, again: bool) -> Result<(), ApiError> {
        let mut exchange = Exchange::begin(&self.rotated.account, self.trust).await?;
        if again {
            let session = exchange.check(&self.asked.auth_secret).await?;
            if session.identity_key == self.asked.identity_key {
                return Ok(());
            }
            if session.identity_key != self.old_key {
                let text = "another device has given the account another identity meanwhile";
                return Err(ApiError::new(ErrorCode::Conflict, text).hint("log in again: `fastchatctl login`"));
            }
        }
        exchange.rotate(self.asked.clone()).await
    }
}
