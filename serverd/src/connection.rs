//! One device's connection: TLS, greeting, session. One task each.
//!
//! **Invariant**: whatever a connection does wrong ends that connection alone, after telling it why where that is
//! possible.

mod credentials;
mod fields;
mod frame_stream;
mod greeting;
mod handshakes;
mod links;
mod requests;

use std::{sync::Arc, time::Duration};

use fastchat_store::Store;
use fastchat_wire::{AccountName, Code, DeviceId, v1};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc, watch},
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::frame_stream::{FrameStream, ReadError};
use crate::{
    auth::Passwords,
    certificate::Identity,
    clock,
    config::Config,
    core::{Event, SessionId, frames},
    handshakes::Checks,
    hub::{Hub, Outgoing},
    rates::{Origin, Pace, Rates},
};

/// How long a device may take to read what is sent to it.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes that are put together before they are written.
const WRITE_AT_ONCE: usize = 64 << 10;

/// What can change while the server runs (SIGHUP).
pub struct Live {
    /// The configuration.
    pub config: Config,
    /// The certificate.
    pub identity: Identity,
}

/// What every connection works with.
#[derive(Clone)]
pub struct Services<S> {
    /// The store.
    pub store: S,
    /// The delivery core.
    pub hub: Hub,
    /// Rate limits.
    pub rates: Rates,
    /// Password checks.
    pub passwords: Passwords,
    /// Checks of handshakes.
    pub checks: Checks,
    /// Places for large frames that are being read.
    pub large_frames: Arc<Semaphore>,
    /// Counts the messages put into link mailboxes, for those who wait for one.
    pub links: watch::Sender<u64>,
    /// Configuration and certificate.
    pub live: watch::Receiver<Arc<Live>>,
    /// Set when the server is about to stop.
    pub stopping: CancellationToken,
}

impl<S> Services<S> {
    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.borrow())
    }
}

/// Why a request is not answered as asked.
enum Trouble {
    /// Say so; the connection goes on.
    Refuse(v1::Failure),
    /// Say so, if there is something to say, and end the connection.
    End(Option<v1::Failure>),
}

impl From<v1::Failure> for Trouble {
    fn from(failure: v1::Failure) -> Self {
        Self::Refuse(failure)
    }
}

impl From<fastchat_store::StoreError> for Trouble {
    fn from(error: fastchat_store::StoreError) -> Self {
        match frames::store_failure(&error) {
            Some(failure) => Self::Refuse(failure),
            // The outcome is unknown and the process is about to end: a cut connection says just that.
            None => Self::End(None),
        }
    }
}

fn refuse(code: Code, text: impl Into<String>) -> Trouble {
    Trouble::Refuse(v1::Failure::new(code, text))
}

fn rate_limited(wait: Duration) -> Trouble {
    let seconds = wait.as_secs() + 1;
    let text = format!("too often: try again in {seconds} s");
    Trouble::Refuse(frames::failure_after(Code::RateLimited, &text, wait))
}

/// A connection with a session.
struct Established {
    stream: FrameStream,
    account: AccountName,
    device: DeviceId,
    session: SessionId,
    /// Where it comes from.
    origin: Origin,
    /// The hour for which the store knows that the device was connected.
    seen_ms: u64,
    /// A link message that is waited for.
    fetching: Fetching,
    outbox: mpsc::Receiver<Outgoing>,
    /// Slows down a device that submits too much: nothing is read from it until `resume_at`.
    pace: Pace,
    resume_at: Instant,
}

/// A task that answers a request later; it ends with the connection.
#[derive(Default)]
struct Fetching(Option<AbortHandle>);

