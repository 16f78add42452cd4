//! Fuzz target: a whole request to the webhook, from its headers to its answer. Keeps nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::http::{HeaderMap, HeaderName, HeaderValue};

use super::handler::Desk;
use super::secrets::Secrets;
use super::{Intake, NewMessage, StoreError, Stored, prefer};
use crate::config;
use crate::metrics::Metrics;
use crate::model::fuzzing::{PLANTED, field, head_and_body, is_json};
use crate::model::{EndDevice, Secret};
use crate::things_stack::{self, DownlinkOffer};

const LIMIT: u64 = 16 * 1024;
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Remembers what it was given, in bytes of body.
#[derive(Clone, Debug, Default)]
struct Witness(Arc<Mutex<Vec<usize>>>);

impl Intake for Witness {
    async fn store(&self, message: NewMessage) -> Result<Stored, StoreError> {
        assert!(message.dedup.is_some() && !message.device.device_id().is_empty());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.body.len());
        Ok(Stored::New)
    }

    fn downlink_access(&self, device: &EndDevice, offer: DownlinkOffer<'_>) {
        things_stack::fuzzing::offer(device, offer);
    }
}

/// The head holds headers, the body comes in two pieces. Only with the secret anything is stored, never more than the
/// limit, and every answer is one of the table's.
pub(crate) async fn request(data: &[u8]) {
    let (lines, body) = head_and_body(data);
    let mut headers = HeaderMap::new();
    for (name, value) in lines.iter().filter_map(|line| field(line)) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    let wait = prefer::wait(&headers, MAX_WAIT);
    assert!(wait.is_none_or(|wait| !wait.is_zero() && wait <= MAX_WAIT), "{wait:?}");
    let witness = Witness::default();
    let secrets = [Secret::new(PLANTED)];
    let options = config::Webhook { max_body_bytes: LIMIT, max_wait: MAX_WAIT, ..config::Webhook::default() };
    let desk = Desk {
        intake: witness.clone(),
        secrets: Secrets::new(&secrets),
        options,
        metrics: Metrics::new(),
        storing: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    let pieces = body.chunks(body.len() / 2 + 1).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let response = desk.answer(headers.clone(), stream::iter(pieces.collect::<Vec<_>>())).await;
    let status = response.status().as_u16();
    assert!([200, 202, 400, 401, 413, 415].contains(&status), "{status}");
    let stored = witness.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(stored.iter().all(|bytes| *bytes as u64 <= LIMIT) && stored.len() <= 1);
    assert!(stored.is_empty() || status < 300);
    let shown = ["authorization", "x-api-key"].iter().any(|name| headers.contains_key(*name));
    assert!(status == 401 || shown, "{status} without a secret");
    let answer = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    assert!(is_json(&answer) && answer.len() <= 2048, "{} bytes", answer.len());
    // A header that is wrong may be repeated.
    let echoed = ["content-type", "content-encoding"].iter().flat_map(|name| headers.get_all(*name));
    let echoed = echoed.into_iter().any(|value| String::from_utf8_lossy(value.as_bytes()).contains(PLANTED));
    assert!(echoed || !String::from_utf8_lossy(&answer).contains(PLANTED), "shows the secret");
}
