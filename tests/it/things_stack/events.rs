//! Events about downlinks from the bodies that The Things Stack posts, the golden ones and their looser relatives.

use std::path::Path;

use tti_connector::things_stack::{DownlinkEvent, DownlinkState, Kind, NamedDownlink, NamedPayload};

fn golden(name: &str) -> Option<DownlinkEvent> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("payloads").join(name);
    DownlinkEvent::parse(&std::fs::read(path).expect("a payload")).expect("valid")
}

fn parse(body: &str) -> Option<DownlinkEvent> {
    DownlinkEvent::parse(body.as_bytes()).expect(body)
}

fn named(f_port: u8, f_cnt: u32, confirmed: bool, ids: &[&str]) -> NamedDownlink {
    let correlation_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    NamedDownlink { correlation_ids, f_port, f_cnt, confirmed, payload: NamedPayload::Nothing }
}

fn with_bytes(named: NamedDownlink) -> NamedDownlink {
    NamedDownlink { payload: NamedPayload::Bytes, ..named }
}

fn ids(event: &DownlinkEvent) -> Vec<&str> {
    event.downlinks.iter().flat_map(|downlink| &downlink.correlation_ids).map(String::as_str).collect()
}

#[test]
fn each_golden_event_is_read_whole() {
    let c2d = "c2d:4f1b9a60";
    for (name, state, f_cnt, own, top, received_ms) in [
        (
            "queued",
            DownlinkState::Queued,
            0,
            "01JP8TCA25NP4SHRSN0FY0W6DJ",
            "01JPQ8ERZ19FM5VBVZMNPRNA5R",
            1_741_934_998_003,
        ),
        (
            "sent",
            DownlinkState::Sent,
            41,
            "01JPB787WCWJY53BPT71S6AWD2",
            "01JP5F9G4G557X1CNX35V6783B",
            1_741_935_152_640,
        ),
        (
            "ack",
            DownlinkState::Ack,
            41,
            "01JP059C59720Q8NBTVGVNAH0C",
            "01JPJ7X9ZYVYE85AFP2TG786XV",
            1_741_935_451_502,
        ),
        (
            "nack",
            DownlinkState::Nack,
            41,
            "01JPAEE6X112MZZVW16TYZ0MTZ",
            "01JPZGERVE62CZ5S4DY3CMAFTY",
            1_741_935_451_503,
        ),
    ] {
        let event = golden(&format!("downlink_{name}.json")).expect(name);
        let (own, top) = (format!("as:downlink:{own}"), format!("as:downlink:{top}"));
        assert_eq!(
            event,
            DownlinkEvent {
                state,
                downlinks: vec![with_bytes(named(20, f_cnt, true, &[c2d, &own, &top]))],
                error: None,
                received_ms: Some(received_ms),
            }
        );
    }
    assert_eq!(
        golden("downlink_failed.json").expect("failed"),
        DownlinkEvent {
            state: DownlinkState::Failed,
            downlinks: vec![with_bytes(named(
                20,
                41,
                true,
                &[c2d, "as:downlink:01JPZTQSTYN278A4EV81YPHS77", "as:downlink:01JPMW13534TN5JXYMQM6CV6HV"],
            ))],
            error: Some("pkg/applicationserver:max_retries: maximum number of retries reached".to_owned()),
            received_ms: None,
        }
    );
    assert_eq!(
        golden("downlink_queue_invalidated.json").expect("invalidated"),
        DownlinkEvent {
            state: DownlinkState::Invalidated,
            downlinks: vec![
                with_bytes(named(20, 41, false, &[c2d, "as:downlink:01JP17Q10851C11RSQ25ZQVTJ1"])),
                with_bytes(named(20, 42, true, &[c2d, "as:downlink:01JPABZ2NRTH7ZK050ZYNMEMG8"])),
            ],
            error: None,
            received_ms: Some(1_741_935_331_120),
        }
    );
}

#[test]
fn other_kinds_and_joins_that_invalidate_nothing_are_no_events() {
    for name in [
        "join_accept.json",
        "uplink_message.json",
        "uplink_normalized.json",
        "location_solved.json",
        "service_data.json",
        "unknown.json",
    ] {
        assert_eq!(golden(name), None, "{name}");
    }
    for body in [
        "{}",
        r#"{"downlink_ack":null,"correlation_ids":["a"]}"#,
        r#"{"join_accept":{"invalidated_downlinks":[]}}"#,
        r#"{"join_accept":{"invalidated_downlinks":null}}"#,
        r#"{"downlink_queue_invalidated":{}}"#,
        r#"{"downlink_ack":{"correlation_ids":["a"]},"uplink_message":{"f_port":1}}"#,
    ] {
        assert_eq!(parse(body), None, "{body}");
    }
}

