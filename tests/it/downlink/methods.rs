//! Direct methods: what is queued, and what the caller is told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;
use tti_connector::azure::{MethodReply, MethodRequest};
use tti_connector::downlink::{Begun, EntryId, Ledger, Methods, NewEntry, Progress, ReportState, Source};
use tti_connector::things_stack::{
    ApiError, Downlink, DownlinkState, Operation, Payload, Priority, QueuedDownlink,
};

use super::stage::{Stage, device, event, hub_device, rules, until};

struct World {
    stage: Stage,
    ledger: Ledger<Stage, Stage>,
    methods: Methods<Stage, Stage, Stage>,
}

impl World {
    async fn new() -> Self {
        let stage = Stage::new();
        let ledger = stage.ledger().await;
        let methods = Methods::new(stage.clone(), ledger.clone(), rules(), Arc::new(stage.clone()));
        Self { stage, ledger, methods }
    }

    async fn call(&self, name: &str, payload: Value) -> MethodReply {
        let request = MethodRequest {
            id: "6a5f".to_owned(),
            name: name.to_owned(),
            payload: Bytes::from(payload.to_string()),
        };
        self.methods.answer(&device("d"), &hub_device("d"), request).await
    }

    /// Calls, and once the downlink was pushed lets this happen to it.
    async fn call_with(&self, name: &str, payload: Value, states: &[DownlinkState]) -> MethodReply {
        let happens = async {
            until("a push", || !self.stage.now().pushed.is_empty()).await;
            for &state in states {
                self.witness(state).await;
            }
        };
        tokio::join!(self.call(name, payload), happens).0
    }

    async fn witness(&self, state: DownlinkState) {
        let downlink = self.stage.now().pushed[0].2.clone();
        self.ledger.witness(&device("d"), &event(&downlink, state)).await.unwrap();
    }
}

fn says(reply: &MethodReply) -> (i32, &str) {
    (reply.status, reply.payload["status"].as_str().unwrap())
}

