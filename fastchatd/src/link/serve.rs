//! A standing session: frames both ways until it ends.
//!
//! Reading stops while the engine has not taken what was read, so a busy engine slows the server down and nothing piles
//! up here. Commands are taken all the while, so neither side waits for the other in a circle.
//!
//! **Invariant**: frames pass in order in each direction, and at most a bounded number wait.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{
    Code, FRAME_LIMIT,
    v1::{self, ClientFrame, ServerFrame, client_frame, server_frame},
};
use prost::Message;
use tokio::{sync::mpsc, time::sleep_until};

use super::{
    AccountKey, Connection, FromLink, Outage, PING_REQUEST, ToLink,
    connection::{broken, garbled},
    failure::shown,
    pace::{Due, Vigil},
    run::{Abandoned, report},
    wake::NetworkWatch,
};

/// Bytes that may wait to be written before no more commands are taken.
const OUTGOING: usize = 256 << 10;
/// Frames that may wait for the engine before no more commands are taken (each may put an answer of ours there).
const WAITING: usize = 64;

/// How long to listen to a server that no longer reads.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long to write what is queued when the engine stops.
const LEAVE: Duration = Duration::from_secs(2);

/// One session.
pub(super) struct Serve {
    number: u64,
    connection: Connection,
    frame_limit: usize,
    vigil: Vigil,
    waiting: VecDeque<ServerFrame>,
    farewell: Option<Outage>,
}

impl Serve {
    pub(super) fn new(number: u64, connection: Connection, limits: &v1::Limits, now: Instant) -> Self {
        let frame_limit = match limits.frame_bytes as usize {
            0 => FRAME_LIMIT,
            limit => limit,
        };
        let vigil = Vigil::new(limits.ping_seconds, now);
        Self { number, connection, frame_limit, vigil, waiting: VecDeque::new(), farewell: None }
    }

