//! From a TCP connection to a session: TLS, Hello, and register, log in or resume.
//!
//! **Invariant**: until there is a session, time, bytes and attempts are bounded.

use std::{sync::Arc, time::Duration};

use fastchat_store::{AddDevice, CreateAccount, DeviceAdded, GrantHash, NewAccount, NewDevice, Store, TokenHash};
use fastchat_wire::{
    AccountName, Code, DeviceId,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Established, Fetching, FrameStream, Live, Services, Trouble, bad_frame,
    credentials::{self, overloaded, wrong_credentials},
    fields, links, note_seen, rate_limited, refuse,
};
use crate::{
    auth::{self, AuthSecret},
    clock,
    config::{Config, Registration},
    core::{Event, frames},
    rates::{Counted, Origin, Pace, Rate},
};

/// Wrong passwords and the like, before the connection ends.
const ATTEMPTS: u32 = 8;
/// The most devices of an account.
const DEVICES: u32 = 16;
/// A token with less than this left is renewed at resumption.
const RENEW: u64 = 14 * 24 * 3_600 * 1_000;

/// A session that was just granted.
struct Granted {
    account: AccountName,
    device: DeviceId,
    /// When the store knows that the device was connected.
    seen_ms: u64,
    answer: v1::Session,
}

enum Step {
    Answer(Body),
    Session(Granted),
}

pub(super) async fn greet<S: Store>(tcp: TcpStream, origin: Origin, services: &Services<S>) -> Option<Established> {
    let live = services.live();
    let limits = &live.config.limits;
    let hello =
        timeout(limits.handshake_seconds.seconds(), shake_hands(tcp, &live, Arc::clone(&services.large_frames)));
    let mut stream = tokio::select! {
        stream = hello => match stream {
            Ok(stream) => stream?,
            // Without TLS there is nobody to tell.
            Err(_) => return None,
        },
        () = services.stopping.cancelled() => return None,
    };
    let greeting = Greeting { services, live: &live, origin };
    let granted = tokio::select! {
        granted = greeting.until_session(&mut stream) => granted?,
        () = services.stopping.cancelled() => {
            let text = "the server is about to stop";
            stream.end(0, Some(frames::failure_after(Code::ShuttingDown, text, Duration::from_secs(1)))).await;
            return None;
        }
    };
    let Granted { account, device, seen_ms, .. } = granted;
    let (session, outbox) = services.hub.open(account.clone(), device).await?;
    let seen_ms = note_seen(services, device, seen_ms).await;
    let now = Instant::now();
    let (pace, fetching) = (Pace::new(now.into_std()), Fetching::default());
    Some(Established { stream, account, device, session, origin, seen_ms, fetching, outbox, pace, resume_at: now })
}

/// TLS and Hello.
async fn shake_hands(tcp: TcpStream, live: &Live, large_frames: Arc<Semaphore>) -> Option<FrameStream> {
    let acceptor = TlsAcceptor::from(Arc::clone(&live.identity.tls));
    let tls = acceptor.accept(tcp).await.ok()?;
    let mut stream = FrameStream::new(tls, live.config.limits.pre_session_bytes.count(), large_frames);
    let (request, last) = match stream.next().await {
        Ok(Some(v1::ClientFrame { request, body: Some(Ask::Hello(hello)) })) => {
            if hello.version_min <= fastchat_wire::VERSION && hello.version_max >= fastchat_wire::VERSION_MIN {
                let version = hello.version_max.min(fastchat_wire::VERSION);
                stream.push(&frames::answer(request, Body::Ready(ready(&live.config, version))));
                stream.flush().await.ok()?;
                let agent: String = hello.agent.chars().take(64).collect();
                tracing::debug!(?agent, version, "a device says hello");
                return Some(stream);
            }
            let (low, high) = (fastchat_wire::VERSION_MIN, fastchat_wire::VERSION);
            let text = format!("this server speaks the protocol's versions {low} to {high}: update the older side");
            (request, Some(v1::Failure::new(Code::UnsupportedVersion, text)))
        }
        Ok(Some(frame)) => (frame.request, Some(v1::Failure::new(Code::BadFrame, "the first frame must be Hello"))),
        Ok(None) => return None,
        Err(error) => (0, bad_frame(&error)),
    };
    stream.end(request, last).await;
    None
}

