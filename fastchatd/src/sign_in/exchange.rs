//! The frames of signing in, over one connection.
//!
//! **Invariant**: an answer is used only if it is about the account, device and identity that were asked about.

use std::time::Duration;

use fastchat_e2ee::{BackupKey, Device, Identity, KdfParams};
use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{Address, DeviceId, v1, v1::client_frame, v1::server_frame};

use crate::link::{Connection, Dialled, Outage, Token, Trust, dial, unexpected};

/// How long an answer may take: the server hashes the secret, perhaps behind others.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection on which somebody signs in.
pub(super) struct Exchange {
    connection: Connection,
    address: Address,
}

impl Exchange {
    /// Connects.
    pub(super) async fn begin(address: &Address, trust: Trust) -> Result<Self, ApiError> {
        let Dialled { connection, .. } = dial(&address.server, trust).await.map_err(|outage| outage.error)?;
        Ok(Self { connection, address: address.clone() })
    }

    /// How the password of the account is to be stretched. The parameters are the server's: to be validated.
    pub(super) async fn password_params(&mut self) -> Result<KdfParams, ApiError> {
        let asked = v1::PasswordParams { account: self.address.account.to_string() };
        match self.call(client_frame::Body::PasswordParams(asked)).await? {
            server_frame::Body::PasswordKdf(kdf) => Ok(KdfParams {
                salt: kdf.salt.to_vec(),
                memory_kib: kdf.memory_kib,
                iterations: kdf.iterations,
                parallelism: kdf.parallelism,
            }),
            _ => Err(unexpected()),
        }
    }

    /// Makes the account; gives the session's token.
    pub(super) async fn register(mut self, register: v1::Register) -> Result<Token, ApiError> {
        let device = register.device.clone().unwrap_or_default().device;
        let session = self.session(client_frame::Body::Register(register)).await?;
        self.finish(&session, &device).await
    }

    /// Fetches the identity's backup and opens it. Makes no device yet.
    pub(super) async fn restore(&mut self, login: v1::Login, key: &BackupKey) -> Result<Identity, ApiError> {
        let login = v1::Login { fetch_backup_only: true, device: None, ..login };
        let session = self.session(client_frame::Body::Login(login)).await?;
        let account = self.address.account.to_string();
        let identity = key.open_identity(&session.identity_backup, &account).map_err(|error| {
            ApiError::new(
                ErrorCode::Refused,
                format!("the password is right, but {account} cannot be restored: {error}"),
            )
            .hint(
                "if the backup is lost, `fastchatctl login --new-identity` gives the account a new identity; \
                     its contacts will be warned",
            )
        })?;
        self.same(&identity, &session)?;
        Ok(identity)
    }

    /// Whether the secret is right; gives what the server keeps of the account. Makes no device.
    pub(super) async fn check(&mut self, auth_secret: &str) -> Result<v1::Session, ApiError> {
        let login = v1::Login {
            account: self.address.account.to_string(),
            auth_secret: auth_secret.to_owned(),
            fetch_backup_only: true,
            ..v1::Login::default()
        };
        self.session(client_frame::Body::Login(login)).await
    }

    /// Replaces the password.
    pub(super) async fn change_password(mut self, change: v1::ChangePassword) -> Result<(), ApiError> {
        self.done(client_frame::Body::ChangePassword(change)).await
    }

    /// Replaces the identity.
    pub(super) async fn rotate(mut self, rotation: v1::RotateIdentity) -> Result<(), ApiError> {
        self.done(client_frame::Body::RotateIdentity(rotation)).await
    }

    async fn done(&mut self, body: client_frame::Body) -> Result<(), ApiError> {
        match self.call(body).await? {
            server_frame::Body::Done(_) => {
                self.connection.writer.close().await;
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }

    /// Says good-bye.
    pub(super) async fn close(mut self) {
        self.connection.writer.close().await;
    }

    /// Makes the device; gives the session's token.
    pub(super) async fn login(mut self, login: v1::Login, identity: &Identity) -> Result<Token, ApiError> {
        let device = login.device.clone().unwrap_or_default().device;
        let session = self.session(client_frame::Body::Login(login)).await?;
        self.same(identity, &session)?;
        self.finish(&session, &device).await
    }

    async fn finish(&mut self, session: &v1::Session, device: &[u8]) -> Result<Token, ApiError> {
        let token = Token::from_bytes(&session.token).ok_or_else(unexpected)?;
        if session.device != device {
            return Err(unexpected());
        }
        self.connection.writer.close().await;
        Ok(token)
    }

    /// Whether the identity at hand is the one that the server gives to others as this account's.
    fn same(&self, identity: &Identity, session: &v1::Session) -> Result<(), ApiError> {
        if session.identity_key == identity.public().to_der() {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::Server,
            format!("the server gives another identity key for {} than this device has", self.address),
        )
        .hint("tell the server's operator: either its data is damaged or somebody has tampered with it"))
    }

    async fn session(&mut self, body: client_frame::Body) -> Result<v1::Session, ApiError> {
        match self.call(body).await? {
            server_frame::Body::Session(session) if session.account == self.address.account.as_str() => Ok(session),
            _ => Err(unexpected()),
        }
    }

    async fn call(&mut self, body: client_frame::Body) -> Result<server_frame::Body, ApiError> {
        self.connection.call(body, ANSWER).await.map_err(|Outage { error, .. }| error)
    }
}

/// A device as the server is told of it.
pub(super) fn wire_device(device: &Device, name: &str) -> v1::NewDevice {
    v1::NewDevice {
        device: DeviceId(device.id()).to_wire(),
        signature_key: device.signature_key().to_vec().into(),
        certificate: device.certificate().to_vec().into(),
        name: name.to_owned(),
    }
}

/// How a password is stretched, as the server keeps it.
pub(super) fn wire_kdf(kdf: &KdfParams) -> v1::PasswordKdf {
    v1::PasswordKdf {
        salt: kdf.salt.clone().into(),
        memory_kib: kdf.memory_kib,
        iterations: kdf.iterations,
        parallelism: kdf.parallelism,
    }
}
