//! What goes wrong at The Things Stack: what may pass is tried again within the lock, what will not is rejected, and
//! whatever happens there is one downlink.

use std::time::Duration;

use serde_json::{Value, json};
use tti_connector::emulator::things_stack::{Calls, Effect, Fault, Right, Webhook};
use tti_connector::emulator::{CloudSettings, Fate};

use super::kit::{Stage, application, name};
use crate::world::World;

fn status(status: u16) -> Fault {
    Fault { status: Some(status), calls: Calls::Write, ..Fault::default() }
}

fn after(fault: Fault) -> Fault {
    Fault { effect: Effect::After, ..fault }
}

/// Each fault meets a message of its own device; in the end each gave one downlink and was completed.
async fn one_downlink_each(faults: Vec<(&str, Vec<Fault>)>, told: bool) {
    let stage = Stage::with(|config| config.things_stack.request_timeout = Duration::from_millis(300)).await;
    for (device, _) in &faults {
        stage.meet(device).await;
    }
    if !told {
        stage.stack().set_webhook(None).expect("none");
    }
    for (device, faults) in &faults {
        let before = stage.pushed().len();
        faults.iter().cloned().for_each(|fault| stage.fault(fault));
        stage.send(device, device, &[("Port", "1")], "AQ==");
        stage.completed(device).await;
        assert_eq!(stage.pushed().len(), before + 1, "{device}");
        assert_eq!(stage.stack().queue(&name(device)).len(), 1, "{device}");
        if told {
            stage.reported(device, &["queued"]).await;
        }
        stage.stack().clear_faults();
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_may_pass_are_tried_again_until_the_downlink_is_queued() {
    let retry = |seconds: &str| Fault {
        headers: [("x-rate-limit-retry".to_owned(), seconds.to_owned())].into(),
        ..status(429)
    };
    let faults = vec![
        ("limited", vec![retry("1")]),
        ("conflict", vec![status(409), status(409)]),
        ("broken", vec![status(500)]),
        ("away", vec![status(503)]),
        ("closed", vec![Fault { close: true, calls: Calls::Write, ..Fault::default() }]),
    ];
    one_downlink_each(faults, true).await;
}

fn lost_answers() -> Vec<(&'static str, Vec<Fault>)> {
    let slow = Fault { delay_ms: 600, calls: Calls::Write, ..Fault::default() };
    vec![
        ("lost-500", vec![after(status(500))]),
        ("lost-closed", vec![after(Fault { close: true, calls: Calls::Write, ..Fault::default() })]),
        ("lost-slow", vec![after(slow)]),
        ("lost-unread", vec![after(status(504)), Fault { calls: Calls::Read, ..status(500) }]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_doubles_nothing_as_the_webhook_tells_that_it_was_queued() {
    one_downlink_each(lost_answers(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_doubles_nothing_without_a_webhook_as_the_queue_is_looked_up() {
    one_downlink_each(lost_answers(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_is_waited_out_and_holds_up_no_other_device() {
    let stage = Stage::new().await;
    stage.meet("limited").await;
    stage.meet("other").await;
    let retry = [("x-rate-limit-retry".to_owned(), "2".to_owned())];
    stage.fault(Fault { headers: retry.into(), ..status(429) });
    let began = std::time::Instant::now();
    stage.send("limited", "first", &[("Port", "1")], "AQ==");
    stage.send("limited", "second", &[("Port", "1")], "Ag==");
    let refused = || stage.stack().pushes().is_empty().then_some(());
    stage.until(refused).await;
    stage.until(|| stage.hub().cloud_queue("limited").first()?.locked.then_some(())).await;
    stage.send("other", "other", &[("Port", "1")], "AQ==");
    stage.completed("other").await;
    stage.completed("limited").await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(stage.pushed().len(), 3);
    let first: Vec<Value> = stage.stack().queue(&name("limited")).iter().map(|one| json!(one)).collect();
    assert_eq!(
        (&first[0]["frm_payload"], &first[1]["frm_payload"]),
        (&json!("AQ=="), &json!("Ag==")),
        "in order"
    );
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_webhook_holds_downlinks_back_until_it_is_no_longer_paused() {
    let stage = Stage::with(|config| {
        let application = config.things_stack.applications.values_mut().next().expect("one");
        application.webhook_id = Some("tti-connector".to_owned());
    })
    .await;
    stage.meet("valve").await;
    let paused = Webhook { paused: true, ..stage.webhook() };
    stage.stack().set_webhook(Some(paused)).expect("a webhook");
    stage.send("valve", "held", &[("Port", "1")], "AQ==");
    stage.until_metric("downlink_retried_requests_total{reason=\"not_now\"} 2").await;
    assert_eq!((stage.hub().cloud_queue("valve").len(), stage.pushed().len()), (1, 0));
    stage.point_webhook();
    stage.completed("valve").await;
    stage.reported("held", &["queued"]).await;
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_things_stack_will_never_take_is_rejected_and_its_reason_told() {
    let stage = Stage::new().await;
    stage.meet("valve").await;
    for (code, reason) in [
        (400, "The Things Stack answered 400: error:pkg/errors:emulated"),
        (401, "(the API key needs RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE)"),
        (403, "(the API key needs RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE)"),
        (404, "The Things Stack answered 404"),
        (413, "The Things Stack answered 413"),
        (302, "a redirect, which is not followed; correct `things_stack.base_url`"),
    ] {
        let id = format!("refused-{code}");
        stage.fault(status(code));
        stage.send("valve", &id, &[("Port", "1")], "AQ==");
        let letter = stage.dead("valve", &id).await;
        let told = letter.description.expect("a description");
        assert!(told.contains(reason) && told.contains(&code.to_string()), "{told}");
        assert_eq!((letter.fate, letter.queued.delivery_count), (Fate::Rejected, 0));
        assert_eq!(stage.reported(&id, &["rejected"]).await["Reason"], told);
    }
    assert_eq!(stage.pushed(), Vec::<Value>::new());
    stage.end().await;
}

/// The reason with which a message to `device` is rejected.
async fn reason(stage: &Stage, device: &str, properties: &[(&str, &str)], body: &str) -> String {
    let id = format!("to-{device}");
    stage.send(device, &id, properties, body);
    let told = stage.dead(device, &id).await.description.expect("a description");
    assert_eq!(stage.reported(&id, &["rejected"]).await["Reason"], told);
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_s_own_refusals_are_told_in_its_words() {
    let stage = Stage::new().await;
    // Known to the connector, but it never joined.
    stage.stack().create_device(&name("asleep")).expect("a device");
    stage.hub().create_device("asleep", None).expect("a device");
    assert_eq!(stage.post(&crate::messages::uplink(super::kit::APPLICATION, "asleep", 1)).await, 202);
    let told = reason(&stage, "asleep", &[("Port", "1")], "AQ==").await;
    assert!(told.contains("answered 400") && told.contains("no_device_session"), "{told}");

    stage.meet("wordy").await;
    stage.stack().set_formatter(&name("wordy"), true).expect("a device");
    let long = json!({ "text": "x".repeat(300) }).to_string();
    let told = reason(&stage, "wordy", &[("Port", "1")], &long).await;
    assert!(told.contains("answered 400") && told.contains("output_length"), "{told}");
    assert_eq!(stage.pushed(), Vec::<Value>::new());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_write_and_an_unknown_webhook_are_told_with_what_to_change() {
    let world = World::with(1, |options| options.things_stack_open = false).await;
    let stack = world.emulator.things_stack().expect("there");
    let (reader, writer) = (stack.add_key(&[Right::TrafficRead]), stack.api_key().to_owned());
    stack.create_device(&name("valve")).expect("a device");
    stack.join(&name("valve"), tti_connector::emulator::things_stack::Invalidated::Hidden).expect("a device");
    let stage = Stage::on(world, |config| {
        config.things_stack.applications =
            [(super::kit::APPLICATION.to_owned(), application(&reader))].into();
    })
    .await;
    stage.meet("valve").await;
    let told = reason(&stage, "valve", &[("Port", "1")], "AQ==").await;
    assert!(told.contains("answered 403") && told.contains("RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE"), "{told}");

    let stage = stage
        .restart(|config| {
            let mut other = application(&writer);
            other.webhook_id = Some("elsewhere".to_owned());
            config.things_stack.applications = [(super::kit::APPLICATION.to_owned(), other)].into();
        })
        .await;
    stage.send("valve", "again", &[("Port", "1")], "AQ==");
    let told = stage.dead("valve", "again").await.description.expect("a description");
    assert!(told.contains("answered 404") && told.contains("webhook_not_found"), "{told}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_runs_out_while_the_api_fails_gives_no_second_downlink() {
    let lock = Duration::from_millis(300);
    let world =
        World::with(1, |options| options.cloud = CloudSettings { lock, ..CloudSettings::default() }).await;
    let stage = Stage::on(world, |_| {}).await;
    stage.meet("valve").await;
    stage.fault(Fault { count: 2, ..status(409) });
    stage.send("valve", "late", &[("Port", "1")], "AQ==");
    stage.send("valve", "next", &[("Port", "1")], "Ag==");
    stage.completed("valve").await;
    stage.reported("late", &["queued"]).await;
    stage.reported("next", &["queued"]).await;
    assert_eq!(
        stage.pushed().len(),
        2,
        "the first answer came too late for the hub, and the message came again"
    );
    stage.end().await;
}
