//! Judges servers' certificates: reads the CA file again when it changes, and says what to do about a refused one.
//!
//! Opens no socket and knows no host but the one it is asked about.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tracing::{info, warn};

use super::tls::{TlsError, roots};

/// Verifies with what the CA file holds now. Certificates are judged at every full handshake, so a replaced file, or
/// a server's renewed certificate, is in force from the next connect on.
#[derive(Debug)]
pub(super) struct Trust {
    ca_file: Option<PathBuf>,
    provider: Arc<CryptoProvider>,
    judge: Mutex<Judge>,
}

#[derive(Clone, Debug)]
struct Judge {
    verifier: Arc<WebPkiServerVerifier>,
    /// The file that it was made of, or that could not be used instead.
    stamp: Stamp,
}

/// What tells one version of a file from the next; `None` when there is no file.
type Stamp = Option<(Option<SystemTime>, u64)>;

impl Trust {
    /// Trusts the platform's roots and those in `ca_file` (PEM).
    ///
    /// # Errors
    /// The CA file can't be used, or nothing is trusted at all.
    pub(super) fn new(ca_file: Option<PathBuf>, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let stamp = stamp(&ca_file);
        let verifier = verifier(&ca_file, &provider)?;
        Ok(Self { ca_file, provider, judge: Mutex::new(Judge { verifier, stamp }) })
    }

    /// The verifier for the file as it is now. One that can't be read leaves the former in force.
    fn verifier(&self) -> Arc<WebPkiServerVerifier> {
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &self.ca_file else { return Arc::clone(&judge.verifier) };
        let stamp = stamp(&self.ca_file);
        if stamp != judge.stamp {
            judge.stamp = stamp;
            match verifier(&self.ca_file, &self.provider) {
                Ok(verifier) => {
                    info!(file = %path.display(), "The CA file has changed and was read again.");
                    judge.verifier = verifier;
                }
                Err(error) => {
                    warn!(%error, "The changed CA file can't be used; the certificates read before stay trusted.");
                }
            }
        }
        Arc::clone(&judge.verifier)
    }

    fn refused(&self, error: Error, server: &ServerName<'_>) -> Error {
        let Error::InvalidCertificate(problem) = error else { return error };
        let (problem, advice) = explain(&problem, self.ca_file.is_some());
        let text = format!("the certificate of {} is refused, {problem}: {advice}", server.to_str());
        Error::Other(OtherError(Arc::new(Refused(text))))
    }
}

/// A server's certificate is refused. The text names the server and says why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// What is wrong, and what to do.
fn explain(problem: &CertificateError, with_file: bool) -> (String, &'static str) {
    let (text, advice) = match problem {
        CertificateError::UnknownIssuer if with_file => (
            "its CA is unknown",
            "add that CA to the file of azure.ca_file; it is read again at the next connect",
        ),
        CertificateError::UnknownIssuer => {
            ("its CA is unknown", "set azure.ca_file to that CA, or update the system's ca-certificates")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("it has expired", "whoever runs that server must renew it, unless this machine's clock is wrong")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("it is not valid yet", "check this machine's clock")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ("it is for another name", "check the configured name, and DNS and proxies on the way")
        }
        other => return (other.to_string(), "check what runs there, and proxies on the way"),
    };
    (text.to_owned(), advice)
}

fn stamp(path: &Option<PathBuf>) -> Stamp {
    let about = std::fs::metadata(path.as_ref()?).ok()?;
    Some((about.modified().ok(), about.len()))
}

fn verifier(
    ca_file: &Option<PathBuf>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let roots = Arc::new(roots(ca_file.as_deref())?);
    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|error| TlsError::Verifier(error.to_string()))
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = self.verifier();
        let verified = verifier.verify_server_cert(end_entity, intermediates, server, ocsp_response, now);
        verified.map_err(|error| self.refused(error, server))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
