//! From a TCP connection to a session: TLS, Hello, and register, log in or resume.
//!
//! **Invariant**: until there is a session, time, bytes and attempts are bounded.

use std::{sync::Arc, time::Duration};

use fastchat_store::{CreateAccount, NewAccount, NewDevice, ReplaceDevice, Replacement, Store, TokenHash};
use fastchat_wire::{
    AccountName, Code, DeviceId, FRAME_LIMIT,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{Established, FrameStream, Live, Services, Trouble, bad_frame, fields, refuse};
use crate::{
    auth::{self, AuthError},
    clock,
    config::{Config, Registration},
    core::{Event, frames},
    rates::{Counted, Origin, Pace, Rate},
};

/// Wrong passwords and the like, before the connection ends.
const ATTEMPTS: u32 = 8;
/// A token with less than this left is renewed at resumption.
const RENEW: u64 = 14 * 24 * 3_600 * 1_000;

/// A session that was just granted.
struct Granted {
    account: AccountName,
    device: DeviceId,
    answer: v1::Session,
}

enum Step {
    Answer(Body),
    Session(Granted),
}

pub(super) async fn greet<S: Store>(tcp: TcpStream, origin: Origin, services: &Services<S>) -> Option<Established> {
    let live = services.live();
    let limits = &live.config.limits;
    let hello = timeout(limits.handshake_seconds.seconds(), shake_hands(tcp, &live));
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
        granted = timeout(limits.auth_seconds.seconds(), greeting.until_session(&mut stream)) => match granted {
            Ok(granted) => granted?,
            Err(_) => {
                let failure = v1::Failure::new(Code::TimedOut, "no session was asked for in time");
                stream.end(0, Some(failure)).await;
                return None;
            }
        },
        () = services.stopping.cancelled() => {
            let text = "the server is about to stop";
            stream.end(0, Some(frames::failure_after(Code::ShuttingDown, text, Duration::from_secs(1)))).await;
            return None;
        }
    };
    let Granted { account, device, .. } = granted;
    let (session, outbox) = services.hub.open(account.clone(), device).await?;
    let now = Instant::now();
    Some(Established { stream, account, device, session, outbox, pace: Pace::new(now.into_std()), resume_at: now })
}

/// TLS and Hello.
async fn shake_hands(tcp: TcpStream, live: &Live) -> Option<FrameStream> {
    let acceptor = TlsAcceptor::from(Arc::clone(&live.identity.tls));
    let tls = acceptor.accept(tcp).await.ok()?;
    let mut stream = FrameStream::new(tls, live.config.limits.pre_session_bytes.count());
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
            frame_bytes: u32::try_from(FRAME_LIMIT).unwrap_or(u32::MAX),
            payload_bytes: limits.payload_bytes.small(),
            submit_entries: limits.submit_entries.small(),
            window_entries: limits.window_entries.small(),
            ping_seconds: limits.ping_seconds.small(),
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
        loop {
            let (request, body) = match stream.next().await {
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
            let failure = match self.answer(stream, body).await {
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
        let device = fields::device(ask.device)?;
        let rate = Rate { count: config.limits.registrations_per_ip_per_hour.get(), per: Duration::from_secs(3_600) };
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
        Ok(grant(name, id, v1::Session { token: token.to_vec().into(), ..v1::Session::default() }))
    }

    async fn login(&self, ask: v1::Login) -> Result<Step, Trouble> {
        let name = fields::account(&ask.account)?;
        let secret = fields::auth_secret(ask.auth_secret)?;
        let device = if ask.fetch_backup_only { None } else { Some(fields::device(ask.device)?) };
        let identity = if ask.new_identity_key.is_empty() {
            None
        } else {
            Some(fields::identity(&ask.new_identity_key, &ask.new_identity_backup)?)
        };
        let limits = &self.live.config.limits;
        let minute = |count| Rate { count, per: Duration::from_secs(60) };
        self.rated(Counted::LoginFrom(self.origin), minute(limits.logins_per_ip_per_minute.get())).await?;
        self.rated(Counted::LoginOf(name.clone()), minute(limits.logins_per_account_per_minute.get())).await?;
        let account = self.services.store.account(name.clone()).await?;
        let hash = account.as_ref().map(|account| account.auth_hash.clone());
        let right = self.services.passwords.verify(secret, hash).await.map_err(overloaded)?;
        let (Some(account), true) = (account, right) else { return Err(wrong_credentials()) };
        let (identity_key, identity_backup) =
            identity.clone().unwrap_or((account.identity_key, account.identity_backup));
        let mut answer =
            v1::Session { account: name.as_str().to_owned(), identity_key, identity_backup, ..v1::Session::default() };
        let Some(device) = device else { return Ok(Step::Answer(Body::Session(answer))) };
        let (token, device) = self.with_token(device)?;
        let id = device.device;
        let login = ReplaceDevice { account: name.clone(), device, identity, now_ms: clock::now_ms() };
        match self.services.store.replace_device(login).await? {
            Replacement::Done(removed) => {
                self.services.hub.tell(Event::Removed(removed)).await;
            }
            Replacement::NoAccount => return Err(wrong_credentials()),
            Replacement::DeviceTaken => return Err(refuse(Code::Conflict, "this device id is in use")),
        }
        answer.token = token.to_vec().into();
        Ok(grant(name, id, answer))
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
        Ok(grant(session.account, session.device, answer))
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

pub(super) fn rate_limited(wait: Duration) -> Trouble {
    let seconds = wait.as_secs() + 1;
    let text = format!("too often: try again in {seconds} s");
    Trouble::Refuse(frames::failure_after(Code::RateLimited, &text, wait))
}

fn grant(account: AccountName, device: DeviceId, answer: v1::Session) -> Step {
    let answer = v1::Session { account: account.as_str().to_owned(), device: device.to_wire(), ..answer };
    Step::Session(Granted { account, device, answer })
}

fn wrong_credentials() -> Trouble {
    refuse(Code::WrongCredentials, "wrong name or password")
}

fn invite_required() -> Trouble {
    refuse(Code::InviteRequired, "an invite is needed that is known, unused and not expired: ask the operator for one")
}

fn overloaded(error: AuthError) -> Trouble {
    let (code, text) = match error {
        AuthError::Overloaded => (Code::Overloaded, "too many logins at once"),
        AuthError::Failed => (Code::Internal, "the password could not be checked"),
    };
    Trouble::Refuse(frames::failure_after(code, text, Duration::from_secs(2)))
}
