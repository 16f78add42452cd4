//! The emulator's own CA and its one server certificate, kept in its folder so that clients go on trusting it.
//!
//! The CA's key is thrown away once it has signed: whoever trusts this CA trusts one certificate for loopback
//! addresses and nothing else. Both are made anew, and `ca.pem` changes, when they are about to expire.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::EmulatorError;
use super::files::{self, Readers};
use super::options::MAX_HUBS;
use crate::model::Clock;

const CA_FILE: &str = "ca.pem";
const CERTIFICATE_FILE: &str = "server.pem";
const KEY_FILE: &str = "server-key.pem";
/// First line of the certificate file; PEM readers skip text outside the blocks.
const EXPIRY_PREFIX: &str = "# valid until ";
/// Apple's systems refuse certificates that live longer than 825 days.
const LIFE_DAYS: i64 = 820;
/// Made anew when less is left.
const LEAST_DAYS: i64 = 30;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The TLS side of the emulator.
#[derive(Debug)]
pub(super) struct Certificates {
    /// Where clients find the CA.
    pub(super) ca_file: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificates {
    /// Loads the certificates of a folder, or makes them if they are missing, unreadable or about to expire.
    ///
    /// # Errors
    /// `File` when the folder cannot be read or written, `Certificate` when none can be made.
    pub(super) fn load_or_make(dir: &Path) -> Result<Self, EmulatorError> {
        let now_ms = Clock::system().now_ms();
        match Self::load(dir, now_ms)? {
            Some(certificates) => Ok(certificates),
            None => Self::make(dir, now_ms),
        }
    }

    /// A rustls configuration that presents the certificate; `alpn` may be empty.
    ///
    /// # Errors
    /// `Tls` if key and certificate do not belong together.
    pub(super) fn server_config(&self, alpn: &[&str]) -> Result<Arc<ServerConfig>, EmulatorError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    fn load(dir: &Path, now_ms: i64) -> Result<Option<Self>, EmulatorError> {
        let ca_file = dir.join(CA_FILE);
        let ca = files::read(&ca_file)?;
        let (certificate, key) =
            (files::read(&dir.join(CERTIFICATE_FILE))?, files::read(&dir.join(KEY_FILE))?);
        let (Some(_), Some(certificate), Some(key)) = (ca, certificate, key) else { return Ok(None) };
        if expiry_ms(&certificate).is_none_or(|until| until < now_ms + LEAST_DAYS * DAY_MS) {
            return Ok(None);
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
        let (Ok(chain), Ok(key)) = (chain, PrivateKeyDer::from_pem_slice(&key)) else { return Ok(None) };
        Ok((!chain.is_empty()).then_some(Self { ca_file, chain, key }))
    }

    fn make(dir: &Path, now_ms: i64) -> Result<Self, EmulatorError> {
        let until_ms = now_ms + LIFE_DAYS * DAY_MS;
        let ((year, month, day), (last_year, last_month, last_day)) = (date(now_ms - DAY_MS), date(until_ms));
        let valid = |mut params: CertificateParams, name: &str| {
            params.not_before = date_time_ymd(year, month, day);
            params.not_after = date_time_ymd(last_year, last_month, last_day);
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let ca_key = KeyPair::generate()?;
        // A number in the name: OpenSSL mixes up two CAs of one name but with different keys.
        let name = format!("tti-connector emulator CA {:08x}", fastrand::u32(..));
        let mut ca = valid(CertificateParams::new(Vec::new())?, &name);
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = ca.self_signed(&ca_key)?.pem();

        let key = KeyPair::generate()?;
        let mut server = valid(CertificateParams::new(names())?, "tti-connector emulator");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let certificate = server.signed_by(&key, &Issuer::new(ca, ca_key))?;

        // The certificate last: without it, the next start makes all three again.
        let ca_file = dir.join(CA_FILE);
        files::remove(&dir.join(CERTIFICATE_FILE))?;
        files::write(&ca_file, ca_pem.as_bytes(), Readers::All)?;
        files::write(&dir.join(KEY_FILE), key.serialize_pem().as_bytes(), Readers::Owner)?;
        let text = format!("{EXPIRY_PREFIX}{until_ms} ms\n{}", certificate.pem());
        files::write(&dir.join(CERTIFICATE_FILE), text.as_bytes(), Readers::All)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok(Self { ca_file, chain: vec![certificate.der().clone()], key })
    }
}

/// All names a hub of any number of hubs can have, so that a restart with more hubs keeps the certificate.
fn names() -> Vec<String> {
    let addresses = (1..=MAX_HUBS).map(|number| format!("127.0.0.{number}"));
    ["localhost".to_owned(), "::1".to_owned()].into_iter().chain(addresses).collect()
}

fn expiry_ms(certificate_file: &[u8]) -> Option<i64> {
    let line = std::str::from_utf8(certificate_file).ok()?.lines().next()?;
    line.strip_prefix(EXPIRY_PREFIX)?.strip_suffix(" ms")?.parse().ok()
}

fn date(ms: i64) -> (i32, u8, u8) {
    let date = jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC);
    let part = |value: i8| u8::try_from(value).unwrap_or(1);
    (i32::from(date.year()), part(date.month()), part(date.day()))
}
