//! A webhook: takes messages over real HTTP, remembers them, and answers as told, when told.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

use crate::messages::DEADLINE;

/// One message as it came.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Message {
    /// The key that names the kind.
    pub(super) fn kind(&self) -> String {
        let fields = self.body.as_object().unwrap();
        let other = ["end_device_ids", "correlation_ids", "received_at", "simulated"];
        fields.keys().find(|key| !other.contains(&key.as_str())).unwrap().clone()
    }

    /// What stands under the kind.
    pub(super) fn inner(&self) -> &Value {
        &self.body[self.kind()]
    }

    pub(super) fn device(&self) -> &str {
        self.body["end_device_ids"]["device_id"].as_str().unwrap()
    }
}

struct Shared {
    messages: Mutex<Vec<Message>>,
    came: watch::Sender<usize>,
    status: Mutex<StatusCode>,
    /// Answers wait while this is false.
    open: watch::Sender<bool>,
}

/// Listens until dropped.
pub(super) struct Receiver {
    pub(super) url: Url,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap()).parse().unwrap();
        let shared = Arc::new(Shared {
            messages: Mutex::default(),
            came: watch::channel(0).0,
            status: Mutex::new(StatusCode::ACCEPTED),
            open: watch::channel(true).0,
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { url, shared, task }
    }

    /// Answers with this status from now on.
    pub(super) fn answer(&self, status: u16) {
        *self.shared.status.lock().unwrap() = StatusCode::from_u16(status).unwrap();
    }

    /// Holds all answers back, or lets them go.
    pub(super) fn hold(&self, hold: bool) {
        self.shared.open.send_replace(!hold);
    }

    pub(super) fn messages(&self) -> Vec<Message> {
        self.shared.messages.lock().unwrap().clone()
    }

    /// Waits for so many messages in all; gives them, and fails if there are more.
    pub(super) async fn wait(&self, count: usize) -> Vec<Message> {
        let mut came = self.shared.came.subscribe();
        let enough = came.wait_for(|came| *came >= count);
        if tokio::time::timeout(DEADLINE, enough).await.is_err() {
            panic!("{} of {count} messages came", self.messages().len());
        }
        let messages = self.messages();
        assert_eq!(messages.len(), count, "{messages:?}");
        messages
    }

    /// The kinds of all messages so far, once there are so many.
    pub(super) async fn kinds(&self, count: usize) -> Vec<String> {
        self.wait(count).await.iter().map(Message::kind).collect()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(take(&shared, request).await) }
            });
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn take(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", "/hook"));
    let body = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    shared.messages.lock().unwrap().push(Message { headers: parts.headers, body });
    shared.came.send_modify(|came| *came += 1);
    shared.open.subscribe().wait_for(|open| *open).await.unwrap();
    let mut response = Response::new(Full::default());
    *response.status_mut() = *shared.status.lock().unwrap();
    response
}