#[test]
fn ids_are_found_in_either_place_nested_first_and_each_once() {
    for (body, expected) in [
        (
            r#"{"correlation_ids":["top"],"downlink_failed":{"downlink":{"correlation_ids":["own"]}}}"#,
            &["own", "top"][..],
        ),
        (
            r#"{"downlink_failed":{"error":{},"downlink":{"correlation_ids":["own"]}},"correlation_ids":["top","own"]}"#,
            &["own", "top"],
        ),
        // A failure of the Network Server has at the top what it was doing only.
        (
            r#"{"downlink_failed":{"downlink":{"correlation_ids":["own"]}},"correlation_ids":["ns:x"]}"#,
            &["own", "ns:x"],
        ),
        (r#"{"downlink_failed":{"downlink":{}},"correlation_ids":["top"]}"#, &["top"]),
        (r#"{"downlink_failed":{},"correlation_ids":["top"]}"#, &["top"]),
        (
            r#"{"downlink_failed":{"correlation_ids":["misplaced"],"downlink":null},"correlation_ids":["top"]}"#,
            &["top"],
        ),
        (r#"{"downlink_sent":{},"correlation_ids":["top"]}"#, &["top"]),
        (r#"{"downlink_ack":{"correlation_ids":["own",null,"",7,["x"]]},"correlation_ids":null}"#, &["own"]),
        (
            r#"{"correlation_ids":["gs:up"],"join_accept":{"invalidated_downlinks":[{"correlation_ids":["one"]}]}}"#,
            &["one", "gs:up"],
        ),
        (
            r#"{"correlation_ids":["gs:up"],"join_accept":{"invalidated_downlinks":[{"correlation_ids":["one"]},null,{"correlation_ids":["two"]}]}}"#,
            &["one", "two"],
        ),
    ] {
        assert_eq!(ids(&parse(body).expect(body)), expected, "{body}");
    }
}

#[test]
fn a_join_that_invalidates_is_read_as_invalidation() {
    let event = parse(
        r#"{"received_at":"2026-03-01T12:00:00Z","join_accept":{"session_key_id":"AQ==","received_at":"2020-01-01T00:00:00Z",
        "invalidated_downlinks":[{"f_port":3,"correlation_ids":["tti-connector:00"]}]}}"#,
    )
    .expect("an event");
    assert_eq!(event.state, DownlinkState::Invalidated);
    assert_eq!(event.downlinks, [named(3, 0, false, &["tti-connector:00"])]);
    assert_eq!(event.received_ms, Some(1_772_366_400_000));
    assert!(event.names_ours());
    assert!(
        !parse(r#"{"downlink_ack":{"correlation_ids":["x:tti-connector:00"]}}"#)
            .expect("an event")
            .names_ours()
    );
}

#[test]
fn loose_values_are_read_as_in_uplinks() {
    let event = parse(
        "\u{feff}{\"received_at\":\"0001-01-01T00:00:00Z\",\"downlink_nack\":{\"f_port\":\"20\",\"f_cnt\":\"41\",\
         \"confirmed\":null,\"frm_payload\":[{}],\"f_cnt\":42.0}}",
    );
    let expected = DownlinkEvent {
        state: DownlinkState::Nack,
        downlinks: vec![named(20, 42, false, &[])],
        error: None,
        received_ms: None,
    };
    assert_eq!(event, Some(expected));
}

#[test]
fn a_payload_is_seen_as_bytes_as_json_alone_or_not_at_all() {
    use NamedPayload::{Bytes, Decoded, Nothing};
    for (fields, expected) in [
        ("", Nothing),
        (r#""frm_payload":"""#, Nothing),
        (r#""frm_payload":null,"decoded_payload":null"#, Nothing),
        (r#""decoded_payload":{}"#, Decoded),
        (r#""frm_payload":"","decoded_payload":{"a":1}"#, Decoded),
        (r#""decoded_payload":{"a":1},"frm_payload":"AQ==""#, Bytes),
        (r#""frm_payload":"AQ==","decoded_payload":{"a":1}"#, Bytes),
    ] {
        let event = parse(&format!(r#"{{"downlink_queued":{{{fields}}}}}"#)).expect("an event");
        assert_eq!(event.downlinks[0].payload, expected, "{fields}");
    }
}

#[test]
fn the_error_is_in_words_cut_and_cleaned() {
    for (error, expected) in [
        (r#"{"namespace":"ns","name":"n","message_format":"m"}"#, Some("ns:n: m")),
        (r#"{"name":"n"}"#, Some("n")),
        (r#"{"message_format":"only\u0007 this\n"}"#, Some("only this")),
        (r#"{"namespace":7,"message_format":{"a":1},"cause":{"message_format":"inner"}}"#, None),
        ("{}", None),
        ("null", None),
    ] {
        let event = parse(&format!(r#"{{"downlink_failed":{{"error":{error}}}}}"#)).expect("failed");
        assert_eq!(event.error.as_deref(), expected, "{error}");
    }
    let long = format!(r#"{{"downlink_failed":{{"error":{{"name":"{}"}}}}}}"#, "ü".repeat(10_000));
    assert_eq!(parse(&long).expect("failed").error.expect("text").chars().count(), 300);
}

#[test]
fn what_has_the_wrong_type_is_named_and_not_quoted() {
    for (body, what) in [
        ("", "EOF while parsing a value"),
        ("null", "the body must be a JSON object, not null"),
        (r#"{"downlink_ack":"hush"}"#, "a downlink must be a JSON object"),
        (r#"{"downlink_ack":{"f_port":256}}"#, "a downlink's f_port must be at most 255"),
        (
            r#"{"downlink_ack":{"f_cnt":"hush"}}"#,
            "a downlink's f_cnt must be a whole number from 0 to 4294967295",
        ),
        (r#"{"downlink_ack":{"confirmed":"hush"}}"#, "a downlink's confirmed must be true or false"),
        (r#"{"downlink_ack":{"correlation_ids":"hush"}}"#, "correlation_ids must be a JSON list"),
        (r#"{"downlink_ack":{"correlation_ids":{"hush":1}}}"#, "correlation_ids must be a JSON list"),
        (r#"{"downlink_failed":{"downlink":["hush"]}}"#, "a downlink must be a JSON object"),
        (r#"{"join_accept":{"invalidated_downlinks":true}}"#, "a list of downlinks must be a JSON list"),
    ] {
        let error = DownlinkEvent::parse(body.as_bytes()).expect_err(body);
        assert_eq!(error.what, what, "{body}");
    }
}

#[test]
fn ten_thousand_levels_are_skipped_in_every_place() {
    for deep in [
        format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000)),
    ] {
        let body = format!(
            r#"{{"x":{deep},"uplink_normalized":null,"downlink_failed":{{"x":{deep},"error":{{"attributes":{deep},"name":{deep},"cause":{deep}}},
            "downlink":{{"decoded_payload":{deep},"correlation_ids":[{deep},"own"]}}}}}}"#
        );
        let event = parse(&body).expect("failed");
        assert_eq!((ids(&event), &event.error), (vec!["own"], &None));
        let list = format!(r#"{{"join_accept":{{"invalidated_downlinks":{deep}}}}}"#);
        assert!(DownlinkEvent::parse(list.as_bytes()).is_err());
    }
}

#[test]
fn lists_are_read_to_a_limit() {
    let many = format!(r#"{{"downlink_queue_invalidated":{{"downlinks":[{}{{}}]}}}}"#, "{},".repeat(20_000));
    assert_eq!(parse(&many).expect("an event").downlinks.len(), 10_000);
    let many = format!(r#"{{"downlink_ack":{{"correlation_ids":[{}"z"]}}}}"#, r#""a","#.repeat(20_000));
    assert_eq!(ids(&parse(&many).expect("an event")).len(), 100);
}

#[test]
fn every_kind_about_downlinks_is_an_event_and_no_other() {
    for kind in Kind::ALL {
        let about = kind.as_str().starts_with("downlink_") && kind != Kind::DownlinkQueueInvalidated;
        let body = format!(r#"{{"{kind}":{{}},"correlation_ids":["tti-connector:00"]}}"#);
        assert_eq!(parse(&body).is_some_and(|event| event.names_ours()), about, "{kind}");
    }
}

#[test]
fn a_body_cut_off_anywhere_is_an_error_and_no_panic() {
    for name in ["downlink_failed.json", "downlink_queue_invalidated.json", "downlink_ack.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("payloads").join(name);
        let body = std::fs::read(path).expect("a payload");
        let whole = body.trim_ascii_end();
        for length in 0..whole.len() {
            DownlinkEvent::parse(&whole[..length]).expect_err("cut off");
        }
        assert!(DownlinkEvent::parse(whole).is_ok());
    }
}