/// Else the new one would be the last that was sent, by which The Things Stack tells where the earlier one is.
#[tokio::test(start_paused = true)]
async fn a_downlink_is_pushed_only_once_it_is_known_what_became_of_an_earlier_one_of_its_device() {
    let world = World::new().await;
    let earlier = NewEntry {
        id: EntryId::of(&[b"earlier"]),
        device: device("d"),
        source: Source::Desired,
        correlation: "earlier".to_owned(),
        f_port: 1,
        confirmed: false,
        operation: Operation::Push,
    };
    // It was pushed, and the program ended before the answer came.
    assert_eq!(world.ledger.begin(earlier.clone()).await, Ok(Begun::New));
    let pushed = Downlink {
        f_port: 1,
        payload: Payload::Raw(vec![1]),
        confirmed: false,
        priority: Priority::Normal,
        class_b_c: None,
        correlation_ids: vec![earlier.id.correlation_id()],
    };
    world.stage.now().pushed.push((device("d"), Operation::Push, pushed));

    let payload = json!({"port": 5, "hex": "0102"});
    world.stage.now().api_error = Some(ApiError::Unsure { detail: "no answer".to_owned() });
    assert_eq!(world.call("downlink", payload.clone()).await.status, 503);
    let (pushed, tries) = {
        let now = world.stage.now();
        (now.pushed.len(), now.tries)
    };
    assert_eq!((pushed, tries), (1, 0), "nothing was pushed");

    world.stage.now().api_error = None;
    let another = json!({"port": 6, "hex": "0102"});
    assert_eq!(says(&world.call("downlink", another).await), (200, "queued"));
    assert_eq!(world.ledger.progress(earlier.id).await, Ok(Some(Progress::Queued)));
    assert_eq!(world.stage.now().pushed.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_downlink_is_queued_once_and_its_reports_carry_the_correlation_id_that_was_told() {
    let world = World::new().await;
    let payload = json!({"port": 5, "hex": "0102", "confirmed": true, "queue": "replace"});
    let reply = world.call("downlink", payload.clone()).await;
    assert_eq!(says(&reply), (200, "queued"));
    let told = reply.payload["correlationId"].as_str().unwrap().to_owned();
    let (to, operation, downlink) = world.stage.now().pushed[0].clone();
    assert_eq!((to, operation, downlink.f_port), (device("d"), Operation::Replace, 5));
    assert_eq!(downlink.payload, Payload::Raw(vec![1, 2]));
    assert_eq!(downlink.correlation_ids, [format!("tti-connector:{told}")]);

    let ack = event(&downlink, DownlinkState::Ack);
    world.ledger.witness(&device("d"), &ack).await.unwrap();
    let reports = world.ledger.reports(&device("d"), None, &ack, 0).await.unwrap();
    assert_eq!((reports[0].correlation.as_str(), reports[0].state), (told.as_str(), ReportState::Ack));

    let again = world.call("downlink", payload).await;
    assert_eq!(says(&again), (200, "confirmed"), "the same call, handed out again");
    assert_eq!(world.stage.now().pushed.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_named_method_sends_its_template() {
    let world = World::new().await;
    assert_eq!(says(&world.call("Valve", Value::Null).await), (200, "queued"));
    let (_, _, downlink) = world.stage.now().pushed[0].clone();
    assert_eq!((downlink.f_port, downlink.confirmed), (10, true));
    assert_eq!(downlink.payload, Payload::Decoded(json!({"open": true}).as_object().unwrap().clone()));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_method_names_the_known_ones_and_an_invalid_payload_its_fault() {
    let world = World::new().await;
    let reply = world.call("reboot", Value::Null).await;
    assert_eq!(says(&reply), (404, "unknownMethod"));
    assert_eq!(reply.payload["methods"], json!(["downlink", "downlinkQueue", "clearDownlinkQueue", "valve"]));
    let reply = world.call("downlink", json!({"port": 300, "hex": ""})).await;
    assert_eq!(says(&reply), (400, "invalid"));
    assert_eq!(reply.payload["message"], "port is 300: it must be a whole number from 1 to 223");
    assert_eq!((world.stage.now().tries, world.ledger.open()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_is_told_what_happened_or_that_nothing_did_in_time() {
    use DownlinkState::{Ack, Failed, Nack, Sent};
    let sent = json!({"port": 5, "hex": "", "wait": "sent"});
    let confirmed = json!({"port": 5, "hex": "", "confirmed": true, "wait": "confirmed", "waitSeconds": 200});
    for (payload, states, expected, seconds) in [
        (&sent, &[Sent][..], (200, "sent"), 0),
        (&sent, &[], (202, "queued"), 25),
        (&sent, &[Failed], (502, "failed"), 0),
        (&confirmed, &[Sent, Ack], (200, "confirmed"), 0),
        (&confirmed, &[Sent, Nack], (202, "sent"), 200),
        (&confirmed, &[Sent, Nack, Failed], (502, "failed"), 0),
        (&confirmed, &[], (202, "queued"), 200),
    ] {
        let world = World::new().await;
        let begun = Instant::now();
        let reply = world.call_with("downlink", payload.clone(), states).await;
        assert_eq!(says(&reply), expected, "{states:?}");
        assert_eq!(begun.elapsed().as_secs(), seconds, "{states:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_downlink_another_call_drops_is_told_so() {
    let world = World::new().await;
    let clears = async {
        until("a push", || !world.stage.now().pushed.is_empty()).await;
        assert_eq!(says(&world.call("clearDownlinkQueue", Value::Null).await), (200, "cleared"));
    };
    let waits = world.call("valve", json!({"$wait": "confirmed"}));
    assert_eq!(says(&tokio::join!(waits, clears).0), (409, "replaced"));
    assert_eq!(world.stage.now().reports[0].state, ReportState::Replaced);
}

#[tokio::test(start_paused = true)]
async fn each_answer_of_the_things_stack_has_its_status() {
    let refused = |status| ApiError::Refused { status: Some(status), detail: "because".to_owned() };
    let not_now = |after| ApiError::NotNow { detail: "because".to_owned(), after };
    for (error, status, state) in [
        (refused(400), 422, "refused"),
        (refused(401), 502, "refused"),
        (refused(403), 502, "refused"),
        (refused(404), 404, "refused"),
        (not_now(None), 503, "unavailable"),
        (not_now(Some(Duration::from_secs(3))), 429, "busy"),
    ] {
        let world = World::new().await;
        world.stage.now().push_errors.push_back((error.clone(), false));
        let reply = world.call("valve", Value::Null).await;
        assert_eq!((says(&reply), reply.payload["message"].as_str()), ((status, state), Some("because")));
        assert_eq!(reply.payload["retryAfter"], if status == 429 { json!(3) } else { Value::Null });
        let inner = world.stage.now();
        assert!(inner.pushed.is_empty());
        assert_eq!(
            (inner.reports[0].state, inner.reports[0].reason.as_deref()),
            (ReportState::Rejected, Some("because"))
        );
        drop(inner);
        assert_eq!(world.ledger.open(), 0, "the call is over, {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_without_an_answer_is_looked_for_before_the_caller_is_told() {
    let unsure = || ApiError::Unsure { detail: "time-out".to_owned() };
    let world = World::new().await;
    world.stage.now().push_errors.push_back((unsure(), true));
    assert_eq!(says(&world.call("valve", Value::Null).await), (200, "queued"), "the queue shows it");

    let world = World::new().await;
    world.stage.now().push_errors.push_back((unsure(), true));
    world.stage.now().api_error = Some(unsure());
    let reply = world.call_with("valve", Value::Null, &[DownlinkState::Queued]).await;
    assert_eq!(says(&reply), (200, "queued"), "an event proves it");

    for api_error in [None, Some(unsure())] {
        let world = World::new().await;
        world.stage.now().push_errors.push_back((unsure(), false));
        world.stage.now().api_error = api_error;
        let reply = world.call("valve", Value::Null).await;
        assert_eq!(says(&reply), (504, "unknown"));
        assert_eq!(world.ledger.open(), 1, "an event may still prove it");
        assert_eq!(world.stage.now().tries, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pushed_that_can_t_be_entered() {
    let world = World::new().await;
    world.stage.now().disk_fails = true;
    assert_eq!(says(&world.call("valve", Value::Null).await), (503, "unavailable"));
    assert_eq!(world.stage.now().tries, 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_listed_and_cleared() {
    let world = World::new().await;
    world.stage.now().queue = vec![QueuedDownlink {
        correlation_ids: vec!["mine".to_owned()],
        f_port: 3,
        frm_payload: "AQI=".to_owned(),
        confirmed: true,
        decoded_payload: json!({"a": 1}).as_object().cloned(),
        ..QueuedDownlink::default()
    }];
    let reply = world.call("downlinkQueue", Value::Null).await;
    assert_eq!(says(&reply), (200, "ok"));
    let listed = json!([{
        "port": 3, "payload": "AQI=", "decoded": {"a": 1}, "confirmed": true, "priority": "LOWEST",
        "correlationIds": ["mine"],
    }]);
    assert_eq!(reply.payload["downlinks"], listed);
    assert_eq!(says(&world.call("clearDownlinkQueue", Value::Null).await), (200, "cleared"));
    assert!(world.stage.now().queue.is_empty());
    world.stage.now().api_error =
        Some(ApiError::Refused { status: Some(404), detail: "no device".to_owned() });
    for method in ["downlinkQueue", "clearDownlinkQueue"] {
        assert_eq!(says(&world.call(method, Value::Null).await), (404, "refused"));
    }
}

#[tokio::test(start_paused = true)]
async fn each_downlink_of_a_method_is_counted_once_and_so_is_what_is_refused() {
    let world = World::new().await;
    assert_eq!(world.call("valve", Value::Null).await.status, 200);
    assert_eq!(world.call("valve", Value::Null).await.status, 200, "the same call, handed out again");
    assert_eq!(world.call("downlink", json!({})).await.status, 400);
    let refusal = ApiError::Refused { status: Some(400), detail: "no session".to_owned() };
    world.stage.now().push_errors.push_back((refusal, false));
    assert_eq!(world.call("valve", json!(1)).await.status, 422);
    world.stage.now().push_errors.push_back((ApiError::Unsure { detail: String::new() }, true));
    assert_eq!(world.call("valve", json!(2)).await.status, 200);
    let counted = ["queued method", "rejected method invalid", "rejected method refused", "queued method"];
    assert_eq!(world.stage.now().counted, counted);
}
