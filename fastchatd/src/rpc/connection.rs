//! One client: reads its requests, runs several at a time, answers each, and sends it events once it subscribed.
//!
//! **Invariant**: at most one line, [`IN_FLIGHT`] calls and one event are held for a client; while it does not read,
//! nothing more is read from it or for it.

use std::{io, time::Duration};

use fastchat_ipc::{
    ApiError, ErrorCode, Event, Incoming, LINE_LIMIT, Notification, Outgoing, Request, RpcFailure, RpcId, Subscribe,
    Subscribed, method,
};
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    future::BoxFuture,
    stream::{FuturesUnordered, SplitSink, SplitStream},
};
use interprocess::local_socket::tokio::Stream;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::{
    codec::{Framed, LinesCodec, LinesCodecError},
    sync::CancellationToken,
};
use zeroize::Zeroizing;

use crate::api::{Api, Feed};

/// Calls of one client under way at once; further lines wait in its socket.
const IN_FLIGHT: usize = 16;
/// How long a client may take to take one line.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// JSON-RPC's code for a line that is not JSON.
const PARSE_ERROR: i64 = -32700;

type Lines = Framed<Stream, LinesCodec>;

/// Serves one client until it goes, breaks the rules of the line, or `stop`.
///
/// A client that closes its sending side still gets the answers that are due; its subscription ends.
///
/// # Errors
/// The connection broke, or the client did not take what was sent to it.
pub(super) async fn serve(api: Api, stream: Stream, stop: CancellationToken) -> io::Result<()> {
    let (sink, lines) = Framed::new(stream, LinesCodec::new_with_max_length(LINE_LIMIT)).split();
    let calls = FuturesUnordered::new();
    Connection { api, sink, calls, subscription: Subscription::None }.run(lines, stop).await
}

struct Connection {
    api: Api,
    sink: SplitSink<Lines, String>,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    subscription: Subscription,
}

enum Subscription {
    None,
    /// Its call is under way.
    Begun,
    Running(Box<Feed>),
}

/// A call that came to its end.
enum Done {
    Answered(Option<RpcId>, Result<Value, ApiError>),
    Subscribed(Option<RpcId>, Result<Box<Feed>, ApiError>),
}

impl Connection {
    async fn run(&mut self, mut lines: SplitStream<Lines>, stop: CancellationToken) -> io::Result<()> {
        let mut reading = true;
        while reading || !self.calls.is_empty() {
            let room = self.calls.len() < IN_FLIGHT;
            tokio::select! {
                biased;
                // Calls under way are still answered; `rpc::serve` bounds how long.
                () = stop.cancelled(), if reading => (reading, self.subscription) = (false, Subscription::None),
                Some(done) = self.calls.next() => self.finish(done).await?,
                line = lines.next(), if reading && room => reading = self.take(line).await?,
                event = next_event(&mut self.subscription), if reading => match event {
                    Ok(event) => self.send(&Notification::event(event)).await?,
                    // The client subscribes again from its cursor, and hears then what is wrong.
                    Err(_) => return Ok(()),
                },
            }
            if !reading {
                self.subscription = Subscription::None;
            }
        }
        Ok(())
    }

