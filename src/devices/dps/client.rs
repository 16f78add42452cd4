//! Registers one device at DPS and polls until there is an answer. Decides nothing: `answer` does.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, RETRY_AFTER};
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::answer::{self, Answer, Reach, Step};
use super::hold::Holds;
use crate::azure::{SigningKey, derive_device_key, sas};
use crate::devices::ResolveError;
use crate::devices::routes::DpsScope;
use crate::model::{Clock, ParkReason};
use crate::net::causes;

/// Life of a DPS token. It is used for one registration only.
const TOKEN_LIFE_S: u64 = 3600;
/// Many registrations under way find out about a wrong clock at once; who is the first tells.
const NOTABLE_MS: i64 = 60_000;
/// Registrations that take long and wait on aside, for each that may be under way. One for which there is no room
/// there ends, and begins anew after a while: DPS goes on working on it.
const ASIDE: usize = 4;
/// Longest answer read; DPS's own limit for a registration's payload is far below.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How fast DPS is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two polls when DPS does not say. It takes five in ten seconds.
    pub poll_default: Duration,
    /// Shortest wait between two polls, whatever DPS says.
    pub poll_min: Duration,
    /// Longest wait between two polls, whatever DPS says.
    pub poll_max: Duration,
    /// Longest time for one request and its answer.
    pub request_timeout: Duration,
    /// Longest time for a whole registration.
    pub total_timeout: Duration,
    /// A registration that DPS works on for longer makes room for others, and waits on aside.
    pub slow_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll_default: Duration::from_secs(2),
            poll_min: Duration::from_secs(1),
            poll_max: Duration::from_secs(15),
            request_timeout: Duration::from_secs(20),
            total_timeout: Duration::from_secs(90),
            slow_after: Duration::from_secs(5),
        }
    }
}

/// What DPS assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::devices) struct Registration {
    /// Host, or `host:port`.
    pub(in crate::devices) hub: String,
    /// The device's id there.
    pub(in crate::devices) device_id: String,
}

/// All DPS instances that are configured, with what they have in common.
#[derive(Debug)]
pub(in crate::devices) struct DpsClient {
    http: reqwest::Client,
    permits: Semaphore,
    /// For registrations that take long.
    aside: Semaphore,
    holds: Holds,
    pace: Pace,
    clock: Clock,
}

/// One registration under way.
struct Attempt<'a> {
    scope: &'a DpsScope,
    registration_id: &'a str,
    token: String,
    expiry_s: u64,
    body: String,
}

/// What came back, with what tells whether our clock is to blame.
struct Answered {
    answer: Answer,
    after: Option<Duration>,
    status: u16,
    /// DPS's own time.
    date_ms: Option<i64>,
}

