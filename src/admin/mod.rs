//! Health, readiness and metrics for operators. Knows no hub and no DPS.
//!
//! `GET /live`: 200 while the process runs. `GET /ready`: 200, or 503 with the reasons. `GET /metrics`:
//! OpenMetrics text. Other paths: 404.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use warp::http::header::CONTENT_TYPE;
use warp::http::{HeaderValue, StatusCode};
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::http::{self, Limits, Problem};
use crate::metrics::{self, Metrics};

/// Far more than probes and scrapers need: the oldest that asked nothing gives way to a new one, and a probe must have
/// asked before so many others came.
const MAX_CONNECTIONS: usize = 1024;
/// A probe that takes longer has failed anyway.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What the admin edge asks the rest of the connector.
pub trait Health: Send + Sync + 'static {
    /// Why no traffic should be sent here now; empty when all is well. Called for each probe, so it must be quick.
    fn not_ready(&self) -> Vec<NotReady>;
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NotReady {
    /// The part that is not ready, such as `spool` or `hub`.
    pub part: &'static str,
    /// One sentence for a person: what is wrong and what to do. Holds no secret.
    pub reason: String,
}

/// Serves on `listener` until `stop`.
pub async fn serve(
    listener: TcpListener,
    health: Arc<dyn Health>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let limits = Limits { max_connections: MAX_CONNECTIONS, read_timeout: READ_TIMEOUT };
    let service = TowerToHyperService::new(warp::service(routes(health, metrics)));
    http::serve(listener, service, limits, stop).await;
}

fn routes(
    health: Arc<dyn Health>,
    metrics: Metrics,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let read = warp::get().or(warp::head()).unify();
    let live = warp::path!("live").and(read).map(|| json_reply(StatusCode::OK, &json!({"status": "live"})));
    let ready = warp::path!("ready").and(read).map(move || match health.not_ready() {
        reasons if reasons.is_empty() => json_reply(StatusCode::OK, &json!({"status": "ready"})),
        reasons => {
            json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "not_ready", "reasons": reasons}))
        }
    });
    let scrape = warp::path!("metrics").and(read).map(move || {
        let mut response = Response::new(metrics.render().into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
        response
    });
    live.or(ready).unify().or(scrape).unify().recover(refuse).unify()
}

fn json_reply(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::new(body.to_string().into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn refuse(rejection: Rejection) -> Result<Response, Infallible> {
    let problem = if rejection.is_not_found() {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "Only /live, /ready and /metrics are here.")
    } else {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Use GET.")
            .with_header(warp::http::header::ALLOW, HeaderValue::from_static("GET, HEAD"))
    };
    Ok(problem.into_response())
}
