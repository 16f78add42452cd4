//! Plain HTTP of the emulated Things Stack: reads requests within limits and hands them to the API or the controls.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::super::https::{HEAD_TIMEOUT, segments};
use super::super::hub::Hub;
use super::super::hub_control;
use super::super::reply::Reply;
use super::api::{self, Call};
use super::control;
use super::fault::{Effect, Fault};
use super::refusal::{Code, EMULATOR, Refusal, with_status};
use super::stack::ThingsStack;

/// Largest request body: a whole queue of 10,000 usual downlinks.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Time for a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the listeners share.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) stack: Arc<ThingsStack>,
    /// Controlled here too, as this port takes plain HTTP.
    pub(super) hubs: Vec<Arc<Hub>>,
}

/// Serves one connection, until either side is done with it or the emulator stops.
pub(super) async fn serve<S>(site: Arc<Site>, stream: S, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { answer(&site, request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "A connection to the emulated Things Stack ended early.");
            }
        }
        () = stop.cancelled() => {}
    }
}

/// An error ends the connection without an answer.
async fn answer(site: &Site, request: Request<Incoming>) -> io::Result<Reply> {
    let (parts, body) = request.into_parts();
    let answered = match read(body).await {
        Ok(body) => route(site, &parts, &body).await,
        Err(refusal) => Ok(refusal.into_reply()),
    };
    match answered {
        Ok(reply) => Ok(reply),
        Err(Closed) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "as a fault asked for")),
    }
}

/// A fault asked for the end of the connection.
struct Closed;

async fn route(site: &Site, parts: &Parts, body: &Bytes) -> Result<Reply, Closed> {
    let Site { stack, hubs } = site;
    let Some(path) = segments(parts.uri.path()) else {
        let refusal = Refusal::invalid((EMULATOR, "invalid_path"), "the path is no percent-encoded UTF-8");
        return Ok(refusal.into_reply());
    };
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    if path.first() == Some(&"emulator") {
        let reply = local_only(parts).and_then(|()| {
            if hub_control::owns(&path) {
                return Ok(hub_control::answer(hubs, parts, &path, body));
            }
            control::answer(stack, parts, &path, body)
        });
        return Ok(reply.unwrap_or_else(Refusal::into_reply));
    }
    let call = match Call::parse(&parts.method, &path, parts.uri.query()) {
        Ok(call) => call,
        Err(refusal) => return Ok(refusal.into_reply()),
    };
    let fault = stack.take_fault(call.writes());
    if let Some(fault) = fault.as_ref().filter(|fault| fault.effect == Effect::Before) {
        tokio::time::sleep(fault.delay()).await;
        if let Some(reply) = spoil(fault)? {
            return Ok(reply);
        }
    }
    let authorization = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let reply = api::answer(stack, call, authorization, body).await.unwrap_or_else(Refusal::into_reply);
    if let Some(fault) = fault.as_ref().filter(|fault| fault.effect == Effect::After) {
        tokio::time::sleep(fault.delay()).await;
        if let Some(reply) = spoil(fault)? {
            return Ok(reply);
        }
    }
    Ok(reply)
}

/// What a fault answers instead; `None` if the answer is only late.
fn spoil(fault: &Fault) -> Result<Option<Reply>, Closed> {
    if fault.close {
        return Err(Closed);
    }
    let Some(status) = fault.status.and_then(|status| StatusCode::from_u16(status).ok()) else {
        return Ok(None);
    };
    let mut reply = with_status(status);
    if status == StatusCode::TOO_MANY_REQUESTS {
        for (name, value) in [("limit", "20"), ("available", "0"), ("reset", "1"), ("retry", "1")] {
            if let Ok(name) = HeaderName::try_from(format!("x-rate-limit-{name}")) {
                reply.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
    }
    for (name, value) in &fault.headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
        {
            reply.headers_mut().insert(name, value);
        }
    }
    Ok(Some(reply))
}

/// Controls are for people and tests on this machine, not for web pages that a browser on it shows.
fn local_only(parts: &Parts) -> Result<(), Refusal> {
    let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let is_local = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    if is_local && !parts.headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let message = "the emulator's controls are not for browsers; use localhost, and no Origin header";
    Err(Refusal::new(Code::PermissionDenied, (EMULATOR, "not_local"), message))
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let read = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => {
            Err(Refusal::invalid((EMULATOR, "read_body"), format!("the body cannot be read: {error}")))
        }
        Err(_) => Err(Refusal::invalid((EMULATOR, "read_body"), "the body took too long")),
    }
}
