//! Which servers we trust: the platform's roots plus a file of further CA certificates.
//!
//! Knows no host and opens no socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};

use super::trust::Trust;

/// Why no TLS settings could be made. Each names the file or says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file can't be read or is no PEM.
    #[error("azure.ca_file {path}: {source}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The CA file holds no certificate.
    #[error("azure.ca_file {0} holds no certificate; it must be PEM with BEGIN CERTIFICATE")]
    NoCertificate(PathBuf),
    /// A certificate in it can't be a root.
    #[error("azure.ca_file {path}: certificate {number} can't be used: {source}")]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Which one, from 1.
        number: usize,
        /// Why.
        source: rustls::Error,
    },
    /// Neither the platform nor a file gave one root.
    #[error("no trusted CA certificates: the system has none; install ca-certificates or set azure.ca_file")]
    NoRoots,
    /// Nothing can be verified with these roots.
    #[error("certificates can't be verified: {0}")]
    Verifier(String),
    /// The crypto provider and the TLS versions don't fit.
    #[error("TLS can't be set up: {0}")]
    Versions(#[from] rustls::Error),
}

/// Client settings for TLS 1.2 and 1.3 that trust the platform's roots and those in `ca_file` (PEM). The file is read
/// again when it changes.
///
/// # Errors
/// The CA file can't be used, or nothing is trusted at all.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = Trust::new(ca_file.map(Path::to_owned), Arc::clone(&provider))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The platform's roots and those in `ca_file`.
///
/// # Errors
/// The CA file can't be used, or nothing is trusted at all.
pub(super) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // Single broken certificates of the platform are left out, as everywhere.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let bad_file = |source| TlsError::CaFile { path: path.to_owned(), source };
        let mut number = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(bad_file)? {
            number += 1;
            roots.add(certificate.map_err(bad_file)?).map_err(|source| TlsError::BadCertificate {
                path: path.to_owned(),
                number,
                source,
            })?;
        }
        if number == 0 {
            return Err(TlsError::NoCertificate(path.to_owned()));
        }
    }
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

/// Client settings that trust exactly `roots`.
///
/// # Errors
/// Only if the crypto provider supports none of the TLS versions.
pub fn client_config_with(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_certificates_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let text = |path| client_config(Some(path)).unwrap_err().to_string();
        assert!(text(&path).contains("ca.pem"));
        std::fs::write(&path, "hello").unwrap();
        assert!(text(&path).contains("holds no certificate"), "{}", text(&path));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(text(&path).contains("certificate 1 can't be used"), "{}", text(&path));
    }
}
