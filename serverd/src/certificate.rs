//! The server's certificate: the configured one, or a self-signed one made at first start; and its pin.
//!
//! **Invariant**: a self-signed key is made once and kept: its pin, which devices remember, does not change.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use fastchat_wire::Pin;
use rustls::{
    ServerConfig,
    crypto::ring::{default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::NoServerSessionStorage,
    version::TLS13,
};

use crate::config::Tls;

/// What connections are accepted with.
#[derive(Clone)]
pub struct Identity {
    /// For the TLS acceptor.
    pub tls: Arc<ServerConfig>,
    /// Of the key; part of the printed link when the certificate is self-signed.
    pub pin: Pin,
    /// Made by this server, so devices have to know the pin.
    pub self_signed: bool,
}

/// Loads the configured certificate, or the self-signed one of the data directory, making it if it is not there.
///
/// # Errors
/// A file cannot be read or does not hold what it should; certificate and key do not match.
pub fn load(config: &Tls, data_dir: &Path) -> anyhow::Result<Identity> {
    match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => read(certificate, key, false),
        _ => {
            let (certificate, key) = (data_dir.join("certificate.pem"), data_dir.join("key.pem"));
            if !key.exists() || !certificate.exists() {
                make(&certificate, &key).context("making the server's certificate")?;
            }
            read(&certificate, &key, true)
        }
    }
}

fn read(certificate: &Path, key: &Path, self_signed: bool) -> anyhow::Result<Identity> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("{}: no certificate can be read from it", certificate.display()))?;
    ensure!(!chain.is_empty(), "{}: there is no certificate in it", certificate.display());
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("{}: no private key can be read from it", key.display()))?;
    let spki = any_supported_type(&private)
        .ok()
        .and_then(|key| key.public_key().map(|spki| spki.to_vec()))
        .with_context(|| format!("{}: this kind of key is not supported", key.display()))?;
    let mut tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not belong together", certificate.display(), key.display()))?;
    // Sessions are resumed by token; TLS tickets would only cost memory.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Ok(Identity { tls: Arc::new(tls), pin: pin_of(&spki), self_signed })
}

/// SHA-256 of a SubjectPublicKeyInfo.
fn pin_of(spki: &[u8]) -> Pin {
    let mut pin = [0; 32];
    pin.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, spki).as_ref());
    Pin(pin)
}

fn make(certificate: &Path, key: &Path) -> anyhow::Result<()> {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(vec!["fastchat-server".to_owned(), "localhost".to_owned()])?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "fastchat-server");
    // Devices check the pin, not the time: RFC 5280's "no well-defined end".
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let signed = params.self_signed(&pair)?;
    write_private(certificate, signed.pem().as_bytes())?;
    write_private(key, pair.serialize_pem().as_bytes())
}

/// Writes a file that only we can read, so that it is there wholly or not at all.
fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let mut file = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| fresh.display().to_string())?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path).with_context(|| path.display().to_string())?;
    if let Some(parent) = path.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_self_signed_key_is_private_and_its_pin_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(&Tls::default(), dir.path()).unwrap();
        let again = load(&Tls::default(), dir.path()).unwrap();
        assert_eq!(first.pin, again.pin);
        assert!(first.self_signed);
        let mode = fs::metadata(dir.path().join("key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        load(&Tls::default(), one.path()).unwrap();
        load(&Tls::default(), two.path()).unwrap();
        let mixed =
            Tls { certificate: Some(one.path().join("certificate.pem")), key: Some(two.path().join("key.pem")) };
        let error = load(&mixed, one.path()).err().unwrap();
        assert!(format!("{error:#}").contains("do not belong together"), "{error:#}");
    }
}
