//! A webhook on a port of its own with an intake that remembers. Knows no test.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tti_connector::config;
use tti_connector::metrics::Metrics;
use tti_connector::model::{EndDevice, Secret};
use tti_connector::things_stack::DownlinkOffer;
use tti_connector::webhook::{Intake, NewMessage, StoreError, Stored, serve};

/// Nothing here takes longer unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// An uplink of device `cellar`, application `house`, with this frame counter.
pub(crate) fn uplink(f_cnt: u32) -> String {
    format!(
        r#"{{"end_device_ids":{{"device_id":"cellar","application_ids":{{"application_id":"house"}}}},
        "uplink_message":{{"session_key_id":"AYhx","f_port":2,"f_cnt":{f_cnt},"frm_payload":"AQI="}}}}"#
    )
}

/// Keeps messages in memory, and answers as told.
#[derive(Clone)]
pub(crate) struct RecordingIntake {
    kept: mpsc::UnboundedSender<NewMessage>,
    answers: Arc<Mutex<VecDeque<Result<Stored, StoreError>>>>,
    /// One permit for each message that may be stored.
    disk: Arc<Semaphore>,
    offers: Arc<Mutex<Vec<Offered>>>,
}

/// An API key for downlinks as it reached the intake: device, key, push URL, replace URL.
pub(crate) type Offered = (String, String, Option<String>, Option<String>);

impl Intake for RecordingIntake {
    async fn store(&self, message: NewMessage) -> Result<Stored, StoreError> {
        self.disk.acquire().await.expect("open").forget();
        let answer = self.answers.lock().expect("not poisoned").pop_front().unwrap_or(Ok(Stored::New));
        if answer.is_ok() {
            self.kept.send(message).expect("the test reads");
        }
        answer
    }

    fn downlink_access(&self, device: &EndDevice, offer: DownlinkOffer<'_>) {
        let (push, replace) = (offer.push.map(str::to_owned), offer.replace.map(str::to_owned));
        let offered = (device.to_string(), offer.api_key.to_owned(), push, replace);
        self.offers.lock().expect("not poisoned").push(offered);
    }
}

/// A webhook that runs until the test ends.
pub(crate) struct Desk {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    pub(crate) server: JoinHandle<()>,
    pub(crate) kept: mpsc::UnboundedReceiver<NewMessage>,
    intake: RecordingIntake,
    http: reqwest::Client,
}

impl Desk {
    pub(crate) async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with_secrets(secrets: &[&str]) -> Self {
        Self::with(|options| options.secrets = secrets.iter().copied().map(Secret::new).collect()).await
    }

    pub(crate) async fn with(set: impl FnOnce(&mut config::Webhook)) -> Self {
        let mut options = config::Webhook::default();
        set(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (kept_sender, kept) = mpsc::unbounded_channel();
        let intake = RecordingIntake {
            kept: kept_sender,
            answers: Arc::default(),
            disk: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            offers: Arc::default(),
        };
        let (metrics, stop) = (Metrics::new(), CancellationToken::new());
        let server = tokio::spawn(serve(listener, intake.clone(), options, metrics.clone(), stop.clone()));
        Self { address, metrics, stop, server, kept, intake, http: http_client() }
    }

    /// The next store is answered so.
    pub(crate) fn answer(&self, answer: Result<Stored, StoreError>) {
        self.intake.answers.lock().expect("not poisoned").push_back(answer);
    }

    /// The API keys offered since the last call.
    pub(crate) fn offers(&self) -> Vec<Offered> {
        std::mem::take(&mut *self.intake.offers.lock().expect("not poisoned"))
    }

    /// From now on nothing reaches the disk, but for `release`.
    pub(crate) fn hold(&self) {
        self.intake.disk.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn release(&self, messages: usize) {
        self.intake.disk.add_permits(messages);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/webhook", self.address)
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = method.parse().expect("method");
        self.http.request(method, format!("http://{}{path}", self.address)).timeout(DEADLINE)
    }

    pub(crate) fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.request("POST", "/webhook").header("content-type", "application/json").body(body)
    }

    pub(crate) async fn next_kept(&mut self) -> NewMessage {
        tokio::time::timeout(DEADLINE, self.kept.recv()).await.expect("in time").expect("open")
    }

    pub(crate) fn assert_nothing_kept(&mut self) {
        assert!(self.kept.try_recv().is_err(), "a message was kept");
    }

    /// The value of a line of the metrics, 0 if absent.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a whole number"))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A client that uses no proxy and trusts nobody.
pub(crate) fn http_client() -> reqwest::Client {
    let provider = rustls::crypto::ring::default_provider();
    let tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().expect("client")
}

pub(crate) async fn send(request: RequestBuilder) -> Response {
    request.send().await.expect("an answer")
}

/// The answer's status and JSON body. Holds every error to RFC 9457 and to what The Things Stack keeps of it.
pub(crate) async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let media_type = response.headers()["content-type"].to_str().expect("text").to_owned();
    let text = response.text().await.expect("body");
    let body: Value = serde_json::from_str(&text).expect("JSON");
    if status < 400 {
        assert_eq!(media_type, "application/json");
    } else {
        assert_eq!(media_type, "application/problem+json");
        assert_eq!(body["status"], status, "{text}");
        assert!(body["type"].as_str().expect("type").starts_with("urn:tti-connector:problem:"), "{text}");
        assert!(body["title"].is_string() && !body["detail"].as_str().expect("detail").is_empty(), "{text}");
        assert!(text.len() <= 1024, "{} bytes: {text}", text.len());
    }
    (status, body)
}
