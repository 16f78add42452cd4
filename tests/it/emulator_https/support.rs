//! A running emulator and an HTTPS client that trusts its CA. Signs its own SAS tokens.

use std::fs;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, Response, StatusCode};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use sha2::Sha256;
use tempfile::TempDir;
use tti_connector::emulator::{Emulator, Options};
use tti_connector::model::Clock;

/// 2026-11-21T00:00:00Z, where the emulator's clock stands.
pub(super) const NOW_MS: i64 = 1_795_219_200_000;

/// An emulator on free ports with a clock that stands still, and its folder.
pub(super) struct Running {
    pub(super) emulator: Emulator,
    pub(super) dir: TempDir,
    pub(super) clock: Clock,
    pub(super) client: Client,
}

/// Options for free ports, and for polls without pause.
pub(super) fn options(dir: &TempDir, hubs: usize, clock: &Clock) -> Options {
    let (amqp_port, https_port) = (0, 0);
    Options {
        amqp_port,
        https_port,
        hubs,
        clock: clock.clone(),
        dps_retry_after_s: 0,
        ..Options::new(dir.path())
    }
}

pub(super) async fn start(hubs: usize) -> Running {
    start_in(tempfile::tempdir().unwrap(), hubs).await
}

pub(super) async fn start_in(dir: TempDir, hubs: usize) -> Running {
    let clock = Clock::manual(NOW_MS);
    let emulator = Emulator::start(options(&dir, hubs, &clock)).await.unwrap();
    let client = client(&emulator);
    Running { emulator, dir, clock, client }
}

/// Trusts what `caFile` says, and nothing else.
pub(super) fn tls(emulator: &Emulator) -> ClientConfig {
    let pem = fs::read(&emulator.ready().ca_file).unwrap();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(super) fn client(emulator: &Emulator) -> Client {
    Client::builder().tls_backend_preconfigured(tls(emulator)).no_proxy().build().unwrap()
}

/// `SharedAccessSignature …` for a resource that is sent as it is, valid for an hour of the emulator's clock.
pub(super) fn sas(raw_resource: &str, key: &str, policy: Option<&str>) -> String {
    let expiry = NOW_MS / 1000 + 3600;
    let signature = hmac(&STANDARD.decode(key).unwrap(), &format!("{raw_resource}\n{expiry}"));
    let signature = utf8_percent_encode(&signature, NON_ALPHANUMERIC).to_string();
    let policy = policy.map_or(String::new(), |policy| format!("&skn={policy}"));
    format!("SharedAccessSignature sr={raw_resource}&sig={signature}&se={expiry}{policy}")
}

/// Base64 of HMAC-SHA256.
pub(super) fn hmac(key: &[u8], text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

impl Running {
    /// Calls a path at a hub.
    pub(super) async fn call(
        &self,
        hub: usize,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Response {
        let (host, port) = (self.emulator.hubs()[hub].host(), self.emulator.ready().https_port);
        let mut request = self.client.request(method, format!("https://{host}:{port}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// A token of a policy of hub `hub`, with an unencoded resource as Node's service SDK sends it.
    pub(super) fn policy(&self, hub: usize, policy: &str) -> String {
        let hub = &self.emulator.hubs()[hub];
        sas(hub.host(), hub.policy_key(policy).unwrap(), Some(policy))
    }
}

/// Status and JSON body.
pub(super) async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}