impl Fetching {
    fn replace(&mut self, task: JoinHandle<()>) {
        if let Some(older) = self.0.replace(task.abort_handle()) {
            older.abort();
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Established {
    /// Notes that so many entries were submitted.
    fn submitted(&mut self, entries: usize, per_second: u64) {
        let now = Instant::now();
        self.resume_at = Instant::from_std(self.pace.take(now.into_std(), entries, per_second));
    }
}

/// Speaks with one device until one of the two ends it.
pub async fn serve<S: Store>(tcp: TcpStream, origin: Origin, services: Services<S>) {
    // Each phase has its memory for as long as it lasts: an idle session keeps little.
    let Some(established) = Box::pin(greeting::greet(tcp, origin, &services)).await else { return };
    let (session, device, seen_ms) = (established.session, established.device, established.seen_ms);
    Box::pin(converse(established, &services)).await;
    services.hub.tell(Event::Closed(session)).await;
    note_seen(&services, device, seen_ms).await;
}

/// Notes that the device was connected, to the hour. Answers the hour.
async fn note_seen<S: Store>(services: &Services<S>, device: DeviceId, noted_ms: u64) -> u64 {
    const HOUR_MS: u64 = 3_600_000;
    let hour_ms = clock::now_ms() / HOUR_MS * HOUR_MS;
    if hour_ms > noted_ms
        && let Err(error) = services.store.note_seen(device, hour_ms).await
    {
        tracing::debug!(%error, "when a device was connected was not noted");
    }
    hour_ms
}

/// The session: requests in, answers and deliveries out.
async fn converse<S: Store>(mut connection: Established, services: &Services<S>) {
    let limits = services.live().config.limits.clone();
    let silence = limits.ping_seconds.seconds() + Duration::from_secs(5);
    let idle = sleep_until(Instant::now() + silence);
    tokio::pin!(idle);
    let mut heard = Instant::now();
    connection.stream.set_limit(limits.frame_bytes());
    loop {
        let trouble = tokio::select! {
            read = connection.stream.next(), if connection.resume_at <= Instant::now() => {
                heard = Instant::now();
                match read {
                    Ok(Some(frame)) => requests::answer(&mut connection, services, &limits, frame).await,
                    Ok(None) => Some(None),
                    Err(error) => Some(bad_frame(&error)),
                }
            }
            () = sleep_until(connection.resume_at), if connection.resume_at > Instant::now() => None,
            outgoing = connection.outbox.recv() => write_outgoing(&mut connection, outgoing),
            () = &mut idle => {
                if heard.elapsed() < silence {
                    idle.as_mut().reset(heard + silence);
                    None
                } else {
                    Some(Some(v1::Failure::new(Code::TimedOut, "nothing was heard of the device for too long")))
                }
            }
        };
        if let Some(last) = trouble {
            return connection.stream.end(0, last).await;
        }
        if connection.stream.must_flush()
            && !matches!(tokio::time::timeout(WRITE_DEADLINE, connection.stream.flush()).await, Ok(Ok(())))
        {
            return;
        }
    }
}

/// Puts what waits into the write buffer. `Some`: the connection ends.
fn write_outgoing(connection: &mut Established, first: Option<Outgoing>) -> Option<Option<v1::Failure>> {
    let mut next = first;
    loop {
        match next {
            Some(Outgoing::Frames(frames)) => frames.iter().for_each(|frame| connection.stream.push(frame)),
            Some(Outgoing::Last(frame)) => {
                connection.stream.push(&frame);
                return Some(None);
            }
            None => return Some(None),
        }
        if connection.stream.waiting() >= WRITE_AT_ONCE {
            return None;
        }
        match connection.outbox.try_recv() {
            Ok(outgoing) => next = Some(outgoing),
            // A closed channel shows at the next wait.
            Err(_) => return None,
        }
    }
}

/// What to say to a device that sent something that is no frame.
fn bad_frame(error: &ReadError) -> Option<v1::Failure> {
    match error {
        ReadError::Frame(error @ fastchat_wire::FrameError::TooLarge { .. }) => {
            Some(v1::Failure::new(Code::TooLarge, error.to_string()))
        }
        ReadError::Frame(error) => Some(v1::Failure::new(Code::BadFrame, error.to_string())),
        ReadError::Late => Some(v1::Failure::new(Code::TimedOut, error.to_string())),
        ReadError::Budget => Some(v1::Failure::new(Code::TooLarge, "too many bytes before a session")),
        ReadError::Io(_) | ReadError::Truncated => None,
    }
}
