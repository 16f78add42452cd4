//! Messages about downlinks of ours are kept, and API keys that headers offer are passed on.

use super::desk::{Desk, read, send, uplink};

const IDS: &str = r#""end_device_ids":{"device_id":"cellar","application_ids":{"application_id":"house"}}"#;
const OURS: &str = r#""correlation_ids":["as:downlink:1","tti-connector:0123456789abcdef0123456789abcdef"]"#;
const URL: &str = "https://tts.example/api/v3/as/applications/house/webhooks/azure/devices/cellar/down";

#[tokio::test]
async fn events_of_our_downlinks_are_kept_whole() {
    let mut desk = Desk::open().await;
    for message in [
        format!(r#"{{{IDS},"downlink_queued":{{{OURS}}}}}"#),
        format!(r#"{{{IDS},"downlink_sent":{{{OURS}}}}}"#),
        format!(r#"{{{IDS},"downlink_ack":{{{OURS}}}}}"#),
        format!(r#"{{{IDS},"downlink_nack":{{}},{OURS}}}"#),
        format!(r#"{{{IDS},"downlink_failed":{{"downlink":{{{OURS}}}}}}}"#),
        format!(r#"{{{IDS},"downlink_queue_invalidated":{{"downlinks":[{{}},{{{OURS}}}]}}}}"#),
        format!(r#"{{{IDS},"join_accept":{{"invalidated_downlinks":[{{{OURS}}}]}}}}"#),
    ] {
        let answer = read(send(desk.post(message.clone()).header("x-tts-domain", "eu1")).await).await;
        assert_eq!(answer, (202, serde_json::json!({"status": "stored"})), "{message}");
        let kept = desk.next_kept().await;
        assert_eq!(
            (kept.device.to_string().as_str(), &kept.body[..]),
            ("eu1/house/cellar", message.as_bytes())
        );
        assert!(kept.about_downlinks && kept.dedup.is_some(), "{message}");
    }
    assert_eq!(desk.metric("tti_connector_webhook_stored_messages_total"), 7);
}

#[tokio::test]
async fn events_of_others_downlinks_are_counted_and_answered_2xx() {
    let mut desk = Desk::open().await;
    let messages = [
        format!(r#"{{{IDS},"downlink_ack":{{"correlation_ids":["c2d:1"]}}}}"#),
        format!(r#"{{{IDS},"join_accept":{{"session_key_id":"AQ=="}}}}"#),
        // Our prefix is there, but names no downlink of ours.
        format!(r#"{{{IDS},"downlink_ack":{{"correlation_ids":["x-tti-connector:00"]}}}}"#),
        format!(r#"{{{IDS},"downlink_ack":{{"decoded_payload":{{"a":"tti-connector:00"}}}}}}"#),
        format!(r#"{{{IDS},"join_accept":{{}},{OURS}}}"#),
        r#"{"downlink_sent":{"correlation_ids":["tti-connecto"]}}"#.to_owned(),
    ];
    for message in &messages {
        let (status, answer) = read(send(desk.post(message.clone())).await).await;
        assert_eq!((status, &answer["reason"]), (202, &"no_downlink_of_ours".into()), "{message}");
    }
    for kind in ["uplink_normalized", "location_solved", "service_data"] {
        let message = format!(r#"{{{IDS},"{kind}":{{{OURS}}},{OURS}}}"#);
        let (status, answer) = read(send(desk.post(message)).await).await;
        assert_eq!((status, &answer["reason"]), (202, &"no_telemetry".into()), "{kind}");
    }
    desk.assert_nothing_kept();
    let ignored = "tti_connector_webhook_ignored_messages_total{reason=\"no_downlink_of_ours\"}";
    assert_eq!(desk.metric(ignored), messages.len() as u64);
}

#[tokio::test]
async fn two_events_of_one_downlink_are_two_messages_and_one_posted_again_is_one() {
    let mut desk = Desk::open().await;
    let mut keys = Vec::new();
    for (kind, f_cnt) in
        [("downlink_nack", 1), ("downlink_nack", 2), ("downlink_sent", 1), ("downlink_nack", 1)]
    {
        let message = format!(r#"{{{IDS},"{kind}":{{"f_cnt":{f_cnt},"session_key_id":"AQ==",{OURS}}}}}"#);
        send(desk.post(message)).await;
        keys.push(desk.next_kept().await.dedup.expect("a key"));
    }
    assert_eq!(keys[0], keys[3]);
    assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
}

#[tokio::test]
async fn an_event_of_ours_without_a_device_or_with_a_wrong_type_is_400() {
    let mut desk = Desk::open().await;
    for (message, problem) in [
        (format!(r#"{{"downlink_ack":{{{OURS}}}}}"#), "end_device_ids"),
        (format!(r#"{{{IDS},"downlink_ack":{{"f_cnt":"x",{OURS}}}}}"#), "malformed_json"),
    ] {
        let (status, answer) = read(send(desk.post(message)).await).await;
        assert_eq!(status, 400);
        assert_eq!(answer["type"], format!("urn:tti-connector:problem:{problem}"));
    }
    desk.assert_nothing_kept();
}

#[tokio::test]
async fn the_key_in_the_headers_is_passed_on_with_every_kind_of_message() {
    let mut desk = Desk::open().await;
    let offered = (
        "eu1/house/cellar".to_owned(),
        "NNSXS.K".to_owned(),
        Some(format!("{URL}/push")),
        Some(format!("{URL}/replace")),
    );
    for message in [
        uplink(1),
        format!(r#"{{{IDS},"downlink_ack":{{{OURS}}}}}"#),
        format!(r#"{{{IDS},"join_accept":{{}}}}"#),
        format!(r#"{{{IDS},"location_solved":{{}}}}"#),
    ] {
        let request = desk
            .post(message.clone())
            .header("x-tts-domain", "eu1")
            .header("X-Downlink-Apikey", "NNSXS.K")
            .header("X-Downlink-Push", format!("{URL}/push"))
            .header("X-Downlink-Replace", format!("{URL}/replace"));
        assert_eq!(read(send(request).await).await.0, 202, "{message}");
        assert_eq!(desk.offers(), std::slice::from_ref(&offered), "{message}");
    }
    desk.hold();
    let request = desk.post(uplink(2)).header("x-downlink-apikey", "K").header("x-downlink-push", "u");
    let waiting = tokio::spawn(send(request));
    let began = tokio::time::Instant::now();
    let offers = loop {
        let offers = desk.offers();
        if !offers.is_empty() || began.elapsed() > super::desk::DEADLINE {
            break offers;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(offers, [("house/cellar".to_owned(), "K".to_owned(), Some("u".to_owned()), None)]);
    assert!(!waiting.is_finished(), "the key is known before the message is stored");
    desk.release(1);
    waiting.await.expect("answered");
    for _ in 0..3 {
        desk.next_kept().await;
    }
}

#[tokio::test]
async fn no_key_is_passed_on_without_the_secret_a_device_or_one_meaning() {
    let desk = Desk::with_secrets(&["open sesame"]).await;
    let offering =
        |body: String| desk.post(body).header("x-downlink-apikey", "K").header("x-downlink-push", URL);
    assert_eq!(read(send(offering(uplink(1))).await).await.0, 401);
    let with_secret = |body: String| offering(body).header("x-api-key", "open sesame");
    assert_eq!(read(send(with_secret("{".to_owned())).await).await.0, 400);
    assert_eq!(read(send(with_secret(r#"{"join_accept":{}}"#.to_owned())).await).await.0, 202);
    for (name, value) in [("x-downlink-apikey", "L"), ("x-downlink-push", URL)] {
        assert_eq!(read(send(with_secret(uplink(1)).header(name, value)).await).await.0, 202, "twice {name}");
    }
    let plain = desk.post(uplink(1)).header("x-api-key", "open sesame").header("x-downlink-push", URL);
    assert_eq!(read(send(plain).await).await.0, 202);
    let bytes = reqwest::header::HeaderValue::from_bytes(b"cl\xe9").expect("bytes");
    let no_text = desk.post(uplink(1)).header("x-api-key", "open sesame").header("x-downlink-apikey", bytes);
    assert_eq!(read(send(no_text).await).await.0, 202);
    assert!(desk.offers().is_empty());
    assert_eq!(read(send(with_secret(uplink(1))).await).await.0, 202);
    assert_eq!(desk.offers().len(), 1);
}
