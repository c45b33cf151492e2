//! A device, reduced to its frames.
//!
//! **Invariant**: every wait has a bound.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fastchat_wire::{
    Code, FRAME_LIMIT, MessageId, RESUME_CONTEXT, RESUME_EXPORTER_LABEL, decode, encode,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};
use ring::signature::Ed25519KeyPair;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) use crate::mls::Device;
use crate::mls::{Group, direct};

const PATIENCE: Duration = Duration::from_secs(20);

/// Takes any certificate: what is tested here is behind it.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A connection.
pub(crate) struct Client {
    tls: TlsStream<TcpStream>,
    input: BytesMut,
    request: u64,
    /// What the server said on its own meanwhile.
    unasked: VecDeque<Body>,
}

impl Client {
    /// TLS only.
    pub(crate) async fn connect(address: SocketAddr) -> Option<Self> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        let tcp = timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().ok()?;
        let name = ServerName::from(address.ip());
        let tls = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap().ok()?;
        Some(Self { tls, input: BytesMut::new(), request: 0, unasked: VecDeque::new() })
    }

    /// TLS and Hello.
    pub(crate) async fn greet(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await.unwrap();
        let hello = v1::Hello { version_min: 1, version_max: 7, agent: "test".into() };
        let Body::Ready(ready) = client.ask(Ask::Hello(hello)).await else { panic!("no Ready") };
        assert_eq!(ready.version, 1);
        client
    }

    /// A connection with a new account, and key packages to be invited with.
    pub(crate) async fn register(address: SocketAddr, account: &str) -> (Self, Device) {
        let mut device = Device::new(account);
        let mut client = Self::greet(address).await;
        let Body::Session(session) = client.ask(Ask::Register(registration(&device))).await else {
            panic!("no Session")
        };
        device.token = session.token;
        client.publish(account).await;
        (client, device)
    }

    /// A connection with a further device of an account.
    pub(crate) async fn log_in(address: SocketAddr, account: &str) -> (Self, Device) {
        let mut device = Device::new(account);
        let mut client = Self::greet(address).await;
        let Body::Session(session) = client.ask(Ask::Login(login("0a", &device))).await else { panic!("no Session") };
        device.token = session.token;
        client.publish(account).await;
        (client, device)
    }

    /// Three key packages that nobody can use, and a last one.
    pub(crate) async fn publish(&mut self, account: &str) {
        let one_time = (0..3).map(|number| Bytes::from(format!("{account} {number}"))).collect();
        let publish = v1::PublishKeyPackages { one_time, last_resort: "last".into() };
        let Body::KeyPackageCount(count) = self.ask(Ask::PublishKeyPackages(publish)).await else { panic!("no count") };
        assert_eq!(count.one_time, 3);
    }

    /// A connection that takes a session up again.
    pub(crate) async fn resume(address: SocketAddr, device: &Device) -> Self {
        let mut client = Self::greet(address).await;
        let answer = client.try_resume(&device.token, &device.key).await;
        assert!(matches!(answer, Body::Session(_)), "{answer:?}");
        client
    }

    pub(crate) async fn try_resume(&mut self, token: &Bytes, key: &Ed25519KeyPair) -> Body {
        let exported = self.tls.get_ref().1.export_keying_material([0; 32], RESUME_EXPORTER_LABEL, None).unwrap();
        let signature = key.sign(&[RESUME_CONTEXT, &exported].concat());
        let signature = Bytes::copy_from_slice(signature.as_ref());
        self.ask(Ask::Resume(v1::Resume { token: token.clone(), signature })).await
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn ask(&mut self, body: Ask) -> Body {
        let request = self.send(body).await;
        loop {
            let frame = self.read().await.expect("the server ended the connection");
            let body = frame.body.unwrap();
            match frame.request {
                0 => self.unasked.push_back(body),
                answered if answered == request => return body,
                other => panic!("an answer to {other}: {body:?}"),
            }
        }
    }

    /// Sends many requests at once and gives their answers, in the order of the requests.
    pub(crate) async fn ask_all(&mut self, bodies: Vec<Ask>) -> Vec<Body> {
        let (first, count, mut out) = (self.request + 1, bodies.len(), BytesMut::new());
        for body in bodies {
            self.request += 1;
            encode(&v1::ClientFrame { request: self.request, body: Some(body) }, &mut out);
        }
        self.write(&out).await;
        let mut answers = std::collections::BTreeMap::new();
        while answers.len() < count {
            let frame = self.read().await.expect("the server ended the connection");
            let body = frame.body.unwrap();
            if frame.request == 0 {
                self.unasked.push_back(body);
            } else {
                assert!(frame.request >= first, "{body:?}");
                answers.insert(frame.request, body);
            }
        }
        answers.into_values().collect()
    }

    /// Sends a request and expects to be refused.
    pub(crate) async fn refused(&mut self, body: Ask) -> v1::Failure {
        match self.ask(body).await {
            Body::Failure(failure) => failure,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, body: Ask) -> u64 {
        self.request += 1;
        let mut out = BytesMut::new();
        encode(&v1::ClientFrame { request: self.request, body: Some(body) }, &mut out);
        self.write(&out).await;
        self.request
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.tls.write_all(bytes)).await.unwrap().unwrap();
        timeout(PATIENCE, self.tls.flush()).await.unwrap().unwrap();
    }

    /// The next frame; `None` at the connection's end.
    pub(crate) async fn read(&mut self) -> Option<v1::ServerFrame> {
        loop {
            if let Some(frame) = decode(&mut self.input, FRAME_LIMIT).unwrap() {
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.tls.read_buf(&mut self.input)).await.expect("nothing came");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Whether nothing that was read is left over.
    pub(crate) fn is_quiet(&self) -> bool {
        self.unasked.is_empty()
    }

    /// The next thing that the server says on its own.
    pub(crate) async fn hear(&mut self) -> Body {
        if let Some(body) = self.unasked.pop_front() {
            return body;
        }
        let frame = self.read().await.expect("the server ended the connection");
        assert_eq!(frame.request, 0, "{frame:?}");
        frame.body.unwrap()
    }

    /// Reads to the end of the connection and answers the last failure's code.
    pub(crate) async fn ends_with(&mut self) -> Option<Code> {
        let mut code = None;
        while let Some(frame) = self.read().await {
            if let Some(Body::Failure(failure)) = frame.body {
                code = Some(failure.code());
            }
        }
        code
    }

    /// The next entries, acknowledged. Skips what is not about them.
    pub(crate) async fn entries(&mut self) -> Vec<v1::Entry> {
        let deliver = self.deliver().await;
        let seq = deliver.entries.last().map_or(deliver.expired_through, |entry| entry.seq);
        self.ack(&deliver.conversation, seq).await;
        deliver.entries
    }

    pub(crate) async fn deliver(&mut self) -> v1::Deliver {
        loop {
            if let Body::Deliver(deliver) = self.hear().await {
                return deliver;
            }
        }
    }

    pub(crate) async fn ack(&mut self, conversation: &Bytes, seq: u64) {
        let mut out = BytesMut::new();
        let body = Some(Ask::Ack(v1::Ack { conversation: conversation.clone(), seq }));
        encode(&v1::ClientFrame { request: 0, body }, &mut out);
        self.write(&out).await;
    }

    /// A round trip: what was sent before is known to be taken.
    pub(crate) async fn ping(&mut self) {
        assert!(matches!(self.ask(Ask::Ping(v1::Ping {})).await, Body::Pong(_)));
    }

    /// A round trip while the answer to an earlier request is still awaited.
    pub(crate) async fn ping_beside(&mut self, waiting: u64) {
        let request = self.send(Ask::Ping(v1::Ping {})).await;
        let frame = self.read().await.expect("the server ended the connection");
        assert!(frame.request == request && request != waiting, "{frame:?}");
    }

    pub(crate) async fn claim(&mut self, account: &str) -> Vec<v1::KeyPackage> {
        match self.ask(Ask::ClaimKeyPackages(v1::ClaimKeyPackages { account: account.into() })).await {
            Body::KeyPackages(packages) => packages.packages,
            other => panic!("no key packages: {other:?}"),
        }
    }

    /// Makes a direct conversation with `others`, the first of whom is the peer.
    pub(crate) async fn create(&mut self, own: &Device, others: &[&Device], replaces: Bytes) -> Body {
        self.ask(Ask::CreateDirect(direct(own, others, replaces))).await
    }

    /// Makes a group.
    pub(crate) async fn create_group(&mut self, own: &Device, name: &str) -> Group {
        let (group, create) = Group::create(own, name);
        assert!(matches!(self.ask(Ask::CreateGroup(create)).await, Body::Done(_)));
        group
    }

    /// Sends a handshake that is taken; answers its seq.
    pub(crate) async fn commit(&mut self, handshake: v1::Handshake) -> u64 {
        match self.ask(Ask::Handshake(handshake)).await {
            Body::Accepted(accepted) => accepted.seqs[0],
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// The next Closed. Skips what is not about it.
    pub(crate) async fn closed(&mut self) -> v1::Closed {
        loop {
            if let Body::Closed(closed) = self.hear().await {
                return closed;
            }
        }
    }

    /// The next Joining. Skips what is not about it.
    pub(crate) async fn joining(&mut self) -> v1::Joining {
        loop {
            if let Body::Joining(joining) = self.hear().await {
                return joining;
            }
        }
    }
}

pub(crate) fn registration(device: &Device) -> v1::Register {
    v1::Register {
        account: device.account.clone(),
        kdf: Some(v1::PasswordKdf {
            salt: Bytes::from_static(&[5; 16]),
            memory_kib: 65_536,
            iterations: 3,
            parallelism: 1,
        }),
        auth_secret: "0a".repeat(32),
        identity_key: device.identity(),
        identity_backup: format!("backup of {}", device.account).into(),
        device: Some(device.wire()),
        invite: String::new(),
    }
}

/// With a secret of two digits, repeated.
pub(crate) fn login(secret: &str, device: &Device) -> v1::Login {
    v1::Login {
        account: device.account.clone(),
        auth_secret: secret.repeat(32),
        device: Some(device.wire()),
        ..v1::Login::default()
    }
}

pub(crate) fn entry(payload: &str) -> v1::NewEntry {
    v1::NewEntry {
        message_id: MessageId::generate().to_wire(),
        epoch: 1,
        kind: v1::EntryKind::Application.into(),
        payload: payload.to_owned().into(),
    }
}

pub(crate) fn submit(conversation: &Bytes, entries: Vec<v1::NewEntry>) -> Ask {
    Ask::Submit(v1::Submit { conversation: conversation.clone(), entries })
}
