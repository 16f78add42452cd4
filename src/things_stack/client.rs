//! The Things Stack's downlink API over HTTPS: queues downlinks, lists and empties queues, asks where one is.
//! Knows no ledger and never tries twice.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Response};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::access::Access;
use super::address::{Address, InvalidAddress, NotASegment};
use super::answer::{self, Call};
use super::api::{ApiError, QueuedDownlink, Whereabouts};
use super::downlink::{Downlink, Operation};
use super::holds::Holds;
use super::trouble::{Seen, Troubles};
use super::{listing, request};
use crate::model::EndDevice;

/// Longest answer read when a queue or a device is asked for, in bytes. A queue takes 10,000 downlinks, each listed
/// with some 400 bytes.
const MAX_LISTING_BYTES: usize = 4 * 1024 * 1024;
/// Longest error body read, in bytes; The Things Stack's take about one thousand.
pub(super) const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Applications of which is remembered that their keys may not ask the Network Server.
const MAX_REMEMBERED_APPLICATIONS: usize = 1000;

/// How the API is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Root of the API, with or without a path. Without one, only keys learnt for allowed hosts can be used.
    pub base_url: Option<String>,
    /// Longest wait for one whole answer, and for the turn to ask.
    pub request_timeout: Duration,
    /// Requests at once; at least 1.
    pub max_in_flight: usize,
}

/// The API. Cheap to clone; clones share limits and holds.
#[derive(Clone, Debug)]
pub struct Client(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) http: reqwest::Client,
    base: Option<Address>,
    pub(super) request_timeout: Duration,
    pub(super) permits: Semaphore,
    holds: Holds,
    troubles: Troubles,
    /// Applications whose keys may not ask the Network Server, so that it is said once.
    without_network_server: Mutex<HashSet<String>>,
}

/// Why a call gave nothing, with the status if there was an answer.
struct Failed {
    status: Option<u16>,
    error: ApiError,
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self { status: None, error }
    }
}

impl Client {
    /// Takes over an HTTP client. It must not follow redirects, since they would take the key along.
    ///
    /// # Errors
    /// `base_url` is no address.
    pub fn new(http: reqwest::Client, options: ClientOptions) -> Result<Self, InvalidAddress> {
        let base = options.base_url.as_deref().map(Address::parse).transpose()?;
        if base.as_ref().is_some_and(Address::shows_keys) {
            warn!(
                "`things_stack.base_url` is http on another machine: API keys and downlinks travel there unencrypted; use https."
            );
        }
        Ok(Self(Arc::new(Inner {
            http,
            base,
            request_timeout: options.request_timeout,
            permits: Semaphore::new(options.max_in_flight.clamp(1, Semaphore::MAX_PERMITS)),
            holds: Holds::default(),
            troubles: Troubles::default(),
            without_network_server: Mutex::default(),
        })))
    }

    /// Queues one downlink, behind the queued ones or instead of them.
    ///
    /// # Errors
    /// See [`ApiError`]; nothing is tried twice.
    pub async fn push(
        &self,
        access: &Access,
        device: &EndDevice,
        operation: Operation,
        downlink: &Downlink,
    ) -> Result<(), ApiError> {
        self.write(access, device, operation, request::downlinks(&[downlink])).await
    }