fn ready(config: &Config, version: u32) -> v1::Ready {
    let registration = match config.registration {
        Registration::Open => v1::Registration::Open,
        Registration::Invite => v1::Registration::Invite,
        Registration::Closed => v1::Registration::Closed,
    };
    let limits = &config.limits;
    v1::Ready {
        version,
        server: concat!("fastchat-server/", env!("CARGO_PKG_VERSION")).to_owned(),
        registration: registration.into(),
        limits: Some(v1::Limits {
            frame_bytes: u32::try_from(limits.frame_bytes()).unwrap_or(u32::MAX),
            payload_bytes: limits.payload_bytes.small(),
            submit_entries: limits.submit_entries.small(),
            window_entries: limits.window_entries.small(),
            ping_seconds: limits.ping_seconds.small(),
            handshake_bytes: limits.handshake_bytes.small(),
        }),
        server_time_ms: clock::now_ms(),
    }
}

struct Greeting<'a, S> {
    services: &'a Services<S>,
    live: &'a Live,
    origin: Origin,
}

impl<S: Store> Greeting<'_, S> {
    /// Answers requests until one of them brings a session; the answer to that one is written.
    async fn until_session(&self, stream: &mut FrameStream) -> Option<Granted> {
        let mut refused = 0;
        let patience = self.live.config.limits.auth_seconds.seconds();
        let mut deadline = Instant::now() + patience;
        loop {
            let Ok(next) = timeout_at(deadline, stream.next()).await else {
                return late(stream).await;
            };
            let (request, body) = match next {
                Ok(Some(v1::ClientFrame { request, body: Some(body) })) => (request, body),
                Ok(Some(v1::ClientFrame { request, body: None })) => {
                    let failure = v1::Failure::new(Code::BadFrame, "a frame of unknown kind");
                    stream.end(request, Some(failure)).await;
                    return None;
                }
                Ok(None) => return None,
                Err(error) => {
                    stream.end(0, bad_frame(&error)).await;
                    return None;
                }
            };
            let is_link = matches!(body, Ask::OpenLink(_) | Ask::PostLink(_) | Ask::FetchLink(_));
            // Who waits for a link's message may do so; everything else is done in time.
            let longest = if is_link { deadline + links::LONGEST_WAIT } else { deadline };
            let Ok(answered) = timeout_at(longest, self.answer(stream, body)).await else {
                return late(stream).await;
            };
            if is_link && answered.is_ok() {
                // As long as the link is good, while two people compare what their devices show.
                deadline = Instant::now() + patience;
            }
            let failure = match answered {
                Ok(Step::Answer(body)) => {
                    stream.push(&frames::answer(request, body));
                    stream.flush().await.ok()?;
                    continue;
                }
                Ok(Step::Session(granted)) => {
                    stream.push(&frames::answer(request, Body::Session(granted.answer.clone())));
                    stream.flush().await.ok()?;
                    return Some(granted);
                }
                Err(Trouble::Refuse(failure)) if refused < ATTEMPTS => failure,
                Err(Trouble::Refuse(failure)) => {
                    stream.end(request, Some(failure)).await;
                    return None;
                }
                Err(Trouble::End(last)) => {
                    stream.end(request, last).await;
                    return None;
                }
            };
            refused += 1;
            stream.push(&frames::answer(request, Body::Failure(failure)));
            stream.flush().await.ok()?;
        }
    }

    async fn answer(&self, stream: &FrameStream, body: Ask) -> Result<Step, Trouble> {
        match body {
            Ask::PasswordParams(ask) => self.password_params(&ask).await,
            Ask::Register(ask) => self.register(ask).await,
            Ask::Login(ask) => self.login(ask).await,
            Ask::Resume(ask) => self.resume(stream, &ask).await,
            Ask::ChangePassword(ask) => {
                credentials::change_password(self.services, self.origin, ask).await.map(Step::Answer)
            }
            Ask::RotateIdentity(ask) => {
                credentials::rotate_identity(self.services, self.origin, ask).await.map(Step::Answer)
            }
            Ask::OpenLink(ask) => links::open(self.services, self.origin, &ask).await.map(Step::Answer),
            Ask::PostLink(ask) => links::post(self.services, self.origin, &ask).await.map(Step::Answer),
            Ask::FetchLink(ask) => links::fetch(self.services, self.origin, &ask).await.map(Step::Answer),
            Ask::Ping(_) => Ok(Step::Answer(Body::Pong(v1::Pong { server_time_ms: clock::now_ms() }))),
            Ask::Hello(_) => {
                Err(Trouble::End(Some(v1::Failure::new(Code::BadFrame, "Hello is for the beginning of a connection"))))
            }
            _ => Err(refuse(Code::Unauthenticated, "register, log in or resume first")),
        }
    }

    async fn password_params(&self, ask: &v1::PasswordParams) -> Result<Step, Trouble> {
        let name = fields::account(&ask.account)?;
        let kdf = match self.services.store.account(name.clone()).await? {
            Some(account) => account.kdf,
            None => self.services.passwords.fake_kdf(&name),
        };
        Ok(Step::Answer(Body::PasswordKdf(v1::PasswordKdf {
            salt: kdf.salt,
            memory_kib: kdf.memory_kib,
            iterations: kdf.iterations,
            parallelism: kdf.parallelism,
        })))
    }

    async fn register(&self, ask: v1::Register) -> Result<Step, Trouble> {
        let config = &self.live.config;
        let invite = match config.registration {
            Registration::Closed => {
                return Err(refuse(Code::RegistrationClosed, "this server makes no new accounts"));
            }
            Registration::Invite if ask.invite.is_empty() => return Err(invite_required()),
            Registration::Invite => Some(auth::invite_hash(&ask.invite)),
            Registration::Open => None,
        };
        let name = fields::account(&ask.account)?;
        let (identity_key, identity_backup) = fields::identity(&ask.identity_key, &ask.identity_backup)?;
        let (kdf, secret) = (fields::kdf(ask.kdf)?, fields::auth_secret(ask.auth_secret)?);
        let device = fields::device(&name, Some(&identity_key), ask.device)?;
        let rate = Rate::per_hour(config.limits.registrations_per_ip_per_hour.get());
        self.rated(Counted::RegistrationFrom(self.origin), rate).await?;
        let auth_hash =
            self.services.passwords.hash(secret, config.auth.bcrypt_cost.small()).await.map_err(overloaded)?;
        let (token, device) = self.with_token(device)?;
        let account = NewAccount { name: name.clone(), kdf, auth_hash, identity_key, identity_backup };
        let id = device.device;
        match self.services.store.create_account(account, device, invite, clock::now_ms()).await? {
            CreateAccount::Created => {}
            CreateAccount::NameTaken => {
                return Err(refuse(Code::NameTaken, format!("the name {name} is taken: choose another")));
            }
            CreateAccount::DeviceTaken => return Err(refuse(Code::Conflict, "this device id is in use")),
            CreateAccount::InviteRefused => return Err(invite_required()),
        }
        tracing::debug!(account = %name, "an account was made");
        Ok(grant_session(name, id, 0, v1::Session { token: token.to_vec().into(), ..v1::Session::default() }))
    }

    async fn login(&self, ask: v1::Login) -> Result<Step, Trouble> {
        let name = fields::account(&ask.account)?;
        let identity = if ask.new_identity_key.is_empty() {
            None
        } else {
            Some(fields::identity(&ask.new_identity_key, &ask.new_identity_backup)?)
        };
        let by = self.proof(&ask, identity.is_some())?;
        // Before anything is looked up, so that a bad field says nothing about the account.
        let device = if ask.fetch_backup_only { None } else { Some(fields::device(&name, None, ask.device)?) };
        credentials::rate_login(self.services, &self.live.config.limits, self.origin, &name).await?;
        let (account, grant) = match by {
            Proof::Secret(secret) => (credentials::check_password(self.services, &name, secret).await?, None),
            // The store takes the grant and the device in one.
            Proof::Grant(grant) => {
                (self.services.store.account(name.clone()).await?.ok_or_else(grant_refused)?, Some(grant))
            }
        };
        let (identity_key, identity_backup) =
            identity.clone().unwrap_or((account.identity_key, account.identity_backup));
        let answer = v1::Session {
            account: name.as_str().to_owned(),
            identity_key: identity_key.clone(),
            identity_backup,
            ..v1::Session::default()
        };
        let Some(device) = device else { return Ok(Step::Answer(Body::Session(answer))) };
        if grant.is_none() {
            // A grant's owner learns of it where the identity matters: in conversations.
            fields::certificate(&name, Some(&identity_key), device.device, None, &device.certificate)?;
        }
        self.add_device(name, device, identity, grant, answer).await
    }

    /// What the login is allowed by.
    fn proof(&self, ask: &v1::Login, new_identity: bool) -> Result<Proof, Trouble> {
        if ask.grant.is_empty() {
            return Ok(Proof::Secret(fields::auth_secret(ask.auth_secret.clone())?));
        }
        if ask.fetch_backup_only || new_identity || !ask.auth_secret.is_empty() {
            return Err(refuse(Code::Invalid, "a grant logs a device in and does nothing else"));
        }
        Ok(Proof::Grant(auth::grant_hash(&ask.grant)))
    }

    async fn add_device(
        &self,
        name: AccountName,
        device: fields::Device,
        identity: Option<(bytes::Bytes, bytes::Bytes)>,
        grant: Option<GrantHash>,
        mut answer: v1::Session,
    ) -> Result<Step, Trouble> {
        let (token, device) = self.with_token(device)?;
        let id = device.device;
        let login =
            AddDevice { account: name.clone(), device, identity, grant, most: DEVICES, now_ms: clock::now_ms() };
        match self.services.store.add_device(login).await? {
            DeviceAdded::Done(change) => {
                self.services.hub.tell(Event::DevicesChanged { change, by: Some(id) }).await;
            }
            DeviceAdded::NoAccount => return Err(wrong_credentials()),
            DeviceAdded::DeviceTaken => return Err(refuse(Code::Conflict, "this device id is in use: take a new one")),
            DeviceAdded::TooMany => {
                let text = format!("an account has at most {DEVICES} devices: revoke one on another device first");
                return Err(refuse(Code::Refused, text));
            }
            DeviceAdded::GrantRefused => return Err(grant_refused()),
        }
        answer.token = token.to_vec().into();
        Ok(grant_session(name, id, 0, answer))
    }

    async fn resume(&self, stream: &FrameStream, ask: &v1::Resume) -> Result<Step, Trouble> {
        let now_ms = clock::now_ms();
        let unauthenticated = || refuse(Code::Unauthenticated, "the token is not good (any more): log in again");
        let session = self.services.store.device_by_token(auth::token_hash(&ask.token), now_ms).await?;
        let session = session.ok_or_else(unauthenticated)?;
        let exported = stream.export().map_err(|_| Trouble::End(None))?;
        if !auth::is_resume_signed(&session.signature_key, &exported, &ask.signature) {
            return Err(unauthenticated());
        }
        let mut answer = v1::Session { key_packages_left: session.key_packages, ..v1::Session::default() };
        if session.token_expires_ms.saturating_sub(now_ms) < RENEW {
            let (token, hash, expires_ms) = self.token()?;
            if self.services.store.add_token(session.device, hash, expires_ms, now_ms).await? {
                answer.token = token.to_vec().into();
            }
        }
        Ok(grant_session(session.account, session.device, session.seen_ms, answer))
    }

    fn token(&self) -> Result<([u8; 32], TokenHash, u64), Trouble> {
        let token = auth::random_bytes().map_err(|_| Trouble::End(None))?;
        let life_ms = self.live.config.auth.token_days.get() * 24 * 3_600 * 1_000;
        Ok((token, auth::token_hash(&token), clock::now_ms() + life_ms))
    }

    fn with_token(&self, device: fields::Device) -> Result<([u8; 32], NewDevice), Trouble> {
        let fields::Device { device, signature_key, certificate, name } = device;
        let (token, hash, token_expires_ms) = self.token()?;
        Ok((token, NewDevice { device, signature_key, certificate, name, token: hash, token_expires_ms }))
    }

    async fn rated(&self, what: Counted, rate: Rate) -> Result<(), Trouble> {
        self.services.rates.take(what, rate).await.map_err(rate_limited)
    }
}

/// What a login is allowed by.
enum Proof {
    Secret(AuthSecret),
    Grant(GrantHash),
}

async fn late(stream: &mut FrameStream) -> Option<Granted> {
    let failure = v1::Failure::new(Code::TimedOut, "no session was asked for in time");
    stream.end(0, Some(failure)).await;
    None
}

fn grant_session(account: AccountName, device: DeviceId, seen_ms: u64, answer: v1::Session) -> Step {
    let answer = v1::Session { account: account.as_str().to_owned(), device: device.to_wire(), ..answer };
    Step::Session(Granted { account, device, seen_ms, answer })
}

fn grant_refused() -> Trouble {
    refuse(Code::WrongCredentials, "the grant is unknown, used or older than ten minutes: link the device anew")
}

fn invite_required() -> Trouble {
    refuse(Code::InviteRequired, "an invite is needed that is known, unused and not expired: ask the operator for one")
}
