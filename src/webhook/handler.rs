//! One request from its headers to its answer. Knows no route.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use warp::http::HeaderMap;
use warp::reply::Response;

use super::body::Announced;
use super::intake::{Intake, NewMessage, StoreError, Stored};
use super::refusal::Refusal;
use super::secrets::Secrets;
use super::{offer, prefer, reply};
use crate::config;
use crate::metrics::Metrics;
use crate::model::{EndDevice, Outcome};
use crate::things_stack::{CORRELATION_PREFIX, DownlinkEvent, Envelope, Frame, Kind};

const X_TTS_DOMAIN: &str = "x-tts-domain";

/// What all requests share.
#[derive(Debug)]
pub(super) struct Desk<I> {
    pub(super) intake: I,
    pub(super) secrets: Secrets,
    pub(super) options: config::Webhook,
    pub(super) metrics: Metrics,
    /// Owns the tasks that store: they outlive a client that hangs up.
    pub(super) storing: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// What to do with a message that could be read.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Store {
        device: EndDevice,
        dedup: [u8; 16],
        frame: Option<Frame>,
        about_downlinks: bool,
    },
    /// With the word for metrics and answer.
    Ignore(&'static str),
}

impl<I: Intake> Desk<I> {
    /// Answers one `POST`.
    pub(super) async fn answer(
        &self,
        headers: HeaderMap,
        body: impl Stream<Item = Result<impl Buf, warp::Error>>,
    ) -> Response {
        let began = Instant::now();
        let (stored, waiting) = match self.take(&headers, body, began).await {
            Ok(Taken::Stored(stored, waiting)) => (stored, waiting),
            Ok(Taken::Ignored(reason)) => return reply::ignored(reason),
            Err(refusal) => return self.refuse(&refusal),
        };
        let Some((wait, outcome)) = waiting else {
            return match stored {
                Stored::New => reply::stored(),
                Stored::Duplicate(_) => reply::duplicate(),
            };
        };
        let response = match stored {
            Stored::Duplicate(Some(known)) => reply::outcome(&known),
            Stored::New | Stored::Duplicate(None) => self.wait_for(outcome, wait).await,
        };
        reply::waited(response, wait)
    }

    /// Counts a refusal and makes its answer.
    pub(super) fn refuse(&self, refusal: &Refusal) -> Response {
        let problem = refusal.problem();
        let status = problem.status().as_u16();
        self.metrics.refused(status);
        debug!(status, reason = %refusal, "Refused a request to the webhook.");
        problem.into_response()
    }

    async fn take(
        &self,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<impl Buf, warp::Error>>,
        began: Instant,
    ) -> Result<Taken, Refusal> {
        if !self.secrets.admit(headers) {
            return Err(Refusal::Secret);
        }
        let limit = self.options.max_body_bytes;
        let announced = Announced::read(headers, limit)?;
        let patience = self.options.read_timeout;
        let body = timeout(patience, announced.collect(body, limit))
            .await
            .map_err(|_| Refusal::TooSlow(patience))??;
        let taken = match self.judge(headers, &body)? {
            Verdict::Ignore(reason) => {
                self.metrics.ignored(reason);
                Taken::Ignored(reason)
            }
            Verdict::Store { device, dedup, frame, about_downlinks } => {
                let wait = prefer::wait(headers, self.options.max_wait);
                let (waiter, waiting) = match wait {
                    Some(wait) => {
                        let (waiter, outcome) = oneshot::channel();
                        (Some(waiter), Some((wait, outcome)))
                    }
                    None => (None, None),
                };
                let stored = self
                    .store(NewMessage { device, dedup: Some(dedup), body, waiter, frame, about_downlinks })
                    .await?;
                Taken::Stored(stored, waiting)
            }
        };
        self.metrics.webhook_request(began.elapsed());
        Ok(taken)
    }

    /// Decides what to do with the message, and passes on what its headers offer.
    fn judge(&self, headers: &HeaderMap, body: &Bytes) -> Result<Verdict, Refusal> {
        let envelope = Envelope::parse(body)?;
        self.metrics.received(envelope.kind.as_str());
        let verdict = verdict(headers, &envelope, body)?;
        if let Some(offer) = offer::read(headers) {
            match &verdict {
                Verdict::Store { device, .. } => self.intake.downlink_access(device, offer),
                Verdict::Ignore(_) => {
                    if let Ok(device) = end_device(headers, &envelope) {
                        self.intake.downlink_access(&device, offer);
                    }
                }
            }
        }
        Ok(verdict)
    }

