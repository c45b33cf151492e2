//! Accepts connections and counts them.
//!
//! **Invariant**: no more connections than configured, in all and of one address; one too many costs an accept and a
//! close.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use fastchat_store::Store;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use crate::{
    connection::{self, Services},
    rates::Origin,
};

/// How long to wait when the system gives no more file descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// The socket that systemd passed, or a fresh one.
///
/// # Errors
/// The address is in use or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let passed = listenfd::ListenFd::from_env().take_tcp_listener(0)?;
    let socket = match passed {
        Some(socket) => socket,
        None => bind_fresh(address)?,
    };
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn bind_fresh(address: SocketAddr) -> io::Result<StdListener> {
    let bound = StdListener::bind(address);
    // A system without IPv6: all of IPv4 is what was meant.
    match bound {
        Err(error)
            if address.ip().is_unspecified()
                && address.is_ipv6()
                && !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) =>
        {
            StdListener::bind(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        bound => bound,
    }
}

/// Accepts until the services stop, then answers the connections that still run.
pub async fn accept<S: Store>(listener: TcpListener, services: Services<S>) -> JoinSet<Origin> {
    let mut connections = JoinSet::new();
    let mut by_origin: HashMap<Origin, usize> = HashMap::new();
    loop {
        let accepted = tokio::select! {
            () = services.stopping.cancelled() => return connections,
            Some(ended) = connections.join_next() => {
                if let Ok(origin) = ended {
                    release(&mut by_origin, origin);
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_one_connection(&error) {
                    tracing::warn!(%error, "no connection can be accepted; trying again");
                    sleep(PAUSE).await;
                }
                continue;
            }
        };
        let origin = Origin::from(peer.ip());
        let limits = &services.live.borrow().config.limits;
        let count = by_origin.entry(origin).or_default();
        if connections.len() >= limits.connections.count() || *count >= limits.connections_per_ip.count() {
            if *count == 0 {
                by_origin.remove(&origin);
            }
            tracing::debug!("too many connections: one was turned away");
            continue;
        }
        *count += 1;
        let _ = tcp.set_nodelay(true);
        let serve = connection::serve(tcp, origin, services.clone());
        connections.spawn(async move {
            serve.await;
            origin
        });
    }
}

fn release(by_origin: &mut HashMap<Origin, usize>, origin: Origin) {
    if let Some(count) = by_origin.get_mut(&origin) {
        *count -= 1;
        if *count == 0 {
            by_origin.remove(&origin);
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
