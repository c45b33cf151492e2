//! Making an account on a server, logging this device in to one, and changing what it is logged in to by: all that is
//! done over a connection of its own, beside the link.
//!
//! The password goes no further than here: Argon2id turns it into what the server sees and what opens the identity's
//! backup. Parameters from the server are used only within the bounds of `fastchat_e2ee`.
//!
//! **Invariant**: nothing is given back before the server has confirmed it, and the identity that comes out of a login
//! is the one that the server says the account has.

mod access;
mod exchange;
mod newcomer;
mod password;
mod request;
mod rotation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use fastchat_e2ee::{Device, Identity, KdfParams, PasswordError, PasswordKeys};
use fastchat_ipc::{ApiError, ErrorCode, SignIn};
use fastchat_wire::{AccountName, Address, DeviceId, Pin, ServerAddress, v1};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::link::{Dialled, Token, Trust, api_error, dial};
use exchange::Exchange;
use request::Request;

pub use access::Access;
pub(crate) use newcomer::Newcomer;
pub use password::change_password;
pub use rotation::{Planned, PreparedRotation, Rotated, RotationPlan, plan_rotation};

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A device that is logged in, as it is to be stored.
#[derive(Debug)]
pub struct SignedIn {
    /// The account's name on its server.
    pub account: AccountName,
    /// The entry address.
    pub server: ServerAddress,
    /// The server's key, when it is not vouched for by a public authority.
    pub pin: Option<Pin>,
    /// The account's identity.
    pub identity: Identity,
    /// This device, certified by the identity.
    pub device: Device,
    /// What it is called.
    pub device_name: String,
    /// What takes its session up.
    pub token: Token,
    /// Whether the account's identity is a fresh one that replaced an earlier one.
    pub new_identity: bool,
}

/// Reads an account's address, with or without the port. Certificates, the password and safety numbers go by the name
/// alone, which is the same however a server is reached.
///
/// # Errors
/// The text is not an address.
pub fn address(text: &str) -> Result<Address, ApiError> {
    request::address(text)
}

/// Makes a new account.
///
/// # Errors
/// The request is not acceptable, the server is not reached or not trusted (`data.pin` is its key), or it refuses.
pub async fn register(request: &SignIn) -> Result<SignedIn, ApiError> {
    let request = Request::check(request)?.for_new_account()?;
    in_time("signing in", async {
        // First whether it can work at all: the keys take a while, in which a server would lose patience.
        let Dialled { ready, trust, .. } = dial(&request.address.server, request.trust).await.map_err(|o| o.error)?;
        admits(&ready, &request)?;
        let (identity, device) = new_identity(&request).await?;
        let kdf = KdfParams::generate();
        let keys = derive(&request.password, request.address.account.as_str(), kdf.clone()).await?;
        let backup = seal(&keys, &identity, request.address.account.as_str())?;
        let exchange = Exchange::begin(&request.address, trust).await?;
        let token = exchange
            .register(v1::Register {
                account: request.address.account.to_string(),
                kdf: Some(exchange::wire_kdf(&kdf)),
                auth_secret: keys.auth.to_string(),
                identity_key: identity.public().to_der().to_vec().into(),
                identity_backup: backup.into(),
                device: Some(exchange::wire_device(&device, &request.device_name)),
                invite: request.invite.clone(),
            })
            .await?;
        Ok(signed_in(request, trust, identity, device, token, false))
    })
    .await
}