    /// Until the connection goes, and why; or until the engine goes. What had come by then is handed over.
    pub(super) async fn run<T: From<(AccountKey, FromLink)> + Send + 'static>(
        mut self,
        key: AccountKey,
        commands: &mut mpsc::Receiver<ToLink>,
        events: &mpsc::Sender<T>,
        network: &mut NetworkWatch,
    ) -> Result<Outage, Abandoned> {
        let outage = self.converse(key, commands, events, network).await?;
        while let Some(frame) = self.waiting.pop_front() {
            report(key, FromLink::Frame(Box::new(frame)), commands, events).await?;
        }
        Ok(self.farewell.take().unwrap_or(outage))
    }

    async fn converse<T: From<(AccountKey, FromLink)> + Send + 'static>(
        &mut self,
        key: AccountKey,
        commands: &mut mpsc::Receiver<ToLink>,
        events: &mpsc::Sender<T>,
        network: &mut NetworkWatch,
    ) -> Result<Outage, Abandoned> {
        loop {
            if let Err(outage) = self.sort() {
                return Ok(outage);
            }
            let listening = self.waiting.is_empty();
            let next = match self.due(listening) {
                Ok(time) => time,
                Err(outage) => return Ok(outage),
            };
            let Connection { reader, writer, .. } = &mut self.connection;
            let room = writer.waiting() < OUTGOING && self.waiting.len() < WAITING;
            tokio::select! {
                biased;
                permit = events.reserve(), if !listening => {
                    let permit = permit.map_err(|_| Abandoned)?;
                    if let Some(frame) = self.waiting.pop_front() {
                        permit.send((key, FromLink::Frame(Box::new(frame))).into());
                    }
                }
                written = writer.flush(), if !writer.is_idle() => match written {
                    Ok(()) => self.vigil.written(),
                    Err(error) => return Ok(self.last_words(broken(&error)).await),
                },
                command = commands.recv(), if room => match command {
                    Some(command) => self.obey(command, commands),
                    None => {
                        self.leave().await;
                        return Err(Abandoned);
                    }
                },
                read = reader.fill(), if listening => match read {
                    Ok(()) => self.vigil.heard(now()),
                    Err(error) => return Ok(broken(&error).into()),
                },
                () = network.changed() => self.ask(),
                () = sleep_until(next.into()) => {}
            }
        }
    }

    /// Does what is due; gives when to look again, or why the connection is given up.
    fn due(&mut self, listening: bool) -> Result<Instant, Outage> {
        if self.connection.writer.take_progress() {
            self.vigil.progressed(now());
        }
        let why = match self.vigil.due(now(), listening) {
            Due::At(time) => return Ok(time),
            Due::Ping => {
                self.ping();
                return Ok(now());
            }
            Due::Silent => "the server no longer answers",
            Due::Stuck => "the server no longer takes what is sent",
            Due::Left => "the server asked to leave",
        };
        Err(ApiError::new(ErrorCode::Unreachable, format!("the connection was given up: {why}")).into())
    }

    /// Takes the frames that have come out of the buffer: the link's own are dealt with, the others wait.
    fn sort(&mut self) -> Result<(), Outage> {
        while self.waiting.len() < WAITING {
            let Some(frame) = self.connection.reader.next().map_err(|error| garbled(&error))? else { break };
            match frame.body {
                Some(server_frame::Body::Pong(_)) => {}
                _ if frame.request == PING_REQUEST => {}
                Some(server_frame::Body::Goaway(goaway)) => {
                    self.farewell = Some(told_to_leave(&goaway));
                    self.vigil.leaving(now());
                }
                Some(server_frame::Body::Failure(failure)) if frame.request == 0 => {
                    return Err(Outage::refused(&failure));
                }
                // A body that this version does not know: nothing that was asked for.
                None if frame.request == 0 => {}
                _ => self.waiting.push_back(frame),
            }
        }
        Ok(())
    }

    /// Queues what a command says, with all that wait behind it, to be written at once.
    fn obey(&mut self, command: ToLink, commands: &mut mpsc::Receiver<ToLink>) {
        let mut command = Some(command);
        while let Some(next) = command.take() {
            match next {
                ToLink::Frame { up, frame } if up == self.number => self.queue(&frame),
                ToLink::Frame { .. } => tracing::debug!("dropping a frame that was meant for an earlier session"),
                ToLink::Reconnect => self.ask(),
            }
            if self.connection.writer.waiting() < OUTGOING && self.waiting.len() < WAITING {
                command = commands.try_recv().ok();
            }
        }
    }

    /// A frame that the server would not read is answered here instead of costing the connection.
    fn queue(&mut self, frame: &ClientFrame) {
        let length = frame.encoded_len();
        if length > self.frame_limit {
            let failure = v1::Failure::new(Code::TooLarge, format!("{length} bytes; {} are allowed", self.frame_limit));
            let body = Some(server_frame::Body::Failure(failure));
            self.waiting.push_back(ServerFrame { request: frame.request, body });
            return;
        }
        self.connection.writer.queue(frame);
        self.vigil.queued(now());
    }

    /// Finds out at once whether the connection still lives.
    fn ask(&mut self) {
        if !self.vigil.is_asking() {
            self.ping();
        }
    }

    fn ping(&mut self) {
        let body = Some(client_frame::Body::Ping(v1::Ping {}));
        self.connection.writer.queue(&ClientFrame { request: PING_REQUEST, body });
        self.vigil.pinged(now());
    }

    /// The engine stops: what it said last still goes out, within a moment.
    async fn leave(&mut self) {
        let writer = &mut self.connection.writer;
        let _ = tokio::time::timeout(LEAVE, writer.flush()).await;
        writer.close().await;
    }

    /// The server does not read any more; perhaps it has said why.
    async fn last_words(&mut self, otherwise: ApiError) -> Outage {
        let listen = async {
            while self.waiting.len() < WAITING {
                if self.connection.reader.fill().await.is_err() {
                    break;
                }
                self.sort()?;
            }
            Ok::<(), Outage>(())
        };
        match tokio::time::timeout(LAST_WORDS, listen).await {
            Ok(Err(said)) => said,
            _ => otherwise.into(),
        }
    }
}

/// What a Goaway means.
pub(super) fn told_to_leave(goaway: &v1::Goaway) -> Outage {
    let reason = match shown(&goaway.reason) {
        reason if reason.is_empty() => "it will be back".to_owned(),
        reason => reason,
    };
    Outage {
        error: ApiError::new(ErrorCode::Unreachable, format!("the server closes its connections: {reason}")),
        retry_after: Some(Duration::from_millis(u64::from(goaway.retry_after_ms))),
    }
}

/// The time, also where a test has paused it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
