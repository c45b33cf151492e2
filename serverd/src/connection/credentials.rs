//! Passwords and identities: what is asked for with the password, within a session or without one.
//!
//! **Invariant**: a password is checked only after its rates were taken, and nothing changes before it was found right.

use fastchat_store::{AccountRecord, ChangePassword, RotateIdentity, Store};
use fastchat_wire::{
    AccountName, Code, DeviceId,
    v1::{self, server_frame::Body},
};

use super::{Services, Trouble, fields, rate_limited, refuse};
use crate::{
    auth::{AuthError, AuthSecret},
    config::Limits,
    core::{Event, frames},
    rates::{Counted, Origin, Rate},
};

/// Takes the rates of a login.
pub(super) async fn rate_login<S: Store>(
    services: &Services<S>,
    limits: &Limits,
    origin: Origin,
    name: &AccountName,
) -> Result<(), Trouble> {
    let from = Rate::per_minute(limits.logins_per_ip_per_minute.get());
    services.rates.take(Counted::LoginFrom(origin), from).await.map_err(rate_limited)?;
    let of = Rate::per_minute(limits.logins_per_account_per_minute.get());
    services.rates.take(Counted::LoginOf(name.clone()), of).await.map_err(rate_limited)
}

/// The account, if the secret is its own.
pub(super) async fn check_password<S: Store>(
    services: &Services<S>,
    name: &AccountName,
    secret: AuthSecret,
) -> Result<AccountRecord, Trouble> {
    let account = services.store.account(name.clone()).await?;
    let hash = account.as_ref().map(|account| account.auth_hash.clone());
    let right = services.passwords.verify(secret, hash).await.map_err(overloaded)?;
    match account {
        Some(account) if right => Ok(account),
        _ => Err(wrong_credentials()),
    }
}

/// Replaces the password.
pub(super) async fn change_password<S: Store>(
    services: &Services<S>,
    origin: Origin,
    ask: v1::ChangePassword,
) -> Result<Body, Trouble> {
    let name = fields::account(&ask.account)?;
    let (secret, fresh) = (fields::auth_secret(ask.auth_secret)?, fields::auth_secret(ask.new_auth_secret)?);
    let (kdf, identity_backup) = (fields::kdf(ask.kdf)?, fields::identity_backup(&ask.identity_backup)?);
    let only_device = DeviceId::from_wire_optional(&ask.only_device)?;
    let live = services.live();
    rate_login(services, &live.config.limits, origin, &name).await?;
    check_password(services, &name, secret).await?;
    let auth_hash = services.passwords.hash(fresh, live.config.auth.bcrypt_cost.small()).await.map_err(overloaded)?;
    let change = ChangePassword { account: name, kdf, auth_hash, identity_backup, only_device };
    let changed = services.store.change_password(change).await?.ok_or_else(no_device)?;
    if !changed.removed.is_empty() || !changed.closed.is_empty() {
        services.hub.tell(Event::DevicesChanged { change: changed, by: None }).await;
    }
    Ok(Body::Done(v1::Done {}))
}

/// Replaces the identity.
pub(super) async fn rotate_identity<S: Store>(
    services: &Services<S>,
    origin: Origin,
    ask: v1::RotateIdentity,
) -> Result<Body, Trouble> {
    let (name, secret) = (fields::account(&ask.account)?, fields::auth_secret(ask.auth_secret)?);
    let (identity_key, identity_backup) = fields::identity(&ask.identity_key, &ask.identity_backup)?;
    let device = DeviceId::from_wire(&ask.device)?;
    let certificate = fields::certificate(&name, Some(&identity_key), device, None, &ask.certificate)?;
    rate_login(services, &services.live().config.limits, origin, &name).await?;
    check_password(services, &name, secret).await?;
    let rotation = RotateIdentity { account: name, identity_key, identity_backup, device, certificate };
    let change = services.store.rotate_identity(rotation).await?.ok_or_else(no_device)?;
    services.hub.tell(Event::DevicesChanged { change, by: None }).await;
    Ok(Body::Done(v1::Done {}))
}

pub(super) fn no_device() -> Trouble {
    refuse(Code::NotFound, "the account has no such device: list its devices")
}

pub(super) fn wrong_credentials() -> Trouble {
    refuse(Code::WrongCredentials, "wrong name or password")
}

pub(super) fn overloaded(error: AuthError) -> Trouble {
    let (code, text) = match error {
        AuthError::Overloaded => (Code::Overloaded, "too many logins at once"),
        AuthError::Failed => (Code::Internal, "the password could not be checked"),
    };
    Trouble::Refuse(frames::failure_after(code, text, std::time::Duration::from_secs(2)))
}