/// Logs this device in to an account, with its password. The account's other devices stay, unless it gets a new identity.
///
/// # Errors
/// As [`register`]; also when the identity's backup does not open, or is not that of the account.
pub async fn login(request: &SignIn) -> Result<SignedIn, ApiError> {
    let fresh = request.new_identity;
    let request = Request::check(request)?;
    in_time("signing in", async {
        let Dialled { trust, .. } = dial(&request.address.server, request.trust).await.map_err(|o| o.error)?;
        let prepared = if fresh { Some(new_identity(&request).await?) } else { None };
        let mut exchange = Exchange::begin(&request.address, trust).await?;
        let name = request.address.account.as_str();
        let keys = derive(&request.password, name, exchange.password_params().await?).await?;
        let mut login = v1::Login {
            account: request.address.account.to_string(),
            auth_secret: keys.auth.to_string(),
            ..v1::Login::default()
        };
        let (identity, device) = match prepared {
            Some((identity, device)) => {
                login.new_identity_key = identity.public().to_der().to_vec().into();
                login.new_identity_backup = seal(&keys, &identity, request.address.account.as_str())?.into();
                (identity, device)
            }
            None => {
                let identity = exchange.restore(login.clone(), &keys.backup).await?;
                issue(identity, &request.address, DeviceId::generate()).await?
            }
        };
        login.device = Some(exchange::wire_device(&device, &request.device_name));
        let token = exchange.login(login, &identity).await?;
        Ok(signed_in(request, trust, identity, device, token, fresh))
    })
    .await
}

/// Reads a server's address, with or without the port.
///
/// # Errors
/// The text is not one.
pub fn server(text: &str) -> Result<ServerAddress, ApiError> {
    request::server(text)
}

fn signed_in(
    request: Request,
    trust: Trust,
    identity: Identity,
    device: Device,
    token: Token,
    new_identity: bool,
) -> SignedIn {
    let pin = if let Trust::Pinned(pin) = trust { Some(pin) } else { None };
    let Request { address, device_name, .. } = request;
    SignedIn {
        account: address.account,
        server: address.server,
        pin,
        identity,
        device,
        device_name,
        token,
        new_identity,
    }
}

/// What the server says of itself at Hello, before anything costly is done.
fn admits(ready: &v1::Ready, request: &Request) -> Result<(), ApiError> {
    let refusal = match ready.registration() {
        v1::Registration::Closed => fastchat_wire::Code::RegistrationClosed,
        v1::Registration::Invite if request.invite.is_empty() => fastchat_wire::Code::InviteRequired,
        _ => return Ok(()),
    };
    Err(api_error(&v1::Failure::new(refusal, "")))
}

async fn in_time<T>(what: &str, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    timeout(DEADLINE, work).await.map_err(|_| {
        ApiError::new(ErrorCode::TimedOut, format!("{what} took longer than {} s", DEADLINE.as_secs()))
            .hint("try again; if it was done meanwhile after all, `fastchatctl login` works with the password")
    })?
}

/// Whether a failure says that nothing was done. After any other the server may have done it all the same.
fn is_certain(error: &ApiError) -> bool {
    use ErrorCode as Code;
    matches!(
        error.code,
        Code::WrongPassword
            | Code::RateLimited
            | Code::NotFound
            | Code::Refused
            | Code::Conflict
            | Code::UntrustedServer
            | Code::ServerChanged
    )
}

async fn derive(password: &Zeroizing<String>, account: &str, kdf: KdfParams) -> Result<PasswordKeys, ApiError> {
    let (password, account) = (password.clone(), account.to_owned());
    aside(move || PasswordKeys::derive(&password, &account, &kdf)).await?.map_err(|error| match error {
        PasswordError::Parameters { .. } => ApiError::new(ErrorCode::Server, error.to_string()),
        PasswordError::Length => ApiError::new(ErrorCode::InvalidParams, error.to_string()),
        PasswordError::Derive(_) => ApiError::new(ErrorCode::Internal, error.to_string()),
    })
}

async fn new_identity(request: &Request) -> Result<(Identity, Device), ApiError> {
    let identity = aside(Identity::generate).await?.map_err(|error| defect(&error))?;
    issue(identity, &request.address, DeviceId::generate()).await
}

async fn issue(identity: Identity, address: &Address, id: DeviceId) -> Result<(Identity, Device), ApiError> {
    let account = address.account.to_string();
    aside(move || {
        let device = Device::issue(&identity, &account, id.0);
        device.map(|device| (identity, device))
    })
    .await?
    .map_err(|error| defect(&error))
}

fn seal(keys: &PasswordKeys, identity: &Identity, account: &str) -> Result<Vec<u8>, ApiError> {
    keys.backup.seal_identity(identity, account).map_err(|error| defect(&error))
}

/// Runs what takes long where it holds nobody up.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| defect(&error))
}

fn defect(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("keys could not be made: {error}"))
}
