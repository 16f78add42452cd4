//! What the cloud is told, in words and bytes.

use serde_json::{Value, json};
use tti_connector::downlink::ReportState;
use tti_connector::things_stack::{Envelope, Kind};

use super::*;

fn report() -> Report {
    Report {
        id: id("m"),
        device: device("cellar"),
        dev_eui: Some("70B3D57ED005A1C1".to_owned()),
        source: Source::CloudMessage,
        correlation: "order 7 \u{e9}".to_owned(),
        state: ReportState::Failed,
        reason: Some("gave up".to_owned()),
        f_port: 20,
        f_cnt: Some(41),
        confirmed: true,
        at_ms: NOW_MS + 7,
    }
}

#[test]
fn a_report_becomes_telemetry_of_kind_downlink() {
    let telemetry = report().to_telemetry();
    let body: Value = serde_json::from_slice(&telemetry.body).unwrap();
    let expected = json!({
        "Kind": "downlink", "State": "failed", "CorrelationId": "order 7 \u{e9}", "ApplicationID": "vineyard",
        "DeviceID": "cellar", "DeviceEUI": "70B3D57ED005A1C1", "Port": 20, "Confirmed": true, "FrameCounter": 41,
        "Source": "c2d", "Reason": "gave up", "ReceivedAtUtc": "2027-01-15T08:00:00.007Z",
    });
    assert_eq!(body, expected);
    let expected = [
        ("iothub-creation-time-utc", "2027-01-15T08:00:00.007Z"),
        ("ApplicationId", "vineyard"),
        ("DeviceEUI", "70B3D57ED005A1C1"),
        ("DeviceId", "cellar"),
        ("kind", "downlink"),
        ("State", "failed"),
        ("CorrelationId", "order 7 \u{e9}"),
    ];
    assert_eq!(telemetry.properties, expected.map(|(name, value)| (name, value.to_owned())));
    assert_eq!(telemetry.correlation_id.as_deref(), Some("order 7 \u{e9}"));
    assert_eq!(telemetry.message_id.len(), 32);
    assert!(telemetry.message_id.bytes().all(|byte| byte.is_ascii_hexdigit()), "no dashes");
}

#[test]
fn what_is_unknown_is_left_out() {
    let bare = Report { dev_eui: None, reason: None, f_cnt: None, ..report() };
    let telemetry = bare.to_telemetry();
    let body: Value = serde_json::from_slice(&telemetry.body).unwrap();
    for absent in ["DeviceEUI", "Reason", "FrameCounter"] {
        assert!(body.get(absent).is_none(), "{absent}");
    }
    assert!(telemetry.properties.iter().all(|(name, _)| *name != "DeviceEUI"));
    assert_eq!(Report::from_stored(&bare.to_stored()), Some(bare));
}

#[test]
fn a_stored_report_comes_back_and_nothing_else_passes_for_one() {
    let stored = report().to_stored();
    assert_eq!(Report::from_stored(&stored), Some(report()));
    // The pump reads all stored messages alike: this is one of no known kind, which the webhook never keeps.
    assert_eq!(Envelope::parse(&stored).unwrap().kind, Kind::Unknown);
    let mut forged: serde_json::Map<String, Value> = serde_json::from_slice(&stored).unwrap();
    forged.insert("downlink_ack".to_owned(), json!({}));
    assert_eq!(Report::from_stored(&serde_json::to_vec(&forged).unwrap()), None);
    let newer = String::from_utf8(stored.to_vec()).unwrap().replacen(":1,", ":2,", 1);
    assert_eq!(Report::from_stored(newer.as_bytes()), None);
    for body in ["", "{}", "null", "{\"tti_connector_downlink_report\":1}", "\u{1e}{}"] {
        assert_eq!(Report::from_stored(body.as_bytes()), None, "{body}");
    }
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/payloads")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            assert_eq!(Report::from_stored(&std::fs::read(&path).unwrap()), None, "{}", path.display());
        }
    }
}

#[test]
fn the_same_report_has_the_same_id_whenever_it_is_made() {
    let again = Report { at_ms: 0, reason: None, dev_eui: None, ..report() };
    assert_eq!(again.dedup(), report().dedup());
    assert_eq!(again.to_telemetry().message_id, report().to_telemetry().message_id);
    for other in [
        Report { id: id("n"), ..report() },
        Report { state: ReportState::Nack, ..report() },
        Report { f_cnt: Some(42), ..report() },
        Report { f_cnt: None, ..report() },
    ] {
        assert_ne!(other.dedup(), report().dedup());
    }
}

