//! The admin edge over real sockets: liveness, readiness, metrics.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tti_connector::admin::{Health, NotReady, serve};
use tti_connector::metrics::{Metrics, Snapshot};

use crate::webhook::desk::{DEADLINE, http_client, send};

#[derive(Default)]
struct Wires(Mutex<Vec<NotReady>>);

impl Health for Wires {
    fn not_ready(&self) -> Vec<NotReady> {
        self.0.lock().expect("not poisoned").clone()
    }
}

struct Admin {
    base: String,
    health: Arc<Wires>,
    metrics: Metrics,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Admin {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let base = format!("http://{}", listener.local_addr().expect("address"));
        let (health, metrics, stop) = (Arc::new(Wires::default()), Metrics::new(), CancellationToken::new());
        let server = tokio::spawn(serve(listener, health.clone(), metrics.clone(), stop.clone()));
        Self { base, health, metrics, stop, server }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        send(http_client().get(format!("{}{path}", self.base)).timeout(DEADLINE)).await
    }

    async fn get_json(&self, path: &str) -> (u16, Value) {
        let response = self.get(path).await;
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }
}

#[tokio::test]
async fn readiness_follows_the_parts_and_liveness_does_not() {
    let admin = Admin::open().await;
    assert_eq!(admin.get_json("/ready").await, (200, json!({"status": "ready"})));

    let reason = NotReady { part: "spool", reason: "the disk is full; make room".to_owned() };
    admin.health.0.lock().expect("not poisoned").push(reason);
    let expected = json!({
        "status": "not_ready",
        "reasons": [{"part": "spool", "reason": "the disk is full; make room"}]
    });
    assert_eq!(admin.get_json("/ready").await, (503, expected));
    assert_eq!(admin.get_json("/live").await, (200, json!({"status": "live"})));

    admin.health.0.lock().expect("not poisoned").clear();
    assert_eq!(admin.get_json("/ready").await.0, 200);
}

#[tokio::test]
async fn metrics_are_open_metrics_with_gauges_of_the_moment() {
    let admin = Admin::open().await;
    let depth = Arc::new(Mutex::new(5));
    let seen = depth.clone();
    admin.metrics.set_snapshot(move || Snapshot {
        pending_messages: *seen.lock().expect("not poisoned"),
        hub_connections: 2,
        ..Snapshot::default()
    });
    admin.metrics.parked("device_unknown");
    admin.metrics.retried("throttled");
    for expected in [5, 4] {
        *depth.lock().expect("not poisoned") = expected;
        let response = admin.get("/metrics").await;
        assert_eq!(
            response.headers()["content-type"],
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        );
        let text = response.text().await.expect("text");
        for line in [
            &format!("tti_connector_spool_pending_messages {expected}"),
            "tti_connector_hub_connections 2",
            "tti_connector_hub_parked_messages_total{reason=\"device_unknown\"} 1",
            "tti_connector_hub_retried_messages_total{reason=\"throttled\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
    }
}

#[tokio::test]
async fn other_paths_are_404_and_other_methods_405() {
    let admin = Admin::open().await;
    for path in ["/", "/live/x", "/health", "/webhook"] {
        let response = admin.get(path).await;
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.status(), 404, "{path}");
    }
    let post = send(http_client().post(format!("{}/ready", admin.base))).await;
    assert_eq!(
        (post.status().as_u16(), &post.headers()["allow"]),
        (405, &"GET, HEAD".parse().expect("value"))
    );
    let head = send(http_client().head(format!("{}/live", admin.base))).await;
    assert_eq!(head.status(), 200);
}

#[tokio::test]
async fn a_stop_ends_the_server() {
    let admin = Admin::open().await;
    admin.get("/live").await;
    admin.stop.cancel();
    tokio::time::timeout(DEADLINE, admin.server).await.expect("in time").expect("ends");
}