impl DpsClient {
    pub(in crate::devices) fn new(
        http: reqwest::Client,
        max_registrations: usize,
        pace: Pace,
        clock: Clock,
    ) -> Self {
        let semaphore = |places: usize| Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS));
        let (permits, aside) =
            (semaphore(max_registrations), semaphore(max_registrations.saturating_mul(ASIDE)));
        Self { http, permits, aside, holds: Holds::default(), pace, clock }
    }

    /// Registers a device, or asks for its registration if DPS has it already. `registration_id` is in lower
    /// case. Waits for one of the permits; returns at once while the endpoint is held back.
    pub(in crate::devices) async fn register(
        &self,
        scope: &DpsScope,
        registration_id: &str,
        model_id: Option<&str>,
    ) -> Result<Registration, ResolveError> {
        let endpoint = scope.endpoint.authority();
        self.held(endpoint)?;
        let Ok(permit) = self.permits.acquire().await else {
            return Err(ResolveError::Retry { detail: "registrations are closed".to_owned(), after: None });
        };
        // Others may have seen the endpoint fail meanwhile.
        self.held(endpoint)?;
        let attempt = Attempt::new(scope, registration_id, model_id, self.clock.forward_ms());
        match timeout(self.pace.total_timeout, self.converse(&attempt, permit)).await {
            Ok(result) => result,
            Err(_) => Err(ResolveError::Retry {
                detail: format!("DPS {endpoint} did not finish within {:?}", self.pace.total_timeout),
                after: None,
            }),
        }
    }

    fn held(&self, endpoint: &str) -> Result<(), ResolveError> {
        match self.holds.check(endpoint) {
            None => Ok(()),
            Some((left, cause)) => Err(ResolveError::Retry {
                detail: format!("registrations at DPS {endpoint} are held back: {cause}"),
                after: Some(left),
            }),
        }
    }

    async fn converse<'s>(
        &'s self,
        attempt: &Attempt<'_>,
        permit: SemaphorePermit<'s>,
    ) -> Result<Registration, ResolveError> {
        let endpoint = attempt.scope.endpoint.authority();
        let slow_from = Instant::now() + self.pace.slow_after;
        // Holds whichever it is.
        let (mut fresh, mut _aside) = (Some(permit), None);
        let mut operation: Option<String> = None;
        loop {
            let (step, request) = match &operation {
                None => (Step::Register, attempt.register(&self.http)),
                Some(id) => (Step::Poll, attempt.poll(&self.http, id)),
            };
            let (answer, after) = match timeout(self.pace.request_timeout, self.exchange(step, request)).await
            {
                Ok(Ok(answered)) => self.judged(attempt, answered),
                Ok(Err(error)) => (unreachable(endpoint, &causes(&error.without_url())), None),
                Err(_) => (unreachable(endpoint, "no answer in time"), None),
            };
            if !matches!(answer, Answer::Retry { reach: Reach::Endpoint, .. }) {
                self.holds.works(endpoint);
            }
            match answer {
                Answer::Assigned { hub, device_id } => return Ok(Registration { hub, device_id }),
                Answer::Refused { detail } => {
                    return Err(ResolveError::Park { reason: ParkReason::NotAssigned, detail });
                }
                Answer::Retry { detail, reach: Reach::Device } => {
                    return Err(ResolveError::Retry { detail, after });
                }
                Answer::Retry { detail, reach: Reach::Endpoint } => {
                    let begins = self.holds.check(endpoint).is_none();
                    let wait = self.holds.failed(endpoint, after, &detail);
                    if begins {
                        let delay_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                        warn!(endpoint, delay_ms, error = %detail, "DPS does not serve; registrations wait.");
                    }
                    return Err(ResolveError::Retry { detail, after: Some(wait) });
                }
                Answer::Wait { operation_id } => {
                    let wait = after.unwrap_or(self.pace.poll_default);
                    sleep(wait.min(self.pace.poll_max).max(self.pace.poll_min)).await;
                    operation = Some(operation_id);
                    if fresh.is_some() && Instant::now() >= slow_from {
                        // Devices whose registration never ends must not hold up those whose does.
                        let Ok(place) = self.aside.try_acquire() else {
                            let detail = format!("DPS {endpoint} still works on it, as on many others");
                            return Err(ResolveError::Retry { detail, after: None });
                        };
                        _aside = Some(place);
                        fresh = None;
                    }
                }
            }
        }
    }

    async fn exchange(
        &self,
        step: Step,
        request: reqwest::RequestBuilder,
    ) -> Result<Answered, reqwest::Error> {
        let mut response = request.send().await?;
        let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
        let date_ms = date.and_then(answer::http_date_ms);
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| answer::retry_after(value, date_ms.unwrap_or_else(|| self.clock.now_ms())));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                let detail = format!("DPS answered with more than {MAX_ANSWER_BYTES} bytes");
                let answer = Answer::Retry { detail, reach: Reach::Endpoint };
                return Ok(Answered { answer, after, status: response.status().as_u16(), date_ms });
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status().as_u16();
        Ok(Answered { answer: answer::read(step, status, &body), after, status, date_ms })
    }

    /// A refused token that had expired by DPS's own clock is our clock's fault, not the device's: from now on we go by
    /// DPS's time, and the device is tried again.
    fn judged(&self, attempt: &Attempt<'_>, answered: Answered) -> (Answer, Option<Duration>) {
        let Answered { answer, after, status, date_ms } = answered;
        let Some(date_ms) = date_ms.filter(|date_ms| status == 401 && attempt.has_expired_by(*date_ms))
        else {
            return (answer, after);
        };
        let endpoint = attempt.scope.endpoint.authority();
        let behind_s = (date_ms - self.clock.now_ms()) / 1000;
        let before_ms = self.clock.forward_ms();
        let detail = format!(
            "DPS {endpoint} refuses our token as expired: this machine's clock is {behind_s} s behind DPS's; set it"
        );
        if self.clock.trust_ms(date_ms) - before_ms >= NOTABLE_MS {
            warn!(
                endpoint,
                behind_s,
                "This machine's clock is behind that of DPS; tokens now follow DPS's. Set the clock."
            );
        }
        (Answer::Retry { detail, reach: Reach::Device }, after)
    }
}

impl<'a> Attempt<'a> {
    fn has_expired_by(&self, now_ms: i64) -> bool {
        u64::try_from(now_ms / 1000).is_ok_and(|now_s| now_s >= self.expiry_s)
    }

    fn new(scope: &'a DpsScope, registration_id: &'a str, model_id: Option<&str>, now_ms: i64) -> Self {
        let key: SigningKey = derive_device_key(&scope.group_key, registration_id);
        let resource = format!("{}/registrations/{registration_id}", scope.id_scope);
        let expiry_s = u64::try_from(now_ms / 1000).unwrap_or(0) + TOKEN_LIFE_S;
        let mut body = json!({ "registrationId": registration_id });
        if let Some(model_id) = model_id {
            body["payload"] = json!({ "modelId": model_id });
        }
        Self {
            scope,
            registration_id,
            expiry_s,
            token: sas::sign(&resource, &key, expiry_s, Some("registration")),
            body: body.to_string(),
        }
    }

    fn register(&self, http: &reqwest::Client) -> reqwest::RequestBuilder {
        http.put(self.scope.endpoint.register(&self.scope.id_scope, self.registration_id))
            .header(AUTHORIZATION, &self.token)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .body(self.body.clone())
    }

    fn poll(&self, http: &reqwest::Client, operation_id: &str) -> reqwest::RequestBuilder {
        http.get(self.scope.endpoint.operation(&self.scope.id_scope, self.registration_id, operation_id))
            .header(AUTHORIZATION, &self.token)
    }
}

fn unreachable(endpoint: &str, cause: &str) -> Answer {
    Answer::Retry { detail: format!("DPS {endpoint} can't be reached: {cause}"), reach: Reach::Endpoint }
}
