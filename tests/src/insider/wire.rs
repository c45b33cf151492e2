//! A connection to a server, frame by frame.
//!
//! **Invariant**: every read has a deadline; what the server says unasked is kept in its order until it is looked at.

use std::{collections::VecDeque, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use fastchat_wire::{
    FRAME_LIMIT, RESUME_EXPORTER_LABEL, VERSION, VERSION_MIN, decode, encode,
    v1::{self, ClientFrame, ServerFrame, client_frame::Body as Ask, server_frame::Body as Said},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

use crate::{anybody, within};

/// The largest frame: a group's state with its tree.
const LARGEST: usize = 4 * FRAME_LIMIT;

/// The connection.
pub struct Wire {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
    next: u64,
    pushed: VecDeque<Said>,
}

impl Wire {
    /// Connects and says hello.
    ///
    /// # Errors
    /// The server is not there, or does not take it.
    pub async fn connect(address: &str) -> Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::new(anybody()?)).connect(name, tcp).await?;
        let mut wire = Self { stream, buffer: BytesMut::new(), next: 1, pushed: VecDeque::new() };
        let hello = v1::Hello { version_min: VERSION_MIN, version_max: VERSION, agent: "tests".into() };
        match wire.ask(Ask::Hello(hello)).await? {
            Said::Ready(_) => Ok(wire),
            other => bail!("instead of Ready there is {other:?}"),
        }
    }

    /// What a resumed session signs on this connection.
    ///
    /// # Errors
    /// TLS does not export.
    pub fn binding(&self) -> Result<[u8; 32]> {
        Ok(self.stream.get_ref().1.export_keying_material([0; 32], RESUME_EXPORTER_LABEL, None)?)
    }

    /// Asks something; gives the answer, which may be a Failure.
    ///
    /// # Errors
    /// The connection breaks, or no answer comes in time.
    pub async fn ask(&mut self, body: Ask) -> Result<Said> {
        let request = self.next;
        self.next += 1;
        self.write(&ClientFrame { request, body: Some(body) }).await?;
        within("an answer of the server", async {
            loop {
                let frame = self.read().await?;
                match frame.body {
                    Some(body) if frame.request == request => return Ok(body),
                    Some(body) if frame.request == 0 => self.pushed.push_back(body),
                    _ => {}
                }
            }
        })
        .await
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn tell(&mut self, body: Ask) -> Result<()> {
        self.write(&ClientFrame { request: 0, body: Some(body) }).await
    }

    /// The next thing that the server says unasked.
    ///
    /// # Errors
    /// The connection breaks, or nothing comes in time.
    pub async fn heard(&mut self) -> Result<Said> {
        if let Some(body) = self.pushed.pop_front() {
            return Ok(body);
        }
        within("something from the server", async {
            loop {
                if let Some(body) = self.read().await?.body {
                    return Ok(body);
                }
            }
        })
        .await
    }

    /// What the server has said unasked and nobody has looked at.
    pub fn waiting(&mut self) -> Option<Said> {
        self.pushed.pop_front()
    }

    async fn write(&mut self, frame: &ClientFrame) -> Result<()> {
        let mut bytes = BytesMut::new();
        encode::<ClientFrame>(frame, &mut bytes);
        self.stream.write_all(&bytes).await?;
        Ok(self.stream.flush().await?)
    }

    async fn read(&mut self) -> Result<ServerFrame> {
        loop {
            if let Some(frame) = decode(&mut self.buffer, LARGEST).context("a frame of the server")? {
                return Ok(frame);
            }
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server has closed the connection");
        }
    }
}
