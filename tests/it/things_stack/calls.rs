//! What the client sends, byte for byte, and what it reads of good answers.

use serde_json::json;
use tti_connector::model::{EndDevice, Secret};
use tti_connector::things_stack::{
    Access, ClassBC, ClientOptions, Downlink, GatewayAntenna, Operation, Payload, Priority, QueuedDownlink,
};

use super::server::{DEADLINE, Server, access, answer, client, device, downlink};

#[tokio::test]
async fn a_push_is_the_documented_request_at_the_webhooks_path() {
    let server = Server::start(|_| answer(200, "")).await;
    server.client().push(&access(), &device("cellar"), Operation::Push, &downlink()).await.expect("queued");
    let request = server.last();
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/api/v3/as/applications/house/webhooks/azure/devices/cellar/down/push")
    );
    assert_eq!(request.header("authorization"), Some("Bearer NNSXS.KEY"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(
        request.body,
        r#"{"downlinks":[{"f_port":20,"frm_payload":"AQ8=","confirmed":true,"priority":"NORMAL","correlation_ids":["tti-connector:00"]}]}"#
    );
}

#[tokio::test]
async fn the_lowest_priority_is_written_too_and_other_zero_values_are_not() {
    let server = Server::start(|_| answer(200, "{}")).await;
    let payload = json!({"led": {"on": true}, "text": "Öl \"1\""});
    let decoded = Downlink {
        f_port: 223,
        payload: Payload::Decoded(payload.as_object().expect("an object").clone()),
        confirmed: false,
        priority: Priority::Lowest,
        class_b_c: None,
        correlation_ids: Vec::new(),
    };
    let client = server.client();
    client.push(&access(), &device("cellar"), Operation::Replace, &decoded).await.expect("queued");
    assert_eq!(
        server.last().target,
        "/api/v3/as/applications/house/webhooks/azure/devices/cellar/down/replace"
    );
    assert_eq!(
        server.last().body,
        r#"{"downlinks":[{"f_port":223,"decoded_payload":{"led":{"on":true},"text":"Öl \"1\""},"priority":"LOWEST"}]}"#
    );

    let timed = Downlink {
        payload: Payload::Raw(Vec::new()),
        class_b_c: Some(ClassBC {
            gateways: vec![
                GatewayAntenna { gateway_id: "tower".to_owned(), antenna_index: 0, group_index: 0 },
                GatewayAntenna { gateway_id: "barn".to_owned(), antenna_index: 1, group_index: 2 },
            ],
            absolute_time: Some("2026-03-01T12:00:00Z".to_owned()),
        }),
        ..decoded
    };
    client.push(&access(), &device("cellar"), Operation::Push, &timed).await.expect("queued");
    assert_eq!(
        server.last().body,
        r#"{"downlinks":[{"f_port":223,"frm_payload":"","priority":"LOWEST","class_b_c":{"gateways":[{"gateway_ids":{"gateway_id":"tower"}},{"gateway_ids":{"gateway_id":"barn"},"antenna_index":1,"group_index":2}],"absolute_time":"2026-03-01T12:00:00Z"}}]}"#
    );
}

#[tokio::test]
async fn the_base_path_stays_ids_keep_their_case_and_no_webhook_is_needed() {
    let server = Server::start(|_| answer(200, "")).await;
    let options = ClientOptions {
        base_url: Some(format!("{}/The/Stack/", server.url())),
        request_timeout: DEADLINE,
        max_in_flight: 1,
    };
    let access = Access::new(Secret::new("NNSXS.KEY"), None);
    let shouting = EndDevice::new("", "House", "a/B ü?").expect("valid");
    client(options).push(&access, &shouting, Operation::Push, &downlink()).await.expect("queued");
    assert_eq!(
        server.last().target,
        "/The/Stack/api/v3/as/applications/House/devices/a%2FB%20%C3%BC%3F/down/push"
    );
}

#[tokio::test]
async fn clearing_replaces_by_nothing() {
    let server = Server::start(|_| answer(200, "")).await;
    server.client().clear(&access(), &device("cellar")).await.expect("cleared");
    let request = server.last();
    assert!(request.target.ends_with("/devices/cellar/down/replace"), "{}", request.target);
    assert_eq!(request.body, r#"{"downlinks":[]}"#);
}

#[tokio::test]
async fn a_queue_is_listed_as_the_api_writes_it() {
    let body = r#"{"downlinks":[
        {"session_key_id":"AQ==","f_port":20,"f_cnt":41,"frm_payload":"AQ8=","confirmed":true,"priority":"NORMAL",
         "correlation_ids":["tti-connector:00","as:downlink:1"],"class_b_c":{"gateways":[{}]}},
        {},
        {"f_port":"7","f_cnt":3.0,"decoded_payload":{"led":{"on":true}},"confirmed":null,"new":[[]]}]}"#;
    let server = Server::start(move |_| answer(200, body)).await;
    let client = server.client();
    let queue = client.queue(&access(), &device("cellar")).await.expect("listed");
    let request = server.last();
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("GET", "/api/v3/as/applications/house/devices/cellar/down")
    );
    assert_eq!(request.header("authorization"), Some("Bearer NNSXS.KEY"));
    let first = QueuedDownlink {
        correlation_ids: vec!["tti-connector:00".to_owned(), "as:downlink:1".to_owned()],
        f_port: 20,
        f_cnt: 41,
        frm_payload: "AQ8=".to_owned(),
        decoded_payload: None,
        confirmed: true,
        priority: "NORMAL".to_owned(),
    };
    let third = QueuedDownlink {
        f_port: 7,
        f_cnt: 3,
        decoded_payload: json!({"led": {"on": true}}).as_object().cloned(),
        ..QueuedDownlink::default()
    };
    assert_eq!(queue, [first, QueuedDownlink::default(), third]);

    for empty in ["{}", r#"{"downlinks":[]}"#, r#"{"downlinks":null}"#] {
        server.script(move |_| answer(200, empty));
        assert_eq!(client.queue(&access(), &device("cellar")).await, Ok(Vec::new()), "{empty}");
    }
}

#[tokio::test]
async fn a_hundred_calls_share_a_few_connections_and_all_arrive() {
    let server = Server::start(|_| answer(200, "")).await;
    let client = server.client_with(DEADLINE, 4);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..100 {
        let client = client.clone();
        calls.spawn(async move {
            client.push(&access(), &device(&format!("d{n}")), Operation::Push, &downlink()).await
        });
    }
    while let Some(result) = calls.join_next().await {
        result.expect("no panic").expect("queued");
    }
    assert_eq!(server.requests().len(), 100);
}
