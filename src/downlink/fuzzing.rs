//! Fuzz targets: what the cloud sends becomes downlinks, and what is known of them goes to disk and back. Waits for
//! nothing.

use std::sync::LazyLock;

use super::translate::{self, ApplicationRules, Invalid, Request, Rules};
use super::{EntryId, Report};
use crate::azure::CloudMessage;
use crate::config::{self, Command};
use crate::model::fuzzing::{field, head_and_body};
use crate::things_stack::{MAX_PAYLOAD_BYTES, Payload};
use crate::uplink;

pub(crate) use super::desired::fuzzing::desired;
pub(crate) use super::ledger::fuzzing::events;

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let reboot = Command {
        port: Some(5),
        confirmed: Some(true),
        priority: Some("high".to_owned()),
        queue: Some("replace".to_owned()),
        payload: Some("{\"delay\":1}".to_owned()),
    };
    let config = config::Downlink {
        port: Some(10),
        methods: [("reboot".to_owned(), reboot), ("plain".to_owned(), Command::default())].into(),
        properties: [("interval".to_owned(), Command { port: Some(7), ..Command::default() })].into(),
        ..config::Downlink::default()
    };
    Rules::new(&config).expect("good rules")
});
static PORTLESS: LazyLock<Rules> =
    LazyLock::new(|| Rules::new(&config::Downlink::default()).expect("the defaults"));

pub(super) fn rules() -> [&'static ApplicationRules; 2] {
    [RULES.application("application"), PORTLESS.application("application")]
}

/// The head holds application properties, the body is the message's.
pub(crate) fn cloud_message(data: &[u8]) -> Vec<Request> {
    let (lines, body) = head_and_body(data);
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let properties = lines.iter().filter_map(|line| field(line)).map(own).collect();
    let message = CloudMessage { properties, body: body.to_vec().into(), ..CloudMessage::default() };
    let requests = rules().map(|rules| translate::cloud_message(&message, rules));
    requests.into_iter().filter_map(checked).collect()
}

/// The first line is the method's name, the body its payload.
pub(crate) fn method(data: &[u8]) -> Vec<Request> {
    let (lines, payload) = head_and_body(data);
    let name = lines.first().copied().unwrap_or_default();
    let mut requests = Vec::new();
    for rules in rules() {
        let calls = [
            Some(translate::downlink_method(payload, rules)),
            translate::named_method(name, payload, rules).transpose(),
        ];
        for call in calls.into_iter().flatten() {
            if let Ok(wait) = call.as_ref().map(|call| call.wait) {
                assert!(
                    wait.and_then(|wait| wait.limit).is_none_or(|limit| (1..=290).contains(&limit.as_secs()))
                );
            }
            requests.extend(checked(call.map(|call| call.request)));
        }
    }
    requests
}

/// A request that any device could get, or a reason that its sender may read.
pub(super) fn checked(request: Result<Request, Invalid>) -> Option<Request> {
    match request {
        Ok(request) => {
            assert!((1..=223).contains(&request.downlink.f_port));
            match &request.downlink.payload {
                Payload::Raw(bytes) => assert!(bytes.len() <= MAX_PAYLOAD_BYTES),
                Payload::Decoded(fields) => assert!(serde_json::to_vec(fields).is_ok()),
            }
            Some(request)
        }
        Err(invalid) => {
            let reason = invalid.to_string();
            assert!(reason.chars().count() <= 600 && !reason.chars().any(char::is_control), "{reason}");
            None
        }
    }
}

/// Rows of the ledger, of desired properties and of reports: they say the same when written again.
pub(crate) fn row(json: &[u8]) {
    super::ledger::fuzzing::row(json);
    super::desired::fuzzing::row(json);
    if let Some(report) = Report::from_stored(json) {
        assert_eq!(Report::from_stored(&report.to_stored()).as_ref(), Some(&report));
        // Only our own rows get this far, and these keep to IoT Hub's limit.
        if json.len() < 16 * 1024
            && !control_characters(&report)
            && (0..4_102_444_800_000).contains(&report.at_ms)
        {
            uplink::fuzzing::assert_sound(&report.to_telemetry());
        }
    }
    if let Ok(text) = std::str::from_utf8(json)
        && let Some(id) = EntryId::parse(text)
    {
        assert_eq!(EntryId::parse(&id.correlation_id()), Some(id));
    }
}

fn control_characters(report: &Report) -> bool {
    let texts = [Some(&report.correlation), report.dev_eui.as_ref()];
    texts.into_iter().flatten().any(|text| text.chars().any(char::is_control))
}
