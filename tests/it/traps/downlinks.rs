//! The traps of downlinks, between an emulated hub and an emulated Things Stack.

use serde_json::json;
use tokio::net::TcpListener;
use tti_connector::config::{Command, CompleteOn, Config, ThingsStackApplication};
use tti_connector::emulator::Fate;
use tti_connector::emulator::things_stack::{Calls, Class, DeviceName, Effect, Fault, Uplink};

use crate::messages::uplink;
use crate::way_back::kit::{APPLICATION, Stage, message, name};
use crate::world::Poster;

const PUSH: &[(&str, &str)] = &[("Port", "1")];
const CONFIRMED: &[(&str, &str)] = &[("Port", "1"), ("Confirmed", "true")];

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.meet("valve").await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_a_failure_names_its_downlink_in_either_of_two_places() {
    let stage = stage().await;
    let shapes = [("nested", true, false), ("top", false, true), ("both", true, true)];
    for (number, (shape, nested, at_top)) in shapes.into_iter().enumerate() {
        stage.send("valve", shape, CONFIRMED, "AQ==");
        stage.reported(shape, &["queued"]).await;
        let id = &stage.pushed()[number]["correlation_ids"][0];
        let top = if at_top { json!([id, "ns:downlink:01"]) } else { json!(["ns:downlink:01"]) };
        let mut failed = json!({"downlink": {"f_port": 1}});
        if nested {
            failed["downlink"]["correlation_ids"] = json!([id]);
        }
        failed["error"] =
            json!({"namespace": "pkg/networkserver", "name": "too_late", "message_format": "too late"});
        let event = json!({
            "end_device_ids": {"device_id": "valve", "application_ids": {"application_id": APPLICATION}},
            "correlation_ids": top,
            "downlink_failed": failed,
        });
        assert_eq!(stage.post(&event).await, 202, "{shape}");
        let report = stage.reported(shape, &["queued", "failed"]).await;
        assert_eq!(report["Reason"], "pkg/networkserver:too_late: too late", "{shape}");
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_13_the_queued_event_comes_before_the_answer_of_the_push() {
    let stage = stage().await;
    let late = Fault { delay_ms: 1000, effect: Effect::After, calls: Calls::Write, ..Fault::default() };
    stage.fault(late);
    stage.send("valve", "early", PUSH, "AQ==");
    stage.reported("early", &["queued"]).await;
    let waiting = stage.hub().cloud_queue("valve");
    assert!(waiting.len() == 1 && waiting[0].locked, "the push has no answer yet: {waiting:?}");
    stage.completed("valve").await;
    stage.settled("valve").await;
    stage.reported("early", &["queued", "sent"]).await;
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_14_a_nack_is_not_the_end_and_gives_no_second_downlink() {
    let stage = Stage::with(|config| config.downlink.complete_on = CompleteOn::Confirmed).await;
    stage.meet("valve").await;
    stage.send("valve", "deaf", CONFIRMED, "AQ==");
    let mut states = vec!["queued"];
    stage.reported("deaf", &states).await;
    stage.hello("valve");
    states.push("sent");
    stage.reported("deaf", &states).await;
    let unheard = Uplink { ack: Some(false), ..Uplink::default() };
    for _ in 1..8 {
        stage.uplink("valve", unheard.clone());
        states.extend(["nack", "sent"]);
        stage.reported("deaf", &states).await;
        let waiting = stage.hub().cloud_queue("valve");
        assert!(waiting.len() == 1 && waiting[0].delivery_count == 0, "neither rejected nor abandoned");
    }
    stage.uplink("valve", unheard);
    // The Application Server's word comes before the Network Server's.
    states.extend(["failed", "nack"]);
    let letter = stage.dead("valve", "deaf").await;
    assert_eq!((letter.fate, letter.queued.delivery_count), (Fate::Rejected, 0));
    stage.reported("deaf", &states).await;
    assert_eq!(stage.pushed().len(), 1, "The Things Stack repeated it by itself");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_15_a_message_is_settled_when_queued_and_its_reports_come_hours_and_restarts_later() {
    let stage = stage().await;
    stage.send("valve", "slow", CONFIRMED, "AQ==");
    stage.completed("valve").await;
    stage.reported("slow", &["queued"]).await;
    let stage = stage.restart(|_| {}).await;
    stage.hello("valve");
    stage.reported("slow", &["queued", "sent"]).await;
    let stage = stage.restart(|_| {}).await;
    stage.hello("valve");
    let report = stage.reported("slow", &["queued", "sent", "ack"]).await;
    assert_eq!((&report["Source"], &report["Port"]), (&json!("c2d"), &json!(1)));
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_16_a_downlink_without_priority_is_normal_and_the_lowest_one_only_if_asked() {
    let stage = stage().await;
    let asked = [
        (None, "NORMAL"),
        (Some("normal"), "NORMAL"),
        (Some("Lowest"), "LOWEST"),
        (Some("LOW"), "LOW"),
        (Some("BelowNormal"), "BELOW_NORMAL"),
        (Some("above_normal"), "ABOVE_NORMAL"),
        (Some("High"), "HIGH"),
        (Some("highest"), "HIGHEST"),
    ];
    for (number, (priority, _)) in asked.iter().enumerate() {
        let properties: Vec<_> =
            [PUSH[0]].into_iter().chain(priority.map(|name| ("Priority", name))).collect();
        stage.send("valve", &number.to_string(), &properties, "AQ==");
    }
    stage.completed("valve").await;
    let (status, _) = stage.call("valve", "downlink", &json!({"port": 1, "payload": "AQ=="})).await;
    assert_eq!(status, 200);
    let queued: Vec<_> = stage.stack().pushes().iter().map(|push| push.downlink.priority.as_str()).collect();
    let expected: Vec<_> = asked.iter().map(|(_, name)| *name).chain(["NORMAL"]).collect();
    assert_eq!(queued, expected);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_17_json_without_a_formatter_is_reported_as_an_empty_payload_and_base64_is_checked() {
    let stage = stage().await;
    stage.send("valve", "unformatted", PUSH, r#"{"open":1}"#);
    let report = stage.reported("unformatted", &["queued"]).await;
    let told = report["Reason"].as_str().expect("a reason");
    assert!(told.contains("the payload is empty") && told.contains("formatter"), "{told}");
    stage.stack().set_formatter(&name("valve"), true).expect("a device");
    stage.send("valve", "formatted", PUSH, r#"{"open":1}"#);
    assert!(stage.reported("formatted", &["queued"]).await.get("Reason").is_none());
    stage.send("valve", "empty", PUSH, "");
    assert!(stage.reported("empty", &["queued"]).await.get("Reason").is_none(), "empty as it was sent");
    stage.send("valve", "broken", PUSH, "AQ=A");
    assert!(stage.dead("valve", "broken").await.description.expect("a reason").contains("no base64"));
    assert_eq!(stage.pushed().len(), 3);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_18_a_replace_tells_the_senders_of_what_it_drops() {
    let stage = Stage::with(|config| {
        let reset = Command { port: Some(3), ..Command::default() };
        config.downlink.methods.insert("reset".to_owned(), reset);
    })
    .await;
    for device in ["valve", "other"] {
        stage.meet(device).await;
        for id in ["one", "two"] {
            stage.send(device, &format!("{device}-{id}"), CONFIRMED, "AQ==");
        }
        stage.completed(device).await;
    }
    stage.hello("valve");
    stage.reported("valve-one", &["queued", "sent"]).await;
    stage.send("valve", "third", &[("Port", "1"), ("Queue", "Replace")], "Ag==");
    let report = stage.reported("valve-two", &["queued", "replaced"]).await;
    assert_eq!(report["Reason"], "replaced by third");
    // A command of IoT Central replaces, as the documented connector has it.
    stage.send("valve", "command", &[("method-name", "reset")], "1");
    assert_eq!(stage.reported("third", &["queued", "replaced"]).await["Reason"], "replaced by command");
    let raw = json!({"fPort": 1, "framePayload": "01", "operation": "replace"});
    stage.desire("valve", &json!({ "rawDownlink": raw }));
    stage.acknowledged("valve", "rawDownlink", 202).await;
    stage.reported("command", &["queued", "replaced"]).await;
    let wish = json!({"port": 1, "payload": "AQ==", "queue": "replace"});
    assert_eq!(stage.call("valve", "downlink", &wish).await.0, 200);
    stage.acknowledged("valve", "rawDownlink", 409).await;
    stage.hello("valve");
    // What was sent before goes on, and nobody else's queue was touched.
    stage.reported("valve-one", &["queued", "sent", "ack"]).await;
    for id in ["other-one", "other-two"] {
        stage.reported(id, &["queued"]).await;
    }
    assert_eq!(stage.stack().queue(&name("other")).len(), 2);
    stage.end().await;
}

/// Headers of a webhook request: push, replace, key.
type Offer<'a> = [(&'a str, &'a str); 3];

async fn post_with(stage: &Stage, device: &str, f_cnt: u32, headers: &Offer<'_>) {
    let mut request = Poster::to(&stage.connector).request(&uplink(APPLICATION, device, f_cnt));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.header("x-tts-domain", "localhost").send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_21_keys_are_neither_taken_from_nor_sent_to_forged_addresses() {
    let stage = Stage::with(|config| config.things_stack.applications.clear()).await;
    stage.hub().create_device("valve", None).expect("a device");
    let bait = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at_bait = format!("http://{}", bait.local_addr().expect("an address"));
    let (real, key) = (stage.stack().url().to_owned(), stage.stack().api_key().to_owned());
    let path = |root: &str, application: &str, device: &str| {
        format!("{root}/api/v3/as/applications/{application}/webhooks/w/devices/{device}/down/push")
    };
    let user = real.replace("http://", "http://user@");
    let looks_alike = real.replace("localhost", "localhost.example");
    let forged = [
        path(&at_bait, APPLICATION, "valve"),
        path(&user, APPLICATION, "valve"),
        path(&looks_alike, APPLICATION, "valve"),
        path(&real, "elsewhere", "valve"),
        path(&real, APPLICATION, "other"),
        format!("{}/../../../../evil/down/push", path(&real, APPLICATION, "valve")),
        "//localhost/down/push".to_owned(),
    ];
    let count = u32::try_from(forged.len()).expect("few");
    for (f_cnt, push) in (1..).zip(&forged) {
        let headers =
            [("X-Downlink-Push", push.as_str()), ("X-Downlink-Replace", push), ("X-Downlink-Apikey", &key)];
        post_with(&stage, "valve", f_cnt, &headers).await;
    }
    stage.until(|| (stage.telemetry("valve").len() == forged.len()).then_some(())).await;
    stage.send("valve", "held", PUSH, "AQ==");
    assert!(!stage.hub().takes_cloud_messages("valve"), "no key was learnt");
    // With a key of its own, an application's offers count for nothing, wherever they point.
    let stage = stage.restart(|_| {}).await;
    stage.hello("valve");
    for (f_cnt, push) in (count + 1..).zip(&forged) {
        let headers = [
            ("X-Downlink-Push", push.as_str()),
            ("X-Downlink-Replace", push),
            ("X-Downlink-Apikey", "NNSXS.BAIT"),
        ];
        post_with(&stage, "valve", f_cnt, &headers).await;
    }
    stage.completed("valve").await;
    stage.reported("held", &["queued"]).await;
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
    // All is over: whoever had called would be in the queue by now.
    let called = tokio::time::timeout(std::time::Duration::ZERO, bait.accept()).await;
    assert!(called.is_err(), "the bait was called");
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_22_the_same_device_id_in_two_applications_is_two_devices_with_their_own_downlinks() {
    let both = |config: &mut Config| {
        config.devices.hub_id = "{application_id}:{device_id}".to_owned();
        let key: ThingsStackApplication = config.things_stack.applications[APPLICATION].clone();
        config.things_stack.applications.insert("barn".to_owned(), key);
    };
    let stage = Stage::with(both).await;
    let barn = DeviceName::new("barn", "valve").expect("valid ids");
    for (device, id) in [(&name("valve"), "house:valve"), (&barn, "barn:valve")] {
        stage.hub().create_device(id, None).expect("a device");
        stage.stack().uplink(device, &Uplink::default()).expect("a device");
        stage.until(|| stage.telemetry(id).first().map(drop)).await;
        stage.hub().send_cloud_message(id, message(id, PUSH, "AQ==")).expect("it is taken");
        stage.completed(id).await;
    }
    let pushes: Vec<_> = stage.stack().pushes().into_iter().map(|push| push.device).collect();
    assert_eq!(pushes, [name("valve"), barn.clone()]);
    stage.stack().set_class(&barn, Class::C).expect("a device");
    let sent = stage.reported("barn:valve", &["queued", "sent"]).await;
    assert_eq!((&sent["ApplicationID"], &sent["DeviceID"]), (&json!("barn"), &json!("valve")));
    stage.hello("valve");
    let sent = stage.reported("house:valve", &["queued", "sent"]).await;
    assert_eq!(sent["ApplicationID"], "house");
    stage.reported("barn:valve", &["queued", "sent"]).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_24_bodies_that_are_no_json_are_taken_as_what_they_are() {
    let stage = Stage::with(|config| {
        let payload = Some(r#"{"say":"22 °C"}"#.to_owned());
        config
            .downlink
            .methods
            .insert("say".to_owned(), Command { port: Some(3), payload, ..Command::default() });
    })
    .await;
    stage.meet("valve").await;
    stage.stack().set_formatter(&name("valve"), true).expect("a device");
    let say = ("method-name", "say");
    for (id, properties, body, decoded) in [
        ("nothing", &[say][..], "@", json!({"say": "22 °C"})),
        ("text", &[say], "noch 3 Türen", json!({"say": "noch 3 Türen"})),
        ("almost", &[say], "{not json", json!({"say": "{not json"})),
        ("number", &[say], "-1.5e3", json!({"say": -1500.0})),
        ("json", &[say, PUSH[0]], "{\"say\":\"ไทย\"}", json!({"say": "ไทย"})),
    ] {
        stage.send("valve", id, properties, body);
        stage.reported(id, &["queued"]).await;
        assert_eq!(stage.pushed().pop().expect("pushed")["decoded_payload"], decoded, "{id}");
    }
    stage.send("valve", "raw", &[PUSH[0], ("Encoding", "text")], "°@");
    stage.reported("raw", &["queued"]).await;
    assert_eq!(stage.pushed().pop().expect("pushed")["frm_payload"], "wrBA");
    let mut binary = message("binary", PUSH, "");
    binary.body = [0xff, 0xfe, 0x00].as_slice().into();
    stage.hub().send_cloud_message("valve", binary).expect("it is taken");
    let told = stage.dead("valve", "binary").await.description.expect("a reason");
    assert!(told.contains("no text in UTF-8"), "{told}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_25_a_408_or_429_is_no_reason_to_drop_a_message() {
    let stage = stage().await;
    for code in [408, 429] {
        let id = code.to_string();
        stage.fault(Fault { status: Some(code), calls: Calls::Write, ..Fault::default() });
        stage.send("valve", &id, PUSH, "AQ==");
        stage.completed("valve").await;
        stage.reported(&id, &["queued"]).await;
    }
    assert_eq!(stage.pushed().len(), 2);
    stage.end().await;
}
