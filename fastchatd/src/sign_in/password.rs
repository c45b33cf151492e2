//! Another password for an account.
//!
//! The identity's backup on the server is sealed anew under what the new password gives, and the server gets the new
//! secret in the same step, so that one never counts without the other.
//!
//! **Invariant**: success is reported only when the server said so, or when the new secret was seen to be right.

use fastchat_e2ee::{KdfParams, PasswordKeys};
use fastchat_ipc::{ApiError, ErrorCode, PasswordChange};
use fastchat_wire::{DeviceId, v1};

use super::{Access, derive, exchange, exchange::Exchange, in_time, is_certain, request, seal};

/// Replaces the account's password.
///
/// # Errors
/// A password out of its bounds, the old one is wrong, the server is not reached or refuses. When the connection broke
/// before the answer, the text says whether the new password counts, as far as that can be found out.
pub async fn change_password(access: &Access, change: &PasswordChange) -> Result<(), ApiError> {
    let old = request::password(&change.old)?;
    let new = request::new_password(&change.new)?;
    if old == new {
        return Err(ApiError::new(ErrorCode::InvalidParams, "the new password is the old one").hint("choose another"));
    }
    in_time("changing the password", async {
        let mut exchange = Exchange::begin(&access.address, access.trust()).await?;
        let old = derive(&old, access.name(), exchange.password_params().await?).await?;
        access.agrees(&exchange.check(&old.auth).await?)?;
        let kdf = KdfParams::generate();
        let new = derive(&new, access.name(), kdf.clone()).await?;
        let only_device = if change.end_other_devices { DeviceId(access.device.id()).to_wire() } else { "".into() };
        let asked = v1::ChangePassword {
            account: access.name().to_owned(),
            auth_secret: old.auth.to_string(),
            kdf: Some(exchange::wire_kdf(&kdf)),
            new_auth_secret: new.auth.to_string(),
            identity_backup: seal(&new, &access.identity, access.name())?.into(),
            only_device,
        };
        match exchange.change_password(asked).await {
            Err(error) if !is_certain(&error) => settle(access, &new, error).await,
            outcome => outcome,
        }
    })
    .await
}

/// The answer did not come: whether the new password counts is seen by using it.
async fn settle(access: &Access, new: &PasswordKeys, error: ApiError) -> Result<(), ApiError> {
    let seen = async { Exchange::begin(&access.address, access.trust()).await?.check(&new.auth).await };
    match seen.await {
        Ok(_) => Ok(()),
        Err(refused) if refused.code == ErrorCode::WrongPassword => {
            let text = format!("the password was not changed: {}", error.message);
            Err(ApiError::new(error.code, text).hint("try again; the old password still counts"))
        }
        Err(_) => {
            let text = format!("it is not known whether the password was changed: {}", error.message);
            Err(ApiError::new(error.code, text)
                .hint("try again when the server is reached; if the old password is wrong then, the new one counts"))
        }
    }
}
