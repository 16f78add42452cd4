//! HTTPS of the emulator: reads requests within limits and hands them to registry, twins, DPS or WebSocket by their path.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dps::Dps;
use super::dps_wire::{self, DpsSite};
use super::https_limits;
use super::hub::Hub;
use super::queries_api;
use super::registry;
use super::reply::{HubRefusal, Reply};
use super::twins_api;
use super::websocket;
use crate::model::Clock;

/// Largest request body: a direct method's payload has up to 128 KB, and there is some JSON around it.
const MAX_BODY_BYTES: usize = 160 * 1024;
/// Time for a request's head, and the longest silence of a kept-alive connection.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the HTTPS listeners share.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) hubs: Vec<Arc<Hub>>,
    pub(super) dps: Arc<Dps>,
    pub(super) clock: Clock,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// Places for AMQP connections, those over WebSocket included.
    pub(super) amqp_places: Arc<Semaphore>,
}

/// Serves one connection that came in on `hub`'s address, until either side is done with it or the emulator stops.
pub(super) async fn serve<S>(site: Arc<Site>, hub: Arc<Hub>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stop = site.stop.clone();
    let service = service_fn(move |request| {
        let (site, hub) = (Arc::clone(&site), Arc::clone(&hub));
        async move { Ok::<_, Infallible>(answer(&site, hub, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "An HTTPS connection to the emulator ended early.");
            }
        }
        () = stop.cancelled() => {}
    }
}

async fn answer(site: &Arc<Site>, own: Arc<Hub>, mut request: Request<Incoming>) -> Reply {
    let hub = named_hub(&site.hubs, &request).unwrap_or(own);
    let Some(path) = segments(request.uri().path()) else {
        return HubRefusal::bad("the path is no percent-encoded UTF-8").into_reply();
    };
    if path == websocket::PATH {
        return websocket::upgrade(site, hub, &mut request);
    }
    let (parts, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return refused.into_reply(),
    };
    route(site, &hub, &parts, &path, &body).await
}

/// A direct method may take minutes; whoever waits for it is dropped with its connection, or when the emulator stops.
pub(super) async fn route(site: &Site, hub: &Hub, parts: &Parts, path: &[String], body: &[u8]) -> Reply {
    if let Err(denied) = https_limits::allow(hub, parts, path, body).await {
        return denied;
    }
    if queries_api::owns(parts, path) {
        return queries_api::answer(hub, parts, path, body);
    }
    match path.first().map(String::as_str) {
        Some("devices") => return registry::answer(hub, parts, path, body),
        Some("twins") if hub.tier().is_basic() => {
            let reason = "a hub of the basic tier has no device twins and no direct methods";
            return HubRefusal::new(StatusCode::FORBIDDEN, "OperationNotAvailableInCurrentTier", reason)
                .into_reply();
        }
        Some("twins") => return twins_api::answer(hub, parts, path, body).await,
        Some("statistics") => return queries_api::statistics(hub, parts, path),
        Some(_) | None => {}
    }
    if dps_wire::owns(path) {
        let Site { dps, clock, tasks, stop, .. } = site;
        return dps_wire::answer(&DpsSite { dps, clock, tasks, stop }, parts, path, body);
    }
    HubRefusal::unknown("/devices, /twins, /statistics, DPS registrations and /$iothub/websocket")
        .into_reply()
}

/// The hub that the Host header names, without its port.
fn named_hub(hubs: &[Arc<Hub>], request: &Request<Incoming>) -> Option<Arc<Hub>> {
    let host = request.headers().get(HOST)?.to_str().ok()?;
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    hubs.iter().find(|hub| hub.host().eq_ignore_ascii_case(host)).cloned()
}

/// The path's segments, each percent-decoded once. A slash at the end counts for nothing.
pub(super) fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let decode = |segment| percent_decode_str(segment).decode_utf8().ok().map(String::from);
    path.split('/').map(decode).collect()
}

async fn read(body: Incoming) -> Result<Bytes, HubRefusal> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let reason = format!("the body is over {MAX_BODY_BYTES} bytes");
            Err(HubRefusal::new(StatusCode::PAYLOAD_TOO_LARGE, "MessageTooLarge", reason))
        }
        Ok(Err(error)) => Err(HubRefusal::bad(format!("the body is cut short: {error}"))),
        Err(_) => {
            Err(HubRefusal::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", "the body took too long"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::segments;

    #[test]
    fn a_path_is_split_before_it_is_decoded() {
        assert_eq!(segments("/devices/a%2Fb%2525/").unwrap(), ["devices", "a/b%25"]);
        assert_eq!(segments("/%24iothub/websocket").unwrap(), ["$iothub", "websocket"]);
        assert_eq!(segments("/").unwrap(), [""]);
        assert_eq!(segments("/devices/%ff"), None);
    }
}
