//! Whether a server is the one it should be: by the pin of its key, or by the public authorities for its name.
//!
//! A pin is the SHA-256 of the certificate's SubjectPublicKeyInfo; with a pin, name and dates of the certificate do not
//! matter, the proof that the server holds the key does.
//!
//! **Invariant**: no byte of ours but the TLS handshake goes to a server that has not passed.

use std::sync::{Arc, OnceLock};

use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{Pin, ServerAddress};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256};

/// What makes a server trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The public authorities vouch for its name.
    Public,
    /// It holds exactly this key.
    Pinned(Pin),
    /// Not known yet: the public authorities, or else any key if `accept`, which is remembered from then on.
    FirstContact {
        /// Whether any key will do.
        accept: bool,
    },
}

impl Trust {
    /// What an account remembers.
    pub(crate) fn remembered(pin: Option<Pin>) -> Self {
        pin.map_or(Self::Public, Self::Pinned)
    }
}

/// What was seen in a handshake.
#[derive(Debug, Clone)]
struct Seen {
    pin: Pin,
    /// Why the public authorities do not vouch for it; `None` when they do or were not asked.
    doubt: Option<String>,
}

/// Judges the certificate of one handshake and remembers what it saw.
#[derive(Debug)]
pub(crate) struct Judge {
    trust: Trust,
    public: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    seen: OnceLock<Seen>,
}

