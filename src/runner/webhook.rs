//! Notifications by HTTP.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use zeroize::Zeroizing;

use crate::common::bounded;
use crate::runner::delivery::DeliveryError;
use crate::runner::error::RunnerError;

/// Longest key of a signature, and shortest.
const MAX_KEY_BYTES: u32 = 4096;
const MIN_KEY_BYTES: usize = 16;
/// Longest head of an answer; its body is not read.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// A receiver by HTTP POST.
pub(super) struct Webhook {
    agent: Agent,
    url: String,
    key: Option<Zeroizing<Vec<u8>>>,
}

impl Webhook {
    /// The receiver at `url`; requests are signed with the content of `key`.
    ///
    /// # Errors
    /// When `key` can't be read or has a bad length.
    pub(super) fn new(url: &str, key: Option<File>, limit: Duration) -> Result<Self, RunnerError> {
        Ok(Self {
            agent: agent(limit, system_roots()),
            url: url.to_owned(),
            key: key.map(read_key).transpose()?,
        })
    }

    /// Tries once.
    pub(super) fn post(&self, body: &str) -> Result<(), DeliveryError> {
        let mut request = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Jarvis-Signature", signature(key, unix_time(), body));
        }
        let status = request.send(body)?.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(DeliveryError::Status(status.as_u16()))
        }
    }
}

fn agent(limit: Duration, roots: RootCerts) -> Agent {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    let config = Agent::config_builder()
        .timeout_global(Some(limit))
        // An address in an answer is the receiver's word, not the configuration's.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .max_response_header_size(MAX_HEAD_BYTES)
        // Each answer's body stays unread, so no connection can be used again.
        .max_idle_connections(0)
        .proxy(None)
        .user_agent(concat!("jarvis-secretsd/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build();
    config.new_agent()
}

/// Certificates that the system trusts, as of now.
fn system_roots() -> RootCerts {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "certificates of the system");
    }
    let certificates = found.certs.iter();
    let owned = certificates.map(|certificate| Certificate::from_der(certificate).to_owned());
    RootCerts::Specific(Arc::new(owned.collect()))
}

/// The content of a key file, without the newline at its end.
fn read_key(file: File) -> Result<Zeroizing<Vec<u8>>, RunnerError> {
    // One more for a newline at the end; too long is no worse than too short.
    let mut key = match bounded::secret(file, MAX_KEY_BYTES + 1) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Zeroizing::default(),
        read => read?,
    };
    if key.last() == Some(&b'\n') {
        key.pop();
    }
    let (min, max) = (MIN_KEY_BYTES, MAX_KEY_BYTES as usize);
    if (min..=max).contains(&key.len()) {
        Ok(key)
    } else {
        Err(RunnerError::KeyLength { min, max })
    }
}

fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The value of `Jarvis-Signature`.
fn signature(key: &[u8], time: u64, body: &str) -> String {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return String::new();
    };
    mac.update(format!("{time}.").as_bytes());
    mac.update(body.as_bytes());
    format!("t={time},v1={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use std::io::{Read, Seek, Write};
    use std::path::Path;
    use std::process::Command;

    #[test]
    fn the_signature_is_that_of_the_documentation() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(
            signature(b"0123456789abcdef", 1_700_000_000, "{}"),
            "t=1700000000,v1=e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e"
        );
    }

    /// A certificate of its own making for 127.0.0.1, as files in `dir`.
    fn certificate(dir: &Path) {
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "ec", "-nodes", "-subj", "/CN=test",
            ])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    #[test]
    fn a_trusted_server_is_told_over_tls() {
        let dir = tempfile::tempdir().unwrap();
        certificate(dir.path());
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let certificate = CertificateDer::from_pem_slice(&read("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, socket);
            let mut seen = Vec::new();
            while !seen.ends_with(b"{}") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                seen.extend(byte);
            }
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .unwrap();
            String::from_utf8(seen).unwrap()
        });
        let root = Certificate::from_der(&certificate).to_owned();
        let webhook = Webhook {
            agent: agent(
                Duration::from_secs(10),
                RootCerts::Specific(Arc::new(vec![root])),
            ),
            url,
            key: None,
        };
        webhook.post("{}").unwrap();
        assert!(server.join().unwrap().starts_with("POST / HTTP/1.1"));
    }

    #[test]
    fn a_key_is_read_without_its_newline_and_bounded() {
        let read = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            read_key(file).map(|key| key.to_vec())
        };
        assert_eq!(read(b"0123456789abcdef\n").unwrap(), b"0123456789abcdef");
        assert!(read(b"0123456789abcde\n").is_err());
        assert!(read(&[b'x'; 4097]).is_err());
        assert_eq!(read(&[b'x'; 4096]).unwrap().len(), 4096);
    }
}