    async fn store(&self, message: NewMessage) -> Result<Stored, Refusal> {
        let intake = self.intake.clone();
        let storing = self.storing.spawn(async move { intake.store(message).await });
        // A store that panicked has promised nothing.
        let stored = storing.await.unwrap_or(Err(StoreError::Unavailable))?;
        match stored {
            Stored::New => self.metrics.stored(),
            Stored::Duplicate(_) => self.metrics.duplicate(),
        }
        Ok(stored)
    }

    /// Waits on: the outcome, the granted time, and our own stop.
    async fn wait_for(&self, outcome: oneshot::Receiver<Outcome>, wait: Duration) -> Response {
        tokio::select! {
            known = outcome => known.map_or_else(|_| reply::pending(), |known| reply::outcome(&known)),
            () = sleep(wait) => reply::pending(),
            () = self.stop.cancelled() => reply::pending(),
        }
    }
}

fn verdict(headers: &HeaderMap, envelope: &Envelope<'_>, body: &Bytes) -> Result<Verdict, Refusal> {
    let store = |about_downlinks| {
        let device = end_device(headers, envelope)?;
        let dedup = envelope.dedup_key(&device, body);
        Ok(Verdict::Store { device, dedup, frame: envelope.frame(), about_downlinks })
    };
    let has_ids = envelope.device_id.is_some() || envelope.application_id.is_some();
    match (envelope.kind, envelope.f_port) {
        (Kind::UplinkMessage, Some(_)) => store(false),
        (Kind::UplinkMessage, None) => Ok(Verdict::Ignore("no_f_port")),
        (Kind::Unknown, _) if has_ids || holds_an_object(body) => Ok(Verdict::Ignore("unknown_kind")),
        (Kind::Unknown, _) => Err(Refusal::NoMessage),
        (
            Kind::JoinAccept
            | Kind::DownlinkAck
            | Kind::DownlinkNack
            | Kind::DownlinkSent
            | Kind::DownlinkFailed
            | Kind::DownlinkQueued
            | Kind::DownlinkQueueInvalidated,
            _,
        ) => {
            if tells_of_ours(body)? {
                store(true)
            } else {
                Ok(Verdict::Ignore("no_downlink_of_ours"))
            }
        }
        (Kind::UplinkNormalized | Kind::LocationSolved | Kind::ServiceData, _) => {
            Ok(Verdict::Ignore("no_telemetry"))
        }
    }
}

/// Whether a message about downlinks names one of this program. Most don't, and are not read further.
fn tells_of_ours(body: &[u8]) -> Result<bool, Refusal> {
    // That it is UTF-8 the envelope has shown; a search in text is several times faster than one in bytes.
    let somewhere = std::str::from_utf8(body).is_ok_and(|text| text.contains(CORRELATION_PREFIX));
    Ok(somewhere && DownlinkEvent::parse(body)?.is_some_and(|event| event.names_ours()))
}

/// A message that was taken.
enum Taken {
    Stored(Stored, Option<(Duration, oneshot::Receiver<Outcome>)>),
    Ignored(&'static str),
}

fn end_device(headers: &HeaderMap, envelope: &Envelope<'_>) -> Result<EndDevice, Refusal> {
    let tenant = match headers.get(X_TTS_DOMAIN) {
        Some(domain) => tenant(domain.to_str().map_err(|_| Refusal::Tenant)?),
        None => String::new(),
    };
    // A tenant is at fault only if it would be without the ids, too.
    if EndDevice::new(&tenant, "a", "d").is_err() {
        return Err(Refusal::Tenant);
    }
    EndDevice::new(
        &tenant,
        envelope.application_id.as_deref().unwrap_or_default(),
        envelope.device_id.as_deref().unwrap_or_default(),
    )
    .map_err(Refusal::Device)
}

/// The host without its port, in lower case.
fn tenant(domain: &str) -> String {
    let domain = domain.trim();
    let host = match domain.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        Some(_) | None => domain,
    };
    host.to_ascii_lowercase()
}

/// Whether a value of the body is an object, as every message kind is. What a later version may send is not refused,
/// even where a field mask strips the ids.
fn holds_an_object(body: &[u8]) -> bool {
    serde_json::from_slice::<HashMap<Cow<'_, str>, &RawValue>>(body)
        .is_ok_and(|fields| fields.values().any(|value| value.get().starts_with('{')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_a_host_without_port_in_lower_case() {
        for (domain, expected) in [
            ("", ""),
            ("Tenant.EU1.Cloud.TheThings.Industries", "tenant.eu1.cloud.thethings.industries"),
            (" localhost:1885 ", "localhost"),
            ("[::1]:8885", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("host:", "host"),
        ] {
            assert_eq!(tenant(domain), expected, "{domain}");
        }
    }
}
