//! Fuzz targets: messages about downlinks, answers of the API, and offers of keys. Calls nothing.

use bytes::Bytes;

use super::answer::{self, Call};
use super::{ApiError, Downlink, storage};
use super::{
    CORRELATION_PREFIX, DownlinkEvent, DownlinkOffer, Envelope, KeyOptions, Keys, Learnt, Operation, Trim,
    listing, offered_url, request, trim_gateways,
};
use crate::model::EndDevice;
use crate::model::fuzzing::{fit_to_show, head_and_body, is_json};

/// The envelope, trimming and events agree on what a message is, within their limits.
pub(crate) fn message(body: &[u8]) {
    match Envelope::parse(body) {
        Ok(envelope) => {
            let device = EndDevice::new("", "application", "device").expect("two good ids");
            assert_eq!(envelope.dedup_key(&device, body), envelope.dedup_key(&device, body));
            for trim in Trim::STEPS {
                if let Ok(less) = trim_gateways(body, trim) {
                    assert!(is_json(&less) && Envelope::parse(&less).is_ok(), "trimming broke a message");
                }
            }
        }
        Err(error) => fit_to_show(&error.to_string(), 300),
    }
    event(body);
}

/// Reads an event.
pub(crate) fn event(body: &[u8]) -> Option<DownlinkEvent> {
    match DownlinkEvent::parse(body) {
        Ok(event) => {
            let event = event?;
            assert!(event.downlinks.len() <= 10_000);
            assert!(event.downlinks.iter().all(|downlink| downlink.correlation_ids.len() <= 200));
            assert!(event.error.as_ref().is_none_or(|error| error.chars().count() <= 300));
            let ours = |id: &String| id.starts_with(CORRELATION_PREFIX);
            assert!(
                !event.names_ours() || event.downlinks.iter().any(|d| d.correlation_ids.iter().any(ours))
            );
            Some(event)
        }
        Err(error) => {
            fit_to_show(&error.to_string(), 300);
            None
        }
    }
}

/// The first line is status, `r` or `w`, and what `Retry-After` says; the body the answer's.
pub(crate) fn answers(data: &[u8]) {
    let (lines, body) = head_and_body(data);
    let mut words = lines.first().copied().unwrap_or_default().splitn(3, ' ');
    let status = words.next().and_then(|status| status.parse().ok()).unwrap_or(500);
    let call = if words.next() == Some("w") { Call::Write } else { Call::Read };
    let after = words.next().and_then(answer::seconds);
    assert!(after.is_none_or(|after| (1..=600).contains(&after.as_secs())), "{after:?}");
    let (ApiError::NotNow { detail, .. } | ApiError::Unsure { detail } | ApiError::Refused { detail, .. }) =
        answer::read(call, status, after, body);
    assert!(detail.chars().count() <= 600 && !detail.chars().any(char::is_control), "{detail}");
    match listing::queue(body) {
        Ok(queue) => {
            assert!(queue.len() <= 10_000 && queue.iter().all(|queued| queued.correlation_ids.len() <= 100))
        }
        Err(error) => fit_to_show(&error.to_string(), 300),
    }
    if let Err(error) = listing::taken(body, "tti-connector:0") {
        fit_to_show(&error.to_string(), 300);
    }
}

/// An offer is believed only for the configured address and just this device, and a believed one is the same again.
pub(crate) fn offer(device: &EndDevice, offer: DownlinkOffer<'_>) {
    let base_url = Some("https://eu1.cloud.thethings.network/sub".to_owned());
    let options =
        KeyOptions { base_url, allowed_hosts: vec!["au1.example:8443".to_owned()], ..KeyOptions::default() };
    let keys = Keys::new(options).expect("good addresses");
    match keys.learn(device, offer) {
        Learnt::New => {
            let url = offer.push.or(offer.replace).expect("believed without a URL");
            let url = offered_url::parse(url).expect("believed, but not read");
            let port = url.port_or_known_default();
            let place = (url.scheme(), url.host_str(), port);
            assert!(
                place == ("https", Some("eu1.cloud.thethings.network"), Some(443))
                    || (place.1, port) == (Some("au1.example"), Some(8443)),
                "{url}"
            );
            let access = keys.access(device).expect("learnt");
            assert_eq!(access.key.reveal(), offer.api_key);
            assert_eq!(keys.learn(device, offer), Learnt::Known);
        }
        Learnt::Ignored(_) => assert!(keys.access(device).is_none()),
        learnt @ (Learnt::Renewed | Learnt::Known) => panic!("{learnt:?} at first sight"),
    }
}

/// As the API would get it.
pub(crate) fn body_of(downlink: &Downlink, operation: Operation) -> String {
    assert!(["push", "replace"].contains(&operation.as_str()));
    request::downlinks(&[downlink])
}

/// An answer of the Storage Integration: the same rows however it is cut, each of them an object. The first byte says how.
pub(crate) fn stored_rows(data: &[u8]) -> Vec<Bytes> {
    let Some((piece, answer)) = data.split_first() else { return Vec::new() };
    let whole = storage::page_of(answer, answer.len().max(1));
    match (whole, storage::page_of(answer, usize::from(*piece).max(1))) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!((&whole.rows, whole.bad), (&pieces.rows, pieces.bad));
            assert!(whole.rows.iter().all(|row| row.starts_with(b"{") && is_json(row)));
            whole.rows
        }
        (Err(whole), Err(pieces)) => {
            assert_eq!(whole, pieces);
            assert!(whole.to_string().chars().count() <= 600, "{whole}");
            Vec::new()
        }
        (whole, pieces) => panic!("{whole:?} at once, {pieces:?} in pieces"),
    }
}
