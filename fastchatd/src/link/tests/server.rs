//! A server for tests: real TCP and TLS, and answers that the test gives.
//!
//! **Invariant**: every wait has an end.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use fastchat_wire::{
    FRAME_LIMIT, Pin, RESUME_EXPORTER_LABEL, ServerAddress, decode, encode,
    v1::{self, ClientFrame, ServerFrame, client_frame, server_frame},
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that comes soon, or fails the test.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it should have happened by now")
}

/// A listening server with a key of its own.
pub(crate) struct FakeServer {
    pub(crate) address: ServerAddress,
    pub(crate) pin: Pin,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl FakeServer {
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same place with another key.
    pub(crate) fn with_another_key(self) -> Self {
        Self::on(self.listener)
    }

    fn on(listener: TcpListener) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["fake".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pin = Pin(Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&key)).into());
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let address = ServerAddress::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        Self { address, pin, listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    /// The next connection, if its handshake succeeds.
    pub(crate) async fn try_accept(&self) -> std::io::Result<Peer> {
        let (stream, _) = soon(self.listener.accept()).await?;
        let stream = soon(self.acceptor.accept(stream)).await?;
        Ok(Peer { stream, buffer: BytesMut::new() })
    }

    /// As [`FakeServer::try_accept`], but for a server in the background, which may have nothing to do.
    pub(crate) async fn try_accept_patiently(&self) -> std::io::Result<Peer> {
        let (stream, _) = self.listener.accept().await?;
        let stream = soon(self.acceptor.accept(stream)).await?;
        Ok(Peer { stream, buffer: BytesMut::new() })
    }

    /// The next connection, whose Hello gets this answer.
    pub(crate) async fn greet(&self, answer: server_frame::Body) -> Peer {
        let mut peer = self.try_accept().await.unwrap();
        let hello = peer.receive().await;
        assert!(matches!(hello.body, Some(client_frame::Body::Hello(_))), "{hello:?}");
        peer.answer(&hello, answer).await;
        peer
    }

    /// The next connection up to its Resume.
    pub(crate) async fn resume(&self) -> (Peer, ClientFrame, v1::Resume) {
        let mut peer = self.greet(server_frame::Body::Ready(ready())).await;
        let frame = peer.receive().await;
        let Some(client_frame::Body::Resume(resume)) = frame.body.clone() else { panic!("{frame:?}") };
        (peer, frame, resume)
    }

    /// The next connection with a session for `alice`.
    pub(crate) async fn session(&self) -> Peer {
        let (mut peer, frame, _) = self.resume().await;
        peer.answer(&frame, server_frame::Body::Session(session())).await;
        peer
    }
}

pub(crate) fn ready() -> v1::Ready {
    let limits = v1::Limits { frame_bytes: 1 << 16, ping_seconds: 3600, ..v1::Limits::default() };
    v1::Ready { version: 1, limits: Some(limits), ..v1::Ready::default() }
}

pub(crate) fn session() -> v1::Session {
    v1::Session { account: "alice".into(), ..v1::Session::default() }
}

/// One connection.
pub(crate) struct Peer {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
}

impl Peer {
    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn try_receive(&mut self) -> Option<ClientFrame> {
        loop {
            if let Some(frame) = decode(&mut self.buffer, FRAME_LIMIT).unwrap() {
                return Some(frame);
            }
            match soon(self.stream.read_buf(&mut self.buffer)).await {
                Ok(read) if read > 0 => {}
                _ => return None,
            }
        }
    }

    /// As [`Peer::try_receive`], for a server in the background; `None` also when the connection broke.
    pub(crate) async fn try_receive_patiently(&mut self) -> Option<ClientFrame> {
        loop {
            if let Some(frame) = decode(&mut self.buffer, FRAME_LIMIT).unwrap() {
                return Some(frame);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(read) if read > 0 => {}
                _ => return None,
            }
        }
    }

    /// Answers somebody who may have gone meanwhile.
    pub(crate) async fn answer_if_there(&mut self, request: &ClientFrame, body: server_frame::Body) {
        let mut bytes = BytesMut::new();
        encode(&ServerFrame { request: request.request, body: Some(body) }, &mut bytes);
        // Whoever has gone does not need it.
        if soon(self.stream.write_all(&bytes)).await.is_ok() {
            let _ = soon(self.stream.flush()).await;
        }
    }

    pub(crate) async fn receive(&mut self) -> ClientFrame {
        self.try_receive().await.expect("the connection should stand")
    }

    pub(crate) async fn send(&mut self, frame: &ServerFrame) {
        let mut bytes = BytesMut::new();
        encode(frame, &mut bytes);
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
        soon(self.stream.flush()).await.unwrap();
    }

    pub(crate) async fn answer(&mut self, request: &ClientFrame, body: server_frame::Body) {
        self.send(&ServerFrame { request: request.request, body: Some(body) }).await;
    }

    /// The channel binding of this connection.
    pub(crate) fn exporter(&self) -> [u8; 32] {
        self.stream.get_ref().1.export_keying_material([0; 32], RESUME_EXPORTER_LABEL, None).unwrap()
    }
}