    /// Empties a device's queue. The Things Stack tells nobody about what it drops.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn clear(&self, access: &Access, device: &EndDevice) -> Result<(), ApiError> {
        self.write(access, device, Operation::Replace, request::downlinks(&[])).await
    }

    /// Lists a device's queue, the next to be sent first. The key needs `RIGHT_APPLICATION_TRAFFIC_READ`.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn queue(&self, access: &Access, device: &EndDevice) -> Result<Vec<QueuedDownlink>, ApiError> {
        let url = self.address(access)?.queue(device).map_err(unusable)?;
        let body = self.noted(access, device, Call::Read, self.0.http.get(url)).await?;
        listing::queue(&body).map_err(|error| unreadable("the queue", &error.to_string()))
    }

    /// Where the downlink with this correlation id is: in the queue, else, if the key may ask it, among those that
    /// the Network Server took from the queue of late.
    ///
    /// The queue needs `RIGHT_APPLICATION_TRAFFIC_READ`, without which this fails; the Network Server needs
    /// `RIGHT_APPLICATION_DEVICES_READ`, without which a downlink that was taken is [`Whereabouts::Nowhere`]. So it is
    /// where the Network Server is not part of the same cluster.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn whereabouts(
        &self,
        access: &Access,
        device: &EndDevice,
        correlation_id: &str,
    ) -> Result<Whereabouts, ApiError> {
        let queue = self.queue(access, device).await?;
        if queue.iter().any(|queued| queued.correlation_ids.iter().any(|id| id == correlation_id)) {
            return Ok(Whereabouts::Queued);
        }
        let url = self.address(access)?.network_server(device).map_err(unusable)?;
        match self.call(access, device, Call::Read, self.0.http.get(url)).await {
            Ok(body) => match listing::taken(&body, correlation_id) {
                Ok(true) => Ok(Whereabouts::Taken),
                Ok(false) => Ok(Whereabouts::Nowhere),
                Err(error) => Err(unreadable("the device", &error.to_string())),
            },
            Err(Failed { status: Some(501), error })
            | Err(Failed { status: Some(_), error: error @ ApiError::Refused { .. } }) => {
                self.note_without_network_server(device.application_id(), &error);
                Ok(Whereabouts::Nowhere)
            }
            Err(failed) => Err(failed.error),
        }
    }

    fn note_without_network_server(&self, application: &str, error: &ApiError) {
        let mut noted = self.0.without_network_server.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < MAX_REMEMBERED_APPLICATIONS && noted.insert(application.to_owned()) {
            drop(noted);
            debug!(
                application,
                %error,
                "The Network Server can't be asked about downlinks; RIGHT_APPLICATION_DEVICES_READ lets the key do so."
            );
        }
    }

    pub(super) fn address<'a>(&'a self, access: &'a Access) -> Result<&'a Address, ApiError> {
        access.at.as_deref().or(self.0.base.as_ref()).ok_or_else(|| ApiError::Refused {
            status: None,
            detail: "`things_stack.base_url` is not set".to_owned(),
        })
    }

    async fn write(
        &self,
        access: &Access,
        device: &EndDevice,
        operation: Operation,
        body: String,
    ) -> Result<(), ApiError> {
        let webhook_id = access.webhook_id.as_deref();
        let url = self.address(access)?.down(device, webhook_id, operation).map_err(unusable)?;
        let request = self.0.http.post(url).header(CONTENT_TYPE, "application/json").body(body);
        self.noted(access, device, Call::Write, request).await.map(|_| ())
    }

    /// One request whose failure an operator should hear of.
    async fn noted(
        &self,
        access: &Access,
        device: &EndDevice,
        call: Call,
        request: RequestBuilder,
    ) -> Result<Vec<u8>, ApiError> {
        let result = self.call(access, device, call, request).await;
        let seen = match &result {
            Ok(_) => Seen::Success,
            Err(Failed { status: Some(status), error }) => Seen::Status(*status, error),
            Err(Failed { status: None, error }) => Seen::Silence(error),
        };
        if let Ok(address) = self.address(access) {
            self.0.troubles.note(address.as_str(), device.application_id(), call, seen);
        }
        result.map_err(|failed| failed.error)
    }

    /// One request, in its turn, unless the device is held back.
    async fn call(
        &self,
        access: &Access,
        device: &EndDevice,
        call: Call,
        request: RequestBuilder,
    ) -> Result<Vec<u8>, Failed> {
        self.held(device, call)?;
        let Ok(Ok(_permit)) = timeout(self.0.request_timeout, self.0.permits.acquire()).await else {
            let detail = "too many requests to The Things Stack are under way (`things_stack.max_in_flight`)";
            return Err(ApiError::NotNow { detail: detail.to_owned(), after: None }.into());
        };
        // Others may have been told to wait meanwhile.
        self.held(device, call)?;
        let deadline = Instant::now() + self.0.request_timeout;
        let response = match timeout_at(deadline, request.header(AUTHORIZATION, bearer(access)?).send()).await
        {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(answer::unsent(&error).into()),
            Err(_) => {
                let detail = format!("The Things Stack did not answer within {:?}", self.0.request_timeout);
                return Err(ApiError::Unsure { detail }.into());
            }
        };
        let status = response.status();
        if status.is_success() && call == Call::Write {
            // The status says it all, and nothing that happens to the body could change it.
            return Ok(Vec::new());
        }
        if status.is_success() {
            let body = collect(response, MAX_LISTING_BYTES, deadline).await;
            return body.map_err(|detail| ApiError::Unsure { detail }.into());
        }
        let after = after(response.headers());
        let body = collect(response, MAX_ERROR_BYTES, deadline).await.unwrap_or_default();
        let error = answer::read(call, status.as_u16(), after, &body);
        if let (429, Some(after)) = (status.as_u16(), after) {
            self.0.holds.hold(device, call, after);
        }
        Err(Failed { status: Some(status.as_u16()), error })
    }

    fn held(&self, device: &EndDevice, call: Call) -> Result<(), ApiError> {
        self.0.holds.left(device, call).map_or(Ok(()), |left| {
            let detail = "The Things Stack asked to wait with requests for this device (429)".to_owned();
            Err(ApiError::NotNow { detail, after: Some(left) })
        })
    }
}

pub(super) fn bearer(access: &Access) -> Result<HeaderValue, ApiError> {
    let value = HeaderValue::from_str(&format!("Bearer {}", access.key.reveal()));
    let mut value = value.map_err(|_| ApiError::Refused {
        status: None,
        detail: "the API key holds characters that no key of The Things Stack has".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// How long a 429 asks to wait.
pub(super) fn after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    ["x-rate-limit-retry", "x-rate-limit-reset", "retry-after"]
        .into_iter()
        .find_map(|name| answer::seconds(text(name)?))
}

/// The body, whole.
pub(super) async fn collect(
    mut response: Response,
    limit: usize,
    deadline: Instant,
) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match timeout_at(deadline, response.chunk()).await {
            Ok(Ok(None)) => return Ok(body),
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() > limit => {
                return Err(format!("The Things Stack answered with more than {limit} bytes"));
            }
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Err(error)) => {
                return Err(format!("The Things Stack's answer broke off: {}", answer::causes(error)));
            }
            Err(_) => return Err("The Things Stack's answer did not arrive whole in time".to_owned()),
        }
    }
}

pub(super) fn unusable(error: NotASegment) -> ApiError {
    ApiError::Refused { status: None, detail: error.to_string() }
}

fn unreadable(what: &str, why: &str) -> ApiError {
    ApiError::Unsure { detail: format!("The Things Stack's answer about {what} can't be read: {why}") }
}
