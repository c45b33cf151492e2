//! One side of a mailbox on the server.
//!
//! The server knows nothing of what is in it, and may show what it likes: nothing here is trusted. A connection that is
//! lost, or closed because it has no session, is replaced by another one.
//!
//! **Invariant**: a message that had to be posted twice is taken once, every wait ends by the link's deadline, and no
//! message is longer than the protocol's.

use std::time::Duration;

use bytes::Bytes;
use fastchat_e2ee::MAX_LINK_MESSAGE_BYTES;
use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{ServerAddress, v1, v1::client_frame::Body as Ask, v1::server_frame::Body as Said};
use tokio::time::{Instant, sleep, timeout_at};

use super::expired;
use crate::link::{Connection, Dialled, Outage, Trust, dial, unexpected};

/// How long the server may take to answer at once.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the server may wait for a message before it answers without one; then it is asked again.
const WAIT: Duration = Duration::from_secs(50);
/// Before the next attempt, after one that came to nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// Messages in a row that may be lost with their connections.
const POSTS: u32 = 3;

/// Which side of the mailbox this device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    New,
    Known,
}

pub(super) struct Mailbox {
    server: ServerAddress,
    trust: Trust,
    connection: Option<Connection>,
    link: [u8; 16],
    side: Side,
    /// Messages of the other side that were taken.
    taken: u32,
    /// The last one. It may come again: its poster could not know that it had arrived.
    last: Bytes,
    ends: Instant,
}

impl Mailbox {
    /// Makes a mailbox with its first message in it. Gives what the server is to be trusted by with it, and when it ends
    /// by the server's clock.
    pub(super) async fn open(
        server: ServerAddress,
        trust: Trust,
        message: Vec<u8>,
        ends: Instant,
    ) -> Result<(Self, Trust, u64), ApiError> {
        let Dialled { mut connection, trust, .. } = dial(&server, trust).await.map_err(|outage| outage.error)?;
        let opened = connection.call(Ask::OpenLink(v1::OpenLink { message: message.into() }), ANSWER).await;
        let Said::LinkMessages(opened) = opened.map_err(|outage| outage.error)? else { return Err(unexpected()) };
        let link = opened.link.as_ref().try_into().map_err(|_| unexpected())?;
        let connection = Some(connection);
        let mailbox = Self { server, trust, connection, link, side: Side::New, taken: 0, last: Bytes::new(), ends };
        Ok((mailbox, trust, opened.expires_ms))
    }

    /// The mailbox of a code.
    pub(super) fn known(server: ServerAddress, trust: Trust, link: [u8; 16], ends: Instant) -> Self {
        Self { server, trust, connection: None, link, side: Side::Known, taken: 0, last: Bytes::new(), ends }
    }

    pub(super) fn link(&self) -> [u8; 16] {
        self.link
    }

    pub(super) fn ends(&self) -> Instant {
        self.ends
    }

    /// Lets go of the connection; the next step makes another. For while a person is awaited.
    pub(super) async fn rest(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.writer.close().await;
        }
    }

    /// Puts a message in for the other side.
    pub(super) async fn post(&mut self, message: Vec<u8>) -> Result<(), ApiError> {
        let (link, message) = (Bytes::copy_from_slice(&self.link), Bytes::from(message));
        let from_new_device = self.side == Side::New;
        for attempt in 1.. {
            let ask = Ask::PostLink(v1::PostLink { link: link.clone(), from_new_device, message: message.clone() });
            match self.call(ask, ANSWER).await {
                Ok(Said::Done(_)) => return Ok(()),
                Ok(_) => return Err(unexpected()),
                Err(outage) if attempt < POSTS && is_passing(&outage.error) => self.pause(&outage).await?,
                Err(outage) => return Err(gone(outage.error)),
            }
        }
        Err(expired())
    }

    /// The next message of the other side; `TimedOut` when none comes until `until`, after which it may be waited for
    /// again.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Bytes, ApiError> {
        let until = until.min(self.ends);
        loop {
            if Instant::now() >= self.ends {
                return Err(expired());
            }
            let asked = Instant::now();
            let ask = Ask::FetchLink(v1::FetchLink {
                link: Bytes::copy_from_slice(&self.link),
                to_new_device: self.side == Side::New,
                after: self.taken,
            });
            let Ok(answer) = timeout_at(until, self.call(ask, WAIT)).await else {
                // The answer may still come: on that connection it would be taken for another.
                self.connection = None;
                return Err(if until == self.ends { expired() } else { nothing_yet() });
            };
            match answer {
                Ok(Said::LinkMessages(said)) => match said.messages.into_iter().next() {
                    Some(message) if message.len() > MAX_LINK_MESSAGE_BYTES => return Err(unexpected()),
                    Some(message) => {
                        self.taken += 1;
                        if message != self.last {
                            self.last = message.clone();
                            return Ok(message);
                        }
                    }
                    // A server that does not wait is not asked without a break.
                    None if asked.elapsed() < PAUSE => self.nap(PAUSE, until).await?,
                    None => {}
                },
                Ok(_) => return Err(unexpected()),
                Err(outage) if is_passing(&outage.error) => {
                    self.nap(outage.retry_after.unwrap_or(PAUSE).max(PAUSE), until).await?;
                }
                Err(outage) => return Err(gone(outage.error)),
            }
        }
    }

    async fn nap(&mut self, time: Duration, until: Instant) -> Result<(), ApiError> {
        if Instant::now() + time >= until {
            return Err(if until == self.ends { expired() } else { nothing_yet() });
        }
        sleep(time).await;
        Ok(())
    }

    async fn pause(&mut self, outage: &Outage) -> Result<(), ApiError> {
        self.nap(outage.retry_after.unwrap_or(PAUSE).max(PAUSE), self.ends).await
    }

    /// A call on the connection there is, or on a new one.
    async fn call(&mut self, ask: Ask, deadline: Duration) -> Result<Said, Outage> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let Dialled { connection, trust, .. } = dial(&self.server, self.trust).await?;
                self.trust = trust;
                connection
            }
        };
        let said = connection.call(ask, deadline).await;
        // After a failure in words the connection still stands, but not for long perhaps: a new one costs little.
        if said.is_ok() {
            self.connection = Some(connection);
        }
        said
    }
}

/// Whether the same may work in a moment.
fn is_passing(error: &ApiError) -> bool {
    matches!(error.code, ErrorCode::Unreachable | ErrorCode::TimedOut | ErrorCode::RateLimited)
}

fn gone(error: ApiError) -> ApiError {
    if error.code != ErrorCode::NotFound {
        return error;
    }
    ApiError::new(ErrorCode::NotFound, "the server does not know this link (any more)")
        .hint("codes last ten minutes and serve once, on the server that they name: let the new device show another")
}

fn nothing_yet() -> ApiError {
    ApiError::new(ErrorCode::TimedOut, "the other device has not answered yet").hint("wait again")
}
