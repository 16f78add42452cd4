//! Every refusal: its status, its headers, and what it tells the sender to do.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tti_connector::webhook::{StoreError, Stored};

use super::desk::{Desk, read, send, uplink};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).expect("to memory");
    encoder.finish().expect("to memory")
}

#[tokio::test]
async fn other_paths_are_404_and_other_methods_405() {
    let desk = Desk::open().await;
    for path in ["/", "/webhooks", "/api/webhook", "/Webhook"] {
        for method in ["POST", "GET"] {
            assert_eq!(read(send(desk.request(method, path)).await).await.0, 404, "{method} {path}");
        }
    }
    for (method, path) in [("GET", "/webhook"), ("PUT", "/webhook/up"), ("DELETE", "/webhook/")] {
        let response = send(desk.request(method, path)).await;
        assert_eq!(response.headers()["allow"], "POST", "{method} {path}");
        assert_eq!(read(response).await.0, 405, "{method} {path}");
    }
    assert_eq!(desk.metric("tti_connector_webhook_refused_requests_total{status=\"404\"}"), 8);
    assert_eq!(desk.metric("tti_connector_webhook_refused_requests_total{status=\"405\"}"), 3);
}

#[tokio::test]
async fn json_in_any_media_type_passes_and_nothing_else() {
    let mut desk = Desk::open().await;
    for json in ["application/json", "application/json; charset=utf-8", "Application/vnd.tts+JSON"] {
        let request = desk.request("POST", "/webhook").header("content-type", json).body(uplink(1));
        assert_eq!(read(send(request).await).await.0, 202, "{json}");
    }
    assert_eq!(read(send(desk.request("POST", "/webhook").body(uplink(1))).await).await.0, 202);
    while desk.kept.try_recv().is_ok() {}
    for other in ["application/octet-stream", "application/x-protobuf", "text/plain", "x", &"y".repeat(4000)]
    {
        let request = desk.request("POST", "/webhook").header("content-type", other).body(uplink(1));
        let (status, body) = read(send(request).await).await;
        assert_eq!(status, 415, "{other}");
        assert!(body["detail"].as_str().expect("text").contains("choose the webhook format JSON"), "{body}");
    }
    desk.assert_nothing_kept();
}

#[tokio::test]
async fn gzip_is_inflated_and_other_encodings_are_415() {
    let mut desk = Desk::open().await;
    for encoding in ["gzip", "X-GZIP"] {
        let request = desk.post(gzip(uplink(1).as_bytes())).header("content-encoding", encoding);
        assert_eq!(read(send(request).await).await.0, 202, "{encoding}");
        assert_eq!(desk.next_kept().await.body, uplink(1));
    }
    let request = desk.post(uplink(1)).header("content-encoding", "identity");
    assert_eq!(read(send(request).await).await.0, 202);
    for encoding in ["br", "deflate", "gzip, gzip"] {
        let response = send(desk.post(uplink(1)).header("content-encoding", encoding)).await;
        assert_eq!(response.headers()["accept-encoding"], "gzip, identity");
        assert_eq!(read(response).await.0, 415, "{encoding}");
    }
    let (status, body) = read(send(desk.post(uplink(1)).header("content-encoding", "gzip")).await).await;
    assert_eq!((status, &body["type"]), (400, &"urn:tti-connector:problem:not_gzip".into()));
}

#[tokio::test]
async fn a_body_of_the_limit_passes_and_one_byte_more_is_413() {
    let body = uplink(1);
    let limit = body.len() as u64;
    let mut desk = Desk::with(|options| options.max_body_bytes = limit).await;
    let longer = body.clone() + " ";
    assert_eq!(read(send(desk.post(body.clone())).await).await.0, 202);
    assert_eq!(desk.next_kept().await.body, body);

    let (status, answer) = read(send(desk.post(longer.clone())).await).await;
    assert_eq!(status, 413);
    assert!(answer["detail"].as_str().expect("text").contains("webhook.max_body_bytes"), "{answer}");
    let request = desk.post(gzip(longer.as_bytes())).header("content-encoding", "gzip");
    assert_eq!(read(send(request).await).await.0, 413);
    let request = desk.post(gzip(body.as_bytes())).header("content-encoding", "gzip");
    assert_eq!(read(send(request).await).await.0, 202);
    assert_eq!(desk.next_kept().await.body, body);
}

