//! Frames over TLS, with buffers that an idle connection does not keep.
//!
//! **Invariant**: `next` can be dropped at any await without losing a byte.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use fastchat_wire::{
    FrameError, LENGTH_BYTES, decode, encode,
    v1::{self, server_frame::Body},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_rustls::server::TlsStream;

/// What an empty buffer begins with, and what it may keep.
const SMALL: usize = 512;
/// How much is read at once while a frame is on its way.
const CHUNK: usize = 16 << 10;
/// The largest frame before a session: an identity, its backup and a certificate fit.
const PRE_SESSION_FRAME: usize = 64 << 10;
/// A frame beyond this waits for one of a few places, so that many connections do not bring many of them at once.
const LARGE: usize = 1 << 20;
/// How long a large frame may take to come.
const LARGE_DEADLINE: Duration = Duration::from_secs(60);
/// How long a device may take to read the last word.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the connection ended within a frame")]
    Truncated,
    #[error("too many bytes")]
    Budget,
    #[error("a large frame did not come within {} s", LARGE_DEADLINE.as_secs())]
    Late,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A TLS connection that carries frames.
pub(super) struct FrameStream {
    tls: TlsStream<TcpStream>,
    input: BytesMut,
    output: BytesMut,
    limit: usize,
    /// Bytes that may still be read; `None`: any number.
    budget: Option<usize>,
    /// Places for large frames, of all connections together.
    places: Arc<Semaphore>,
    /// The place of the large frame that is being read, and when it must be there.
    place: Option<(OwnedSemaphorePermit, Instant)>,
}

impl FrameStream {
    pub(super) fn new(tls: TlsStream<TcpStream>, budget: usize, places: Arc<Semaphore>) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Self { tls, input, output, limit: PRE_SESSION_FRAME, budget: Some(budget), places, place: None }
    }

    /// From here on, frames up to `limit` and any number of bytes.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.budget = None;
    }

    /// 32 bytes that only the two ends of this TLS connection know.
    pub(super) fn export(&self) -> Result<[u8; 32], rustls::Error> {
        self.tls.get_ref().1.export_keying_material([0; 32], fastchat_wire::RESUME_EXPORTER_LABEL, None)
    }

    /// The next frame; `None` when the device has ended the connection between two.
    pub(super) async fn next(&mut self) -> Result<Option<v1::ClientFrame>, ReadError> {
        loop {
            if self.place.is_none() && self.announces_large() {
                // Closed only when the process ends.
                let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| ReadError::Truncated)?;
                self.place = Some((place, Instant::now() + LARGE_DEADLINE));
            }
            if let Some(frame) = decode(&mut self.input, self.limit)? {
                self.place = None;
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                return Ok(Some(frame));
            }
            self.input.reserve(if self.input.is_empty() { SMALL } else { CHUNK });
            let read = self.tls.read_buf(&mut self.input);
            let count = match &self.place {
                Some((_, deadline)) => timeout_at(*deadline, read).await.map_err(|_| ReadError::Late)??,
                None => read.await?,
            };
            if count == 0 {
                return if self.input.is_empty() { Ok(None) } else { Err(ReadError::Truncated) };
            }
            if let Some(budget) = &mut self.budget {
                *budget = budget.checked_sub(count).ok_or(ReadError::Budget)?;
            }
        }
    }

    /// Whether the next frame's length is within the limit and large.
    fn announces_large(&self) -> bool {
        self.input.first_chunk::<LENGTH_BYTES>().is_some_and(|length| {
            let length = u32::from_be_bytes(*length) as usize;
            length > LARGE && length <= self.limit
        })
    }

    /// Puts a frame into the write buffer.
    pub(super) fn push(&mut self, frame: &v1::ServerFrame) {
        encode(frame, &mut self.output);
    }

    /// Bytes in the write buffer.
    pub(super) fn waiting(&self) -> usize {
        self.output.len()
    }

    /// Whether to write now: there is something, and no further request is at hand whose answer could go with it.
    pub(super) fn must_flush(&self) -> bool {
        !self.output.is_empty() && (self.output.len() >= CHUNK || !self.has_frame())
    }

    fn has_frame(&self) -> bool {
        self.input
            .first_chunk()
            .is_some_and(|length| self.input.len() - LENGTH_BYTES >= u32::from_be_bytes(*length) as usize)
    }

    /// Writes the write buffer.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while self.output.has_remaining() {
            self.tls.write_buf(&mut self.output).await?;
        }
        if self.output.capacity() > SMALL {
            self.output = BytesMut::new();
        }
        self.tls.flush().await
    }

    /// Says a last word and ends the connection.
    pub(super) async fn end(&mut self, request: u64, last: Option<v1::Failure>) {
        if let Some(failure) = last {
            self.push(&v1::ServerFrame { request, body: Some(Body::Failure(failure)) });
        }
        let end = async {
            self.flush().await?;
            self.tls.shutdown().await?;
            // Let the device read it: closing with unread input would reset the connection.
            let mut rest = [0; 512];
            let (tcp, _) = self.tls.get_mut();
            while tcp.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(END_DEADLINE, Box::pin(end)).await;
    }
}
