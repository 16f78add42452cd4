//! The webhook's paths and methods, and its server. Knows no message.

use std::convert::Infallible;
use std::sync::Arc;

use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::handler::Desk;
use super::intake::Intake;
use super::refusal::Refusal;
use super::secrets::Secrets;
use crate::config;
use crate::http::{self, Limits};
use crate::metrics::Metrics;

/// Serves on `listener` until `stop`; then finishes the requests under way, and returns once all they gave
/// to `intake` is stored. Whoever waits for a hub at that moment is told that the outcome is pending.
///
/// Memory is bounded by `max_connections` times `max_body_bytes`, for clients that know a secret.
pub async fn serve<I: Intake>(
    listener: TcpListener,
    intake: I,
    options: config::Webhook,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let limits = Limits { max_connections: options.max_connections, read_timeout: options.read_timeout };
    let storing = TaskTracker::new();
    let desk = Arc::new(Desk {
        intake,
        secrets: Secrets::new(&options.secrets),
        options,
        metrics,
        storing: storing.clone(),
        stop: stop.clone(),
    });
    let service = TowerToHyperService::new(warp::service(routes(desk)));
    http::serve(listener, service, limits, stop).await;
    storing.close();
    storing.wait().await;
}

fn routes<I: Intake>(
    desk: Arc<Desk<I>>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let answering = Arc::clone(&desk);
    warp::path("webhook")
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |headers, body| {
            let desk = Arc::clone(&answering);
            async move { desk.answer(headers, body).await }
        })
        .recover(move |rejection: Rejection| {
            let refusal = if rejection.is_not_found() { Refusal::NotHere } else { Refusal::Method };
            let response = desk.refuse(&refusal);
            async move { Ok::<_, Infallible>(response) }
        })
        .unify()
}
