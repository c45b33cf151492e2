//! One device's connection to the made-up server.
//!
//! **Invariant**: it carries frames and decides nothing.

use anyhow::{Context, Result};
use bytes::BytesMut;
use fastchat_wire::{FRAME_LIMIT, decode, encode, v1};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::{Event, WAITING};

pub(super) async fn serve(number: u64, tcp: TcpStream, acceptor: TlsAcceptor, events: mpsc::Sender<Event>) {
    let (outbox, answers) = mpsc::channel(WAITING);
    if events.send(Event::Opened(number, outbox)).await.is_ok() {
        // However it ends, it has ended.
        let _ = carry(number, tcp, acceptor, &events, answers).await;
        let _ = events.send(Event::Closed(number)).await;
    }
}

async fn carry(
    number: u64,
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    events: &mpsc::Sender<Event>,
    mut answers: mpsc::Receiver<v1::ServerFrame>,
) -> Result<()> {
    let tls = acceptor.accept(tcp).await?;
    let (mut read, mut write) = tokio::io::split(tls);
    let reading = async {
        let mut buffer = BytesMut::new();
        loop {
            while let Some(frame) = decode(&mut buffer, FRAME_LIMIT)? {
                events.send(Event::Said(number, Box::new(frame))).await.ok().context("the test is over")?;
            }
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    let writing = async {
        while let Some(frame) = answers.recv().await {
            let mut bytes = BytesMut::new();
            encode::<v1::ServerFrame>(&frame, &mut bytes);
            write.write_all(&bytes).await?;
            write.flush().await?;
        }
        Ok(())
    };
    tokio::select! {
        read = reading => read,
        written = writing => written,
    }
}
