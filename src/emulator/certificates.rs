//! The emulator's own CA and its one server certificate, kept in its folder so that clients go on trusting it.
//!
//! The CA's key is never written down: whoever trusts this CA trusts certificates for loopback addresses, made by the
//! process that made the CA, and nothing else. Both are made anew, and `ca.pem` changes, when they are about to expire.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
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

/// How a running emulator's certificate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// A new one by the same CA.
    Leaf,
    /// A new one by a new CA; `ca.pem` changes.
    Ca,
    /// One by the same CA that expired yesterday. It is not kept: a restart has the former.
    Expired,
}

/// The TLS side of the emulator.
#[derive(Debug)]
pub(super) struct Certificates {
    /// Where clients find the CA.
    pub(super) ca_file: PathBuf,
    dir: PathBuf,
    presented: Arc<Presented>,
    /// The CA's name and key, if this process made it.
    ca: Mutex<Option<Issuer<'static, KeyPair>>>,
}

/// What new connections are shown.
#[derive(Debug)]
struct Presented(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A server certificate with its key and, if it was made now, its CA.
struct Made {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ca: Option<Issuer<'static, KeyPair>>,
}

impl Certificates {
    /// Loads the certificates of a folder, or makes them if they are missing, unreadable or about to expire.
    ///
    /// # Errors
    /// `File` when the folder cannot be read or written, `Certificate` when none can be made.
    pub(super) fn load_or_make(dir: &Path) -> Result<Self, EmulatorError> {
        let now_ms = Clock::system().now_ms();
        let made = match Self::load(dir, now_ms)? {
            Some(loaded) => loaded,
            None => Self::make(dir, now_ms)?,
        };
        Ok(Self {
            ca_file: dir.join(CA_FILE),
            dir: dir.to_owned(),
            presented: Arc::new(Presented(RwLock::new(certified(&made)?))),
            ca: Mutex::new(made.ca),
        })
    }

    /// A rustls configuration that presents the certificate; `alpn` may be empty. No session is resumed, so that
    /// every connection sees the certificate of its time.
    ///
    /// # Errors
    /// `Tls` if the crypto provider does not fit.
    pub(super) fn server_config(&self, alpn: &[&str]) -> Result<Arc<ServerConfig>, EmulatorError> {
        let presented: Arc<Presented> = Arc::clone(&self.presented);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(presented);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Shows new connections another certificate.
    ///
    /// # Errors
    /// `ForgottenCa` when a former process made the CA; else as [`Self::load_or_make`].
    pub(super) fn renew(&self, how: Renewal) -> Result<(), EmulatorError> {
        let now_ms = Clock::system().now_ms();
        let mut ca = self.ca.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match how {
            Renewal::Ca => Self::make(&self.dir, now_ms)?,
            Renewal::Leaf => {
                let ca = ca.as_ref().ok_or(EmulatorError::ForgottenCa)?;
                let until_ms = now_ms + LIFE_DAYS * DAY_MS;
                let (certificate, key) = leaf(ca, now_ms - DAY_MS, until_ms)?;
                files::remove(&self.dir.join(CERTIFICATE_FILE))?;
                store(&self.dir, &certificate.pem(), &key, until_ms)?;
                made(&certificate, &key)
            }
            Renewal::Expired => {
                let ca = ca.as_ref().ok_or(EmulatorError::ForgottenCa)?;
                let (certificate, key) = leaf(ca, now_ms - 3 * DAY_MS, now_ms - DAY_MS)?;
                made(&certificate, &key)
            }
        };
        *self.presented.0.write().unwrap_or_else(PoisonError::into_inner) = certified(&made)?;
        if made.ca.is_some() {
            *ca = made.ca;
        }
        Ok(())
    }

    fn load(dir: &Path, now_ms: i64) -> Result<Option<Made>, EmulatorError> {
        let ca = files::read(&dir.join(CA_FILE))?;
        let (certificate, key) =
            (files::read(&dir.join(CERTIFICATE_FILE))?, files::read(&dir.join(KEY_FILE))?);
        let (Some(_), Some(certificate), Some(key)) = (ca, certificate, key) else { return Ok(None) };
        if expiry_ms(&certificate).is_none_or(|until| until < now_ms + LEAST_DAYS * DAY_MS) {
            return Ok(None);
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
        let (Ok(chain), Ok(key)) = (chain, PrivateKeyDer::from_pem_slice(&key)) else { return Ok(None) };
        Ok((!chain.is_empty()).then_some(Made { chain, key, ca: None }))
    }

    fn make(dir: &Path, now_ms: i64) -> Result<Made, EmulatorError> {
        let until_ms = now_ms + LIFE_DAYS * DAY_MS;
        let ca_key = KeyPair::generate()?;
        // A number in the name: OpenSSL mixes up two CAs of one name but with different keys.
        let name = format!("tti-connector emulator CA {:08x}", fastrand::u32(..));
        let mut ca = valid(CertificateParams::new(Vec::new())?, &name, now_ms - DAY_MS, until_ms);
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = ca.self_signed(&ca_key)?.pem();
        let ca = Issuer::new(ca, ca_key);
        let (certificate, key) = leaf(&ca, now_ms - DAY_MS, until_ms)?;
        // The certificate last: without it, the next start makes all three again.
        files::remove(&dir.join(CERTIFICATE_FILE))?;
        files::write(&dir.join(CA_FILE), ca_pem.as_bytes(), Readers::All)?;
        store(dir, &certificate.pem(), &key, until_ms)?;
        Ok(Made { ca: Some(ca), ..made(&certificate, &key) })
    }
}

fn valid(mut params: CertificateParams, name: &str, from_ms: i64, until_ms: i64) -> CertificateParams {
    let ((year, month, day), (last_year, last_month, last_day)) = (date(from_ms), date(until_ms));
    params.not_before = date_time_ymd(year, month, day);
    params.not_after = date_time_ymd(last_year, last_month, last_day);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn leaf(
    ca: &Issuer<'static, KeyPair>,
    from_ms: i64,
    until_ms: i64,
) -> Result<(Certificate, KeyPair), EmulatorError> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(names())?;
    let mut server = valid(params, "tti-connector emulator", from_ms, until_ms);
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    Ok((server.signed_by(&key, ca)?, key))
}

/// Writes a server certificate down, its key first.
fn store(dir: &Path, pem: &str, key: &KeyPair, until_ms: i64) -> Result<(), EmulatorError> {
    files::write(&dir.join(KEY_FILE), key.serialize_pem().as_bytes(), Readers::Owner)?;
    let text = format!("{EXPIRY_PREFIX}{until_ms} ms\n{pem}");
    files::write(&dir.join(CERTIFICATE_FILE), text.as_bytes(), Readers::All)
}

fn made(certificate: &Certificate, key: &KeyPair) -> Made {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Made { chain: vec![certificate.der().clone()], key, ca: None }
}

fn certified(made: &Made) -> Result<Arc<CertifiedKey>, EmulatorError> {
    let key = ring::default_provider().key_provider.load_private_key(made.key.clone_key())?;
    let certified = CertifiedKey::new(made.chain.clone(), key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
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
