//! Direct methods from the service's call to the radio and back.

use serde_json::{Value, json};
use tti_connector::config::{Command, Config};
use tti_connector::emulator::things_stack::{Calls, Class, Fault, Uplink};

use super::kit::{Stage, name};

fn reset(config: &mut Config) {
    let reset = Command {
        port: Some(7),
        confirmed: Some(true),
        payload: Some(r#"{"reboot":true}"#.to_owned()),
        ..Command::default()
    };
    config.downlink.methods.insert("reset".to_owned(), reset);
}

async fn stage() -> Stage {
    let stage = Stage::with(reset).await;
    stage.meet("valve").await;
    stage.stack().set_formatter(&name("valve"), true).expect("a device");
    stage
}

fn correlation(answer: &Value) -> &str {
    answer["correlationId"].as_str().expect("every call that asks for a downlink has one")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downlink_is_queued_and_its_reports_carry_the_id_that_the_caller_was_told() {
    let stage = stage().await;
    let wish = json!({"port": 12, "hex": "0a0b", "confirmed": true, "priority": "high"});
    let (status, answer) = stage.call("valve", "downlink", &wish).await;
    assert_eq!((status, &answer["status"]), (200, &json!("queued")), "{answer}");
    let pushed = stage.pushed();
    assert_eq!(
        (&pushed[0]["f_port"], &pushed[0]["frm_payload"], &pushed[0]["priority"]),
        (&json!(12), &json!("Cgs="), &json!("HIGH"))
    );
    stage.hello("valve");
    stage.hello("valve");
    let acked = stage.reported(correlation(&answer), &["queued", "sent", "ack"]).await;
    assert_eq!((&acked["Source"], &acked["Port"]), (&json!("method"), &json!(12)));
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_wait_for_sent_or_confirmed_and_is_told_when_time_is_up() {
    let stage = stage().await;
    // Class A: it will not be sent while the caller waits.
    let wish = json!({"port": 1, "payload": "AQ==", "wait": "sent", "waitSeconds": 1});
    let (status, answer) = stage.call("valve", "downlink", &wish).await;
    assert_eq!((status, &answer["status"]), (202, &json!("queued")), "{answer}");
    stage.set_class("valve", Class::C);
    stage.reported(correlation(&answer), &["queued", "sent"]).await;
    let wish = json!({"port": 1, "payload": "AQ==", "wait": "sent"});
    let (status, answer) = stage.call("valve", "downlink", &wish).await;
    assert_eq!((status, &answer["status"]), (200, &json!("sent")), "{answer}");
    let wish = json!({"port": 1, "payload": "AQ==", "confirmed": true, "wait": "confirmed"});
    let heard = async {
        stage.until(|| (stage.told("downlink_sent").len() == 3).then_some(())).await;
        stage.hello("valve");
    };
    let ((status, answer), ()) = tokio::join!(stage.call("valve", "downlink", &wish), heard);
    assert_eq!((status, &answer["status"]), (200, &json!("confirmed")), "{answer}");
    let wish = json!({"port": 1, "hex": "01", "confirmed": true, "wait": "confirmed", "waitSeconds": 1});
    let (status, answer) = stage.call("valve", "downlink", &wish).await;
    assert_eq!((status, &answer["status"]), (202, &json!("sent")), "{answer}");
    for _ in 0..8 {
        stage.uplink("valve", Uplink { ack: Some(false), ..Uplink::default() });
    }
    let failed =
        || stage.reports(correlation(&answer)).into_iter().find(|report| report["State"] == "failed");
    stage.until(failed).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_listed_and_cleared_and_who_waited_in_it_hears_of_it() {
    let stage = stage().await;
    stage.send("valve", "message", &[("Port", "3")], r#"{"open":1}"#);
    stage.reported("message", &["queued"]).await;
    let (_, called) = stage.call("valve", "downlink", &json!({"port": 4, "payload": "AQ=="})).await;
    let (status, listed) = stage.call("valve", "downlinkQueue", &Value::Null).await;
    assert_eq!((status, listed["downlinks"].as_array().map(Vec::len)), (200, Some(2)), "{listed}");
    let first = &listed["downlinks"][0];
    assert_eq!((&first["port"], &first["decoded"]), (&json!(3), &json!({"open": 1})), "{listed}");
    assert_eq!(first["priority"], "NORMAL");
    let (status, cleared) = stage.call("valve", "clearDownlinkQueue", &Value::Null).await;
    assert_eq!((status, &cleared["status"]), (200, &json!("cleared")));
    assert!(stage.stack().queue(&name("valve")).is_empty());
    for id in ["message", correlation(&called)] {
        let report = stage.reported(id, &["queued", "replaced"]).await;
        assert_eq!(report["Reason"], "the direct method clearDownlinkQueue emptied the queue");
    }
    let (status, listed) = stage.call("valve", "downlinkQueue", &Value::Null).await;
    assert_eq!((status, &listed["downlinks"]), (200, &json!([])));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_method_sends_its_template_or_what_the_caller_gives() {
    let stage = stage().await;
    for (payload, sent) in [
        (Value::Null, json!({"reboot": true})),
        (json!({"reboot": "later"}), json!({"reboot": "later"})),
        (json!(5), json!({"reset": 5})),
    ] {
        let (status, answer) = stage.call("valve", "reset", &payload).await;
        assert_eq!(status, 200, "{answer}");
        let last = stage.pushed().pop().expect("it was pushed");
        assert_eq!((&last["f_port"], &last["confirmed"]), (&json!(7), &json!(true)), "{payload}");
        assert_eq!(last["decoded_payload"], sent, "{payload}");
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_done_is_answered_with_why() {
    let stage = stage().await;
    let (status, answer) = stage.call("valve", "explode", &json!({})).await;
    assert_eq!((status, &answer["status"]), (404, &json!("unknownMethod")));
    assert_eq!(answer["methods"], json!(["downlink", "downlinkQueue", "clearDownlinkQueue", "reset"]));
    for (payload, named) in [
        (json!({"payload": "AQ=="}), "port is missing"),
        (json!({"port": 224, "payload": "AQ=="}), "port is 224: it must be a whole number from 1 to 223"),
        (json!({"port": 1}), "payload is missing"),
        (json!({"port": 1, "payload": "AQ==", "hex": "01"}), "give exactly one of"),
        (json!({"port": 1, "hex": "xyz"}), "hexadecimal"),
        (json!({"port": 1, "payload": "AQ==", "confirmd": true}), "\"confirmd\" is unknown"),
        (json!({"port": 1, "payload": "AQ==", "priority": "urgent"}), "priority is \"urgent\""),
        (json!({"port": 1, "payload": "AQ==", "wait": "confirmed"}), "set confirmed to true"),
        (json!("AQ=="), "a JSON object"),
        (Value::Null, "a JSON object"),
    ] {
        let (status, answer) = stage.call("valve", "downlink", &payload).await;
        let told = answer["message"].as_str().unwrap_or_default();
        assert!(status == 400 && told.contains(named), "{payload}: {status} {answer}");
        assert_eq!(answer["status"], "invalid", "{payload}");
    }
    let wish = json!({"port": 1, "payload": "AQ=="});
    for (code, expected, state) in [
        (400, 422, "refused"),
        (401, 502, "refused"),
        (404, 404, "refused"),
        (406, 503, "unavailable"),
        (500, 504, "unknown"),
        (429, 429, "busy"),
    ] {
        stage.fault(Fault { status: Some(code), calls: Calls::Write, ..Fault::default() });
        let (status, answer) = stage.call("valve", "downlink", &wish).await;
        assert_eq!((status, &answer["status"]), (expected, &json!(state)), "{code}: {answer}");
        let told = answer["message"].as_str().unwrap_or_default();
        assert!(told.contains(&format!("The Things Stack answered {code}")) || code == 500, "{code}: {told}");
        if code == 429 {
            assert_eq!(answer["retryAfter"], 1);
        }
        stage.stack().clear_faults();
    }
    assert_eq!(stage.pushed(), Vec::<Value>::new());
    stage.end().await;
}
