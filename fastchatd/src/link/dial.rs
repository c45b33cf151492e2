//! From an address to a server that is ready: names, TCP, TLS, Hello, and where a balancer points.
//!
//! **Invariant**: each step has a deadline, and where a redirect leads is trusted no more easily than where it came
//! from.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{ServerAddress, VERSION, VERSION_MIN, v1, v1::client_frame, v1::server_frame};
use rustls::pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    Connection, Outage, Trust,
    connection::{broken, unexpected},
    trust::Judge,
};

/// Names and TCP together.
const CONNECT: Duration = Duration::from_secs(10);
/// TLS, and again for Hello.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Redirects that are followed.
const REDIRECTS: usize = 3;
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// A server that is ready.
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    pub(crate) ready: v1::Ready,
    /// What to trust at the entry address from now on.
    pub(crate) trust: Trust,
}

/// Connects to a server through its entry address.
pub(crate) async fn dial(entry: &ServerAddress, trust: Trust) -> Result<Dialled, Outage> {
    let (mut address, mut expected) = (entry.clone(), trust);
    let mut entry_trust = None;
    for _ in 0..=REDIRECTS {
        let (mut connection, learned) = secure(&address, expected).await?;
        let remembered = *entry_trust.get_or_insert(learned);
        match connection.call(hello(), HANDSHAKE).await? {
            server_frame::Body::Ready(ready) => return Ok(Dialled { connection, ready, trust: remembered }),
            server_frame::Body::Redirect(redirect) => {
                connection.writer.close().await;
                (address, expected) = follow(&redirect, remembered)?;
            }
            _ => return Err(unexpected().into()),
        }
    }
    Err(ApiError::new(ErrorCode::Server, format!("{entry} leads from server to server without end"))
        .hint("tell the server's operator: the balancers point at each other")
        .into())
}

fn hello() -> client_frame::Body {
    client_frame::Body::Hello(v1::Hello {
        version_min: VERSION_MIN,
        version_max: VERSION,
        agent: concat!("fastchatd/", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

/// Where a redirect leads, and what must be proved there: its own pin, or what the entry address proved.
fn follow(redirect: &v1::Redirect, entry: Trust) -> Result<(ServerAddress, Trust), Outage> {
    let bad = |what: &dyn std::fmt::Display| {
        ApiError::new(ErrorCode::Server, format!("the balancer points to no proper address: {what}"))
            .hint("tell the server's operator")
    };
    let address = redirect.address.parse().map_err(|error| bad(&error))?;
    let trust =
        if redirect.pin.is_empty() { entry } else { Trust::Pinned(redirect.pin.parse().map_err(|error| bad(&error))?) };
    Ok((address, trust))
}

/// TCP and TLS. Gives what is to be trusted from now on with the connection.
async fn secure(address: &ServerAddress, trust: Trust) -> Result<(Connection, Trust), Outage> {
    let stream = reach(address).await?;
    let judge = tokio::task::spawn_blocking(move || Judge::new(trust)).await.map_err(|error| defect(&error))?;
    let config = judge.config().map_err(|error| defect(&error))?;
    let name = ServerName::try_from(address.host().to_owned()).map_err(|error| defect(&error))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(judge.objection(address).unwrap_or_else(|| no_tls(address, &error)).into());
        }
        Err(_) => return Err(unreachable(address, "it does not answer").into()),
    };
    let connection = Connection::new(stream).map_err(|error| defect(&error))?;
    Ok((connection, judge.learned()))
}

async fn reach(server: &ServerAddress) -> Result<TcpStream, ApiError> {
    let deadline = Instant::now() + CONNECT;
    let lookup = timeout_at(deadline, lookup_host((server.host(), server.port())));
    let addresses: Vec<SocketAddr> = match lookup.await {
        Ok(Ok(found)) => found.take(ADDRESSES).collect(),
        Ok(Err(error)) => return Err(unreachable(server, &format!("its name does not resolve ({error})"))),
        Err(_) => return Err(unreachable(server, "its name does not resolve in time")),
    };
    let mut problem = "its name has no address".to_owned();
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(1);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Frames are batched here already; waiting for more would only delay them.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => problem = error.to_string(),
            Err(_) => "it does not answer".clone_into(&mut problem),
        }
    }
    Err(unreachable(server, &problem))
}

fn unreachable(server: &ServerAddress, problem: &str) -> ApiError {
    ApiError::new(ErrorCode::Unreachable, format!("cannot reach {server}: {problem}"))
        .hint("check host and port, your network, and that the server runs")
}

fn no_tls(server: &ServerAddress, error: &std::io::Error) -> ApiError {
    let mut error = broken(error);
    error.message = format!("no secure connection to {server}: {}", error.message);
    error.hint(format!("is there a FastChat server at {server}?"))
}

fn defect(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("TLS could not be set up: {error}"))
}
