//! One TLS connection as two streams of frames, and calls over it before the session stands.
//!
//! **Invariant**: reading and writing are cancel-safe: a dropped future loses no byte in either direction.

use std::{io, time::Duration};

use bytes::{Buf, BytesMut};
use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{
    FRAME_LIMIT, FrameError, RESUME_EXPORTER_LABEL, decode, encode,
    v1::{ClientFrame, ServerFrame, client_frame, server_frame},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::Outage;

/// Read at a time.
const CHUNK: usize = 16 << 10;
/// A buffer that one large frame made grow is given back above this.
const KEEP: usize = 64 << 10;

/// The server's frames.
pub(crate) struct FrameReader {
    stream: ReadHalf<TlsStream<TcpStream>>,
    buffer: BytesMut,
}

impl FrameReader {
    /// The next frame that is here already.
    pub(crate) fn next(&mut self) -> Result<Option<ServerFrame>, FrameError> {
        let frame = decode(&mut self.buffer, FRAME_LIMIT)?;
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
            self.buffer = BytesMut::new();
        }
        Ok(frame)
    }

    /// Reads some more. Cancel-safe.
    ///
    /// # Errors
    /// The connection is broken or at its end.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(CHUNK);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed the connection")),
            _ => Ok(()),
        }
    }
}

/// Our frames.
pub(crate) struct FrameWriter {
    stream: WriteHalf<TlsStream<TcpStream>>,
    buffer: BytesMut,
    flushed: bool,
    progress: bool,
}

impl FrameWriter {
    /// Puts a frame behind those that wait to be written.
    pub(crate) fn queue(&mut self, frame: &ClientFrame) {
        encode(frame, &mut self.buffer);
        self.flushed = false;
    }

    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Whether everything queued has left.
    pub(crate) fn is_idle(&self) -> bool {
        self.flushed
    }

    /// Whether anything has left since the last time this was asked.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Writes all that is queued. Cancel-safe.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while self.buffer.has_remaining() {
            self.stream.write_buf(&mut self.buffer).await?;
            self.progress = true;
        }
        self.stream.flush().await?;
        self.flushed = true;
        if self.buffer.capacity() > KEEP {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Says good-bye to the other side, as far as that is possible within a moment.
    pub(crate) async fn close(&mut self) {
        let _ = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }
}

/// A connection whose server has proved its key.
pub(crate) struct Connection {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    exporter: Zeroizing<[u8; 32]>,
    request: u64,
}

impl Connection {
    /// Around a finished handshake.
    ///
    /// # Errors
    /// The channel binding cannot be exported.
    pub(crate) fn new(stream: TlsStream<TcpStream>) -> Result<Self, rustls::Error> {
        let exporter =
            stream.get_ref().1.export_keying_material(Zeroizing::new([0; 32]), RESUME_EXPORTER_LABEL, None)?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(Self {
            reader: FrameReader { stream: reader, buffer: BytesMut::new() },
            writer: FrameWriter { stream: writer, buffer: BytesMut::new(), flushed: true, progress: false },
            exporter,
            request: 0,
        })
    }

    /// What a resumed session signs of this connection.
    pub(crate) fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// Sends a request and waits for its answer. For before the session stands: nothing else may come meanwhile.
    ///
    /// # Errors
    /// The server's failure, a broken connection, or no answer within `deadline`.
    pub(crate) async fn call(
        &mut self,
        body: client_frame::Body,
        deadline: Duration,
    ) -> Result<server_frame::Body, Outage> {
        self.request += 1;
        let request = self.request;
        self.writer.queue(&ClientFrame { request, body: Some(body) });
        let exchange = async {
            self.writer.flush().await.map_err(|error| broken(&error))?;
            loop {
                if let Some(frame) = self.reader.next().map_err(|error| garbled(&error))? {
                    return answer(frame, request);
                }
                self.reader.fill().await.map_err(|error| broken(&error))?;
            }
        };
        timeout(deadline, exchange).await.map_err(|_| {
            ApiError::new(ErrorCode::TimedOut, format!("the server did not answer within {} s", deadline.as_secs()))
                .hint("try again; if it happens again, tell the server's operator")
        })?
    }
}

fn answer(frame: ServerFrame, request: u64) -> Result<server_frame::Body, Outage> {
    use server_frame::Body;
    match frame.body {
        Some(Body::Failure(failure)) if frame.request == request || frame.request == 0 => {
            Err(Outage::refused(&failure))
        }
        Some(Body::Goaway(goaway)) => Err(super::serve::told_to_leave(&goaway)),
        Some(body) if frame.request == request => Ok(body),
        _ => Err(unexpected().into()),
    }
}

/// The server answered with something else than the protocol says.
pub(crate) fn unexpected() -> ApiError {
    ApiError::new(ErrorCode::Server, "the server's answer does not follow the protocol")
        .hint("is it a FastChat server, and of a version that goes with this daemon's?")
}

pub(super) fn broken(error: &io::Error) -> ApiError {
    ApiError::new(ErrorCode::Unreachable, format!("the connection to the server broke: {error}"))
}

pub(super) fn garbled(error: &FrameError) -> ApiError {
    ApiError::new(ErrorCode::Server, format!("the server sent what cannot be read: {error}"))
        .hint("is it a FastChat server, and of a version that goes with this daemon's?")
}
