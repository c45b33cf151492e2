//! A client that does not keep to the protocol.
//!
//! **Invariant**: it reads all that the server says before it goes.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::BytesMut;
use fastchat_tests::{Server, anybody, within};
use fastchat_wire::{FRAME_LIMIT, decode, v1};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

/// A connection on which nothing was said yet.
pub(crate) async fn connect(server: &Server) -> Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(server.address()).await?;
    let connector = TlsConnector::from(Arc::new(anybody()?));
    Ok(connector.connect(ServerName::try_from("127.0.0.1")?, tcp).await?)
}

/// Writes bytes and reads what the server says until it closes.
pub(crate) async fn say(server: &Server, bytes: &[u8]) -> Result<Vec<v1::ServerFrame>> {
    let mut stream = connect(server).await?;
    within("the server answers and closes", async {
        // The server may have closed before all is written.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let mut read = Vec::new();
        // However it closes.
        let _ = stream.read_to_end(&mut read).await;
        let mut buffer = BytesMut::from(&read[..]);
        let mut frames = Vec::new();
        while let Some(frame) = decode(&mut buffer, FRAME_LIMIT).context("what the server says")? {
            frames.push(frame);
        }
        Ok(frames)
    })
    .await
}