    /// Takes what came from the client; whether to read on.
    async fn take(&mut self, line: Option<Result<String, LinesCodecError>>) -> io::Result<bool> {
        match line {
            None => return Ok(false),
            Some(Ok(line)) => self.begin(Zeroizing::new(line)).await?,
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                self.refuse(None, invalid_request(&format!("a line is longer than {LINE_LIMIT} bytes"))).await?;
                return Ok(false);
            }
            Some(Err(LinesCodecError::Io(error))) if error.kind() == io::ErrorKind::InvalidData => {
                self.send(&parse_error("it is not UTF-8")).await?;
                return Ok(false);
            }
            Some(Err(LinesCodecError::Io(error))) => return Err(error),
        }
        Ok(true)
    }

    async fn begin(&mut self, line: Zeroizing<String>) -> io::Result<()> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let value: Value = match serde_json::from_str(&line) {
            Ok(value) => value,
            Err(error) => return self.send(&parse_error(&error.to_string())).await,
        };
        if value.is_array() {
            return self.refuse(None, invalid_request("batches are not supported: send one request per line")).await;
        }
        let id = value.get("id").and_then(|id| serde_json::from_value::<RpcId>(id.clone()).ok());
        let incoming: Incoming = match serde_json::from_value(value) {
            Ok(incoming) => incoming,
            Err(error) => return self.refuse(id, invalid_request(&error.to_string())).await,
        };
        if incoming.jsonrpc != "2.0" {
            return self.refuse(incoming.id, invalid_request("`jsonrpc` must be \"2.0\"")).await;
        }
        match Request::parse(&incoming.method, incoming.params) {
            Ok(request) => self.call(incoming.id, request).await,
            // A request without an id wants no answer, not even this one.
            Err(_) if incoming.id.is_none() => Ok(()),
            Err(error) => self.refuse(incoming.id, error).await,
        }
    }

    async fn call(&mut self, id: Option<RpcId>, request: Request) -> io::Result<()> {
        let api = self.api.clone();
        let call = match request {
            Request::SubscribeEvents(params) => {
                if !matches!(self.subscription, Subscription::None) {
                    let error = ApiError::new(ErrorCode::Refused, "this connection is subscribed already");
                    return self.refuse(id, error.hint("open another connection for another subscription")).await;
                }
                self.subscription = Subscription::Begun;
                async move { Done::Subscribed(id, subscribe(&api, params).await.map(Box::new)) }.boxed()
            }
            request => async move { Done::Answered(id, api.request(request).await) }.boxed(),
        };
        self.calls.push(call);
        Ok(())
    }

    async fn finish(&mut self, done: Done) -> io::Result<()> {
        let (id, outcome) = match done {
            Done::Answered(id, outcome) => (id, outcome),
            Done::Subscribed(id, Ok(feed)) => {
                let begun = serde_json::to_value(Subscribed { cursor: feed.cursor().to_owned() })?;
                self.subscription = Subscription::Running(feed);
                (id, Ok(begun))
            }
            Done::Subscribed(id, Err(error)) => {
                self.subscription = Subscription::None;
                (id, Err(error))
            }
        };
        if id.is_some() { self.send(&Outgoing::answer(id, outcome)).await } else { Ok(()) }
    }

    /// Says what was wrong with a line; to one whose id cannot be read, with the id null.
    async fn refuse(&mut self, id: Option<RpcId>, error: ApiError) -> io::Result<()> {
        self.send(&Outgoing::answer(id, Err(error))).await
    }

    async fn send(&mut self, message: &impl serde::Serialize) -> io::Result<()> {
        let line = serde_json::to_string(message)?;
        match timeout(WRITE_DEADLINE, self.sink.send(line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(LinesCodecError::Io(error))) => Err(error),
            Ok(Err(LinesCodecError::MaxLineLengthExceeded)) => Err(io::ErrorKind::InvalidData.into()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read what it asked for")),
        }
    }
}

/// The engine says where the subscription begins, or that there is none (the store is locked).
async fn subscribe(api: &Api, params: Subscribe) -> Result<Feed, ApiError> {
    let begun = api.call::<method::SubscribeEvents>(&params).await?;
    api.feed(&begun.cursor).await
}

async fn next_event(subscription: &mut Subscription) -> Result<Event, ApiError> {
    match subscription {
        Subscription::Running(feed) => feed.next().await,
        Subscription::None | Subscription::Begun => std::future::pending().await,
    }
}

fn invalid_request(reason: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("this is not a JSON-RPC 2.0 request: {reason}"))
        .hint(r#"send one line like {"jsonrpc":"2.0","id":1,"method":"daemon.status"}"#)
}

fn parse_error(reason: &str) -> Outgoing {
    let error = ApiError::new(ErrorCode::InvalidRequest, format!("this line is not JSON: {reason}"));
    let failure = RpcFailure { code: PARSE_ERROR, ..error.into() };
    Outgoing { jsonrpc: "2.0".into(), id: None, result: None, error: Some(failure) }
}
