//! The daemon's socket: JSON-RPC 2.0, one object per line, for this user alone.
//!
//! [`bind`] makes the socket, [`from_systemd`] takes the one that systemd holds; [`serve`] answers on it until it is told
//! to stop. Batches are not supported; requests may be pipelined, and answers come as they are ready.
//!
//! **Invariant**: what one client does (stay silent, read slowly, send nonsense) costs a bounded amount of memory and
//! touches no other client.

mod connection;
mod listen;

use std::{sync::Arc, time::Duration};

use fastchat_ipc::{ApiError, ErrorCode, Outgoing};
use interprocess::local_socket::{
    tokio::Stream,
    traits::{StreamCommon, tokio::Listener as _},
};
use tokio::{
    io::AsyncWriteExt,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use listen::{BindError, Listener, bind, from_systemd};

use crate::api::Api;

/// Clients at once; one more is told so and sent away.
const CONNECTIONS: usize = 64;
/// How long to wait after the system refused to hand over a connection (no file descriptor left, …).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long calls under way may take to be answered after the stop.
const GRACE: Duration = Duration::from_secs(2);

/// Answers clients on `listener` until `stop`; then calls under way have a short while to be answered.
pub async fn serve(api: Api, listener: Listener, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.socket.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "a client could not be accepted; trying again shortly");
                tokio::select! { () = stop.cancelled() => break, () = sleep(ACCEPT_PAUSE) => continue }
            }
        };
        if let Err(reason) = check_peer(&stream) {
            warn!(reason, "a client was sent away");
            continue;
        }
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            warn!(limit = CONNECTIONS, "a client was sent away: too many are connected");
            connections.spawn(send_away(stream));
            continue;
        };
        let (api, stop) = (api.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = connection::serve(api, stream, stop).await {
                debug!(%error, "a client's connection ended");
            }
        });
    }
    drop(listener);
    let finished = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        warn!(open = connections.len(), "clients were cut off: their calls took too long to end");
    }
}

/// Only this user and root may talk to the daemon, whatever the modes of socket and directory say.
fn check_peer(stream: &Stream) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_creds().map(|creds| creds.euid()) {
        Ok(Some(uid)) if uid == own || uid == 0 => Ok(()),
        Ok(Some(uid)) => Err(format!("it runs as user {uid}, this daemon as user {own}")),
        Ok(None) => Err("the system does not tell which user it runs as".to_owned()),
        Err(error) => Err(format!("the system does not tell which user it runs as: {error}")),
    }
}

async fn send_away(mut stream: Stream) {
    let error = ApiError::new(ErrorCode::Refused, format!("{CONNECTIONS} clients are connected, which is the limit"))
        .hint("end some of the programs that talk to fastchatd, then try again");
    let Ok(mut line) = serde_json::to_vec(&Outgoing::answer(None, Err(error))) else { return };
    line.push(b'\n');
    // A fresh socket's buffer takes one line; a client that does not even have that is not waited for.
    let _ = timeout(ACCEPT_PAUSE, stream.write_all(&line)).await;
}