#[tokio::test]
async fn a_gzip_bomb_is_413() {
    let mut desk = Desk::open().await;
    let bomb = gzip(&vec![b' '; 100_000_000]);
    assert!(bomb.len() < 200_000);
    let request = desk.post(bomb).header("content-encoding", "gzip");
    assert_eq!(read(send(request).await).await.0, 413);
    desk.assert_nothing_kept();
}

#[tokio::test]
async fn malformed_json_is_400_and_says_where() {
    let mut desk = Desk::open().await;
    for (body, place) in [
        ("", "line 1"),
        ("{\"a\":1,\n\"b\" 2}", "line 2, column 5"),
        ("not json", "line 1"),
        ("{\"uplink_message\":\n\n7}", "line 3"),
        ("[1,", "line 1"),
    ] {
        let (status, answer) = read(send(desk.post(body)).await).await;
        assert_eq!((status, &answer["title"]), (400, &"Bad Request".into()), "{body}");
        assert!(answer["detail"].as_str().expect("text").contains(place), "{body}: {answer}");
    }
    let (status, _) = read(send(desk.post(b"{\"a\":\"\xff\"}".to_vec())).await).await;
    assert_eq!(status, 400);
    desk.assert_nothing_kept();
}

#[tokio::test]
async fn an_uplink_without_ids_is_400_and_names_the_field_mask() {
    let mut desk = Desk::open().await;
    let long = format!(r#"{{"device_id":"{}","application_ids":{{"application_id":"a"}}}}"#, "d".repeat(300));
    for (ids, part) in [
        ("null", "application_id is empty"),
        (r#"{"application_ids":{"application_id":"a"}}"#, "device_id is empty"),
        (r#"{"device_id":"d","application_ids":{}}"#, "application_id is empty"),
        (r#"{"device_id":"\u0007","application_ids":{"application_id":"a"}}"#, "control character"),
        (&long, "device_id is longer than"),
    ] {
        let body = format!(r#"{{"end_device_ids":{ids},"uplink_message":{{"f_port":1}}}}"#);
        let (status, answer) = read(send(desk.post(body)).await).await;
        let detail = answer["detail"].as_str().expect("text");
        assert_eq!(status, 400, "{ids}");
        assert!(detail.contains(part) && detail.contains("field mask"), "{detail}");
    }
    for body in [r"{}", r#"{"hello":"world"}"#] {
        let (status, answer) = read(send(desk.post(body)).await).await;
        assert_eq!(
            (status, &answer["type"]),
            (400, &"urn:tti-connector:problem:no_message".into()),
            "{body}"
        );
    }
    let request = desk.post(uplink(1)).header("x-tts-domain", "x".repeat(300));
    let (status, answer) = read(send(request).await).await;
    assert_eq!((status, &answer["type"]), (400, &"urn:tti-connector:problem:tenant".into()));
    desk.assert_nothing_kept();
}

#[tokio::test]
async fn what_the_spool_refuses_is_503_with_the_time_to_come_back() {
    let desk = Desk::open().await;
    for (error, code, seconds) in [
        (StoreError::Full, "spool_full", "30"),
        (StoreError::ParkedFull { application: "house".into() }, "parked_full", "300"),
        (StoreError::Unavailable, "spool_unavailable", "30"),
    ] {
        desk.answer(Err(error));
        let response = send(desk.post(uplink(1))).await;
        assert_eq!(response.headers()["retry-after"], seconds, "{code}");
        let (status, body) = read(response).await;
        assert_eq!(status, 503, "{code}");
        assert_eq!(body["type"], format!("urn:tti-connector:problem:{code}"));
    }
    assert_eq!(desk.metric("tti_connector_webhook_stored_messages_total"), 0);
    assert_eq!(desk.metric("tti_connector_webhook_refused_requests_total{status=\"503\"}"), 3);
    assert_eq!(read(send(desk.post(uplink(1))).await).await.0, 202);
}

#[tokio::test]
async fn a_message_posted_again_is_answered_2xx() {
    let desk = Desk::open().await;
    desk.answer(Ok(Stored::Duplicate(None)));
    let answer = read(send(desk.post(uplink(1))).await).await;
    assert_eq!(answer, (202, serde_json::json!({"status": "duplicate"})));
    assert_eq!(desk.metric("tti_connector_webhook_duplicate_messages_total"), 1);
    assert_eq!(desk.metric("tti_connector_webhook_stored_messages_total"), 0);
}
