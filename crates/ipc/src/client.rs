//! The client of the daemon's socket.
//!
//! **Invariant**: a call ends within its deadline, with the daemon's answer or a [`ClientError`].

use std::{collections::VecDeque, io, path::Path, time::Duration};

use interprocess::local_socket::{
    GenericFilePath, ToFsName,
    tokio::{Stream, prelude::*},
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::{ApiError, Event, LINE_LIMIT, Method, Notification, Outgoing, RpcId, Subscribe, method};

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no daemon answers on {path}: {source}")]
    Unreachable {
        /// The socket.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or the daemon said something that is not JSON-RPC.
    #[error("the daemon's connection broke: {0}")]
    Broken(#[from] io::Error),
    /// No answer within the deadline.
    #[error("the daemon has not answered within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The daemon's own answer.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A connection to the daemon.
pub struct Client {
    stream: BufReader<Stream>,
    next_id: i64,
    /// Events that came while an answer was waited for.
    events: VecDeque<Event>,
    deadline: Duration,
}

impl Client {
    /// Connects to the daemon on `path`; every later call has `deadline` to be answered.
    ///
    /// # Errors
    /// Nobody listens there, or the process there belongs to another user (passwords go through this socket).
    pub async fn connect(path: &Path, deadline: Duration) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.display().to_string(), source };
        let name = path.to_fs_name::<GenericFilePath>().map_err(unreachable)?;
        let connected = timeout(deadline, Stream::connect(name)).await;
        let stream = connected.map_err(|_| ClientError::TimedOut(deadline))?.map_err(unreachable)?;
        check_owner(&stream).map_err(unreachable)?;
        Ok(Self { stream: BufReader::new(stream), next_id: 1, events: VecDeque::new(), deadline })
    }

    /// Changes the deadline of later calls.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Calls `M`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call<M: Method>(&mut self, params: &M::Params) -> Result<M::Result, ClientError> {
        let result = self.call_raw(M::NAME, serde_json::to_value(params).map_err(io::Error::from)?).await?;
        Ok(serde_json::from_value(result).map_err(io::Error::from)?)
    }

    /// Calls any method by its name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call_raw(&mut self, method: &str, params: Value) -> Result<Value, ClientError> {
        let deadline = self.deadline;
        timeout(deadline, self.exchange(method, params)).await.map_err(|_| ClientError::TimedOut(deadline))?
    }

    /// Subscribes to events; the connection is theirs from then on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn subscribe(mut self, since: &str) -> Result<EventStream, ClientError> {
        let begun = self.call::<method::SubscribeEvents>(&Subscribe { since: since.to_owned() }).await?;
        Ok(EventStream { client: self, cursor: begun.cursor })
    }

    async fn exchange(&mut self, method: &str, params: Value) -> Result<Value, ClientError> {
        let id = RpcId::Number(self.next_id);
        self.next_id += 1;
        let request = crate::Incoming { jsonrpc: "2.0".into(), id: Some(id.clone()), method: method.into(), params };
        let mut line = serde_json::to_vec(&request).map_err(io::Error::from)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).await?;
        loop {
            match self.read_line().await? {
                Line::Event(event) => self.events.push_back(event),
                Line::Answer(answer) if answer.id.as_ref() == Some(&id) => {
                    return match answer.error {
                        Some(failure) => Err(ApiError::from(failure).into()),
                        None => Ok(answer.result.unwrap_or(Value::Null)),
                    };
                }
                Line::Answer(answer) => {
                    // An answer without an id: the daemon could not read the request.
                    if let (None, Some(failure)) = (answer.id, answer.error) {
                        return Err(ApiError::from(failure).into());
                    }
                }
            }
        }
    }

    async fn read_line(&mut self) -> Result<Line, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LINE_LIMIT as u64 + 1).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed it").into());
        }
        if line.last() != Some(&b'\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is cut off or too long").into());
        }
        let value: Value = serde_json::from_slice(&line).map_err(io::Error::from)?;
        Ok(if value.get("method").is_some() {
            Line::Event(serde_json::from_value::<Notification>(value).map_err(io::Error::from)?.params)
        } else {
            Line::Answer(serde_json::from_value(value).map_err(io::Error::from)?)
        })
    }
}

/// Refuses a daemon of another user: the socket may lie in a directory where others can write.
fn check_owner(stream: &Stream) -> io::Result<()> {
    let owner = stream.peer_creds()?.euid();
    let own = rustix::process::geteuid().as_raw();
    if owner.is_some_and(|uid| uid == own || uid == 0) {
        return Ok(());
    }
    let problem = "the process there belongs to another user";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
}

enum Line {
    Answer(Outgoing),
    Event(Event),
}

/// Events, as they come.
pub struct EventStream {
    client: Client,
    cursor: String,
}

impl EventStream {
    /// Where to subscribe again after the last event that [`EventStream::next`] gave.
    #[must_use]
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The next event; waits for as long as it takes. May be cancelled without losing an event only between lines:
    /// resume from [`EventStream::cursor`] after a cancelled call.
    ///
    /// # Errors
    /// The daemon went away.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        let event = match self.client.events.pop_front() {
            Some(event) => event,
            None => loop {
                if let Line::Event(event) = self.client.read_line().await? {
                    break event;
                }
            },
        };
        if event.durable {
            self.cursor.clone_from(&event.cursor);
        }
        Ok(event)
    }
}