#[tokio::test]
async fn an_events_report_tells_what_the_entry_and_the_event_know() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    let new = NewEntry { source: Source::Method, ..confirmed("m") };
    assert_eq!(begun(&ledger, new.clone()).await, Begun::New);
    let mut failed = event(DownlinkState::Failed, &["m"]);
    failed.received_ms = Some(NOW_MS - 5);
    failed.downlinks[0].f_port = 0;
    let cellar = device("cellar");
    let expected = Report {
        id: id("m"),
        device: cellar.clone(),
        dev_eui: Some("70B3D57ED005A1C1".to_owned()),
        source: Source::Method,
        correlation: "m".to_owned(),
        state: ReportState::Failed,
        reason: Some("pkg/applicationserver:max_retries: gave up".to_owned()),
        f_port: 20,
        f_cnt: Some(41),
        confirmed: true,
        at_ms: NOW_MS - 5,
    };
    // Of an open one, an ended one, and one that only the disk knows.
    for _ in 0..3 {
        let reports = ledger.reports(&cellar, Some("70b3d57ed005a1c1"), &failed, NOW_MS).await.unwrap();
        assert_eq!(reports, std::slice::from_ref(&expected));
        ledger.witness(&cellar, &failed).await.unwrap();
    }
    failed.received_ms = None;
    let reports = disk.load().await.reports(&cellar, Some("no EUI"), &failed, NOW_MS).await.unwrap();
    assert_eq!(reports, [Report { dev_eui: None, at_ms: NOW_MS, ..expected }]);
    disk.kept().failing = true;
    assert!(ledger.reports(&cellar, None, &failed, NOW_MS).await.is_err(), "it can't be told yet");
}

#[tokio::test]
async fn a_queued_payload_that_no_formatter_made_bytes_of_is_reported_as_empty() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, entry("m")).await, Begun::New);
    for (state, payload, warned) in [
        (DownlinkState::Queued, NamedPayload::Decoded, true),
        (DownlinkState::Queued, NamedPayload::Bytes, false),
        (DownlinkState::Queued, NamedPayload::Nothing, false),
        (DownlinkState::Sent, NamedPayload::Decoded, false),
    ] {
        let mut queued = event(state, &["m"]);
        queued.downlinks[0].payload = payload;
        let report = ledger.reports(&device("cellar"), None, &queued, NOW_MS).await.unwrap().remove(0);
        let reason = report.reason.unwrap_or_default();
        assert_eq!(reason.starts_with("the payload is empty"), warned, "{state:?} {payload:?}: {reason}");
    }
}

#[tokio::test]
async fn a_rejected_request_is_reported_once_with_its_reason_and_stays_rejected() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    let long = "x".repeat(5000);
    let invalid = NewEntry { f_port: 0, ..entry("invalid") };
    ledger.reject(&invalid, &long).await.unwrap();
    assert_eq!(begun(&ledger, entry("refused")).await, Begun::New);
    ledger.reject(&entry("refused"), "no such device").await.unwrap();
    for _ in 0..2 {
        ledger.reject(&entry("refused"), "another reason").await.unwrap();
    }
    assert_eq!(disk.states(), ["invalid rejected", "refused rejected"]);
    assert_eq!(disk.kept().reports[0].reason.as_ref().map(String::len), Some(1000));
    assert_eq!(disk.kept().reports[0].f_port, 0);
    for ledger in [ledger, disk.load().await] {
        assert_eq!(ledger.open(), 0);
        let begun = begun(&ledger, entry("refused")).await;
        assert_eq!(begun, Begun::Ended(End::Rejected("no such device".to_owned())));
    }
    let journal = disk.kept().journal.clone();
    let expected = ["put refused pushing", "post refused rejected", "put refused ended:rejected"];
    assert_eq!(journal[journal.len() - 3..], expected);
}

#[tokio::test]
async fn an_entry_that_cant_be_read_is_kept_and_its_request_not_pushed() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, entry("newer")).await, Begun::New);
    drop(ledger);
    let key = id("newer").to_string();
    let newer = br#"{"v":2,"what":"ever"}"#.to_vec();
    disk.kept().rows.insert(key.clone(), (newer.clone(), i64::MAX));
    disk.kept().rows.insert("no id".to_owned(), (b"\xff".to_vec(), i64::MAX));
    let ledger = disk.load().await;
    assert_eq!(ledger.open(), 0);
    let refused = ledger.begin(entry("newer")).await.unwrap_err();
    assert!(refused.0.contains("newer version"), "{refused}");
    let ack = event(DownlinkState::Ack, &["newer"]);
    assert_eq!(ledger.reports(&device("cellar"), None, &ack, NOW_MS).await.unwrap(), []);
    assert_eq!(disk.kept().rows[&key].0, newer);
}