impl Judge {
    /// For one handshake. Reads the system's authorities where they are needed; that may block for some milliseconds.
    pub(crate) fn new(trust: Trust) -> Arc<Self> {
        let mut roots = RootCertStore::empty();
        if !matches!(trust, Trust::Pinned(_)) {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Self::with_authorities(trust, roots)
    }

    fn with_authorities(trust: Trust, roots: RootCertStore) -> Arc<Self> {
        let provider = Arc::new(ring::default_provider());
        let public = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok();
        Arc::new(Self { trust, public, provider, seen: OnceLock::new() })
    }

    /// The TLS configuration in which this judge decides: TLS 1.3 alone, no early data, no stored sessions.
    pub(crate) fn config(self: &Arc<Self>) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// After a handshake that succeeded: what to trust from now on.
    pub(crate) fn learned(&self) -> Trust {
        match (self.trust, self.seen.get()) {
            (Trust::FirstContact { .. }, Some(Seen { pin, doubt: Some(_) })) => Trust::Pinned(*pin),
            (Trust::FirstContact { .. }, _) => Trust::Public,
            (known, _) => known,
        }
    }

    /// After a handshake that failed: what to tell people, if it failed because of the certificate.
    pub(crate) fn objection(&self, server: &ServerAddress) -> Option<ApiError> {
        let seen = self.seen.get()?;
        match (self.trust, &seen.doubt) {
            (Trust::Pinned(known), _) if known != seen.pin => Some(changed(server, known, seen.pin)),
            // It passed, so something else went wrong.
            (Trust::Pinned(_) | Trust::FirstContact { accept: true }, _) | (_, None) => None,
            (_, Some(doubt)) => Some(unknown(server, seen.pin, doubt)),
        }
    }

    fn doubt(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<String> {
        let Some(public) = &self.public else {
            return Some("this system knows no public certificate authorities".to_owned());
        };
        match public.verify_server_cert(end_entity, intermediates, name, &[], now) {
            Ok(_) => None,
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                Some("no public authority vouches for it (it is self-signed, perhaps)".to_owned())
            }
            Err(error) => Some(error.to_string()),
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = pin_of(end_entity)?;
        let doubt = match self.trust {
            Trust::Pinned(_) => None,
            _ => self.doubt(end_entity, intermediates, server_name, now),
        };
        let passed = match self.trust {
            Trust::Pinned(known) => known == pin,
            Trust::Public => doubt.is_none(),
            Trust::FirstContact { accept } => accept || doubt.is_none(),
        };
        // One handshake per judge: a second certificate would be a second opinion, and is refused.
        if self.seen.set(Seen { pin, doubt }).is_ok() && passed {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(Pin(Sha256::digest(key.as_ref()).into()))
}

fn changed(server: &ServerAddress, known: Pin, now: Pin) -> ApiError {
    let message = format!(
        "THE KEY OF {server} HAS CHANGED: known is {known}, it now shows {now}. \
         Either its operator has replaced it, or somebody pretends to be this server. Nothing was sent to it"
    );
    ApiError::new(ErrorCode::ServerChanged, message)
        .hint(format!(
            "ask the server's operator; only if they confirm the new key: `fastchatctl login USER@{server} --pin {now}`"
        ))
        .with("known_pin", known.to_string())
        .with("pin", now.to_string())
}

fn unknown(server: &ServerAddress, pin: Pin, doubt: &str) -> ApiError {
    ApiError::new(ErrorCode::UntrustedServer, format!("the key of {server} is not trusted: {doubt}. It is {pin}"))
        .hint(format!(
            "compare it with what the server's operator says, then add `--pin {pin}`; \
             `--accept-new` trusts it unseen"
        ))
        .with("pin", pin.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    const ACCEPT: Trust = Trust::FirstContact { accept: true };
    const ASK: Trust = Trust::FirstContact { accept: false };

    /// An authority that the system trusts, and a certificate of it for `chat.example.org`.
    fn vouched() -> (RootCertStore, CertificateDer<'static>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let params = CertificateParams::new(["chat.example.org".to_owned()]).unwrap();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        (roots, leaf.der().clone())
    }

    fn passes(judge: &Judge, certificate: &CertificateDer<'_>, host: &str) -> bool {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        judge.verify_server_cert(certificate, &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn what_a_public_authority_vouches_for_needs_no_pin() {
        let (roots, leaf) = vouched();
        for trust in [Trust::Public, ASK, ACCEPT] {
            let judge = Judge::with_authorities(trust, roots.clone());
            assert!(passes(&judge, &leaf, "chat.example.org"), "{trust:?}");
            assert_eq!(judge.learned(), Trust::Public);
        }
    }

    #[test]
    fn a_public_certificate_for_another_name_does_not_count() {
        let (roots, leaf) = vouched();
        let server = ServerAddress::new("other.example.org", 1).unwrap();
        for trust in [Trust::Public, ASK] {
            let judge = Judge::with_authorities(trust, roots.clone());
            assert!(!passes(&judge, &leaf, server.host()), "{trust:?}");
            assert_eq!(judge.objection(&server).unwrap().code, ErrorCode::UntrustedServer);
        }
    }

    #[test]
    fn a_pin_counts_more_than_names_and_a_public_certificate_more_than_nothing() {
        let (roots, leaf) = vouched();
        let pin = pin_of(&leaf).unwrap();
        assert!(passes(&Judge::with_authorities(Trust::Pinned(pin), roots.clone()), &leaf, "other.example.org"));
        let judge = Judge::with_authorities(Trust::Pinned(Pin([0; 32])), roots);
        assert!(!passes(&judge, &leaf, "chat.example.org"), "a valid certificate must not get around the pin");
    }

    #[test]
    fn what_is_accepted_unseen_is_pinned() {
        let (_, leaf) = vouched();
        let judge = Judge::with_authorities(ACCEPT, RootCertStore::empty());
        assert!(passes(&judge, &leaf, "chat.example.org"));
        assert_eq!(judge.learned(), Trust::Pinned(pin_of(&leaf).unwrap()));
        assert!(!passes(&Judge::with_authorities(ASK, RootCertStore::empty()), &leaf, "chat.example.org"));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        let judge = Judge::with_authorities(ACCEPT, RootCertStore::empty());
        assert!(!passes(&judge, &CertificateDer::from(b"garbage".to_vec()), "chat.example.org"));
    }
}
