//! Many devices on several threads against a hub that misbehaves at random: nothing hangs, nothing is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use tti_connector::azure::Settlement;
use tti_connector::iot_hub::{DeviceEvent, IotHub, Links, SendError};

use super::hub::{Answer, Door, Seen, TestHub};
use super::inbound_hub::{TwinSays, default_twin, twin_answer};
use super::{by_key, ids, telemetry};

const DEVICES: usize = 60;
const MESSAGES: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_arrives_in_order_whatever_the_hub_does() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.max_devices_per_connection = 20;
    options.idle_timeout = Duration::from_millis(200);
    options.token_lifetime = Duration::from_secs(1);
    options.send_timeout = Duration::from_millis(500);
    let hub = IotHub::new(options);
    let random = |seed| std::sync::Mutex::new(fastrand::Rng::with_seed(seed));
    let (answers, doors, puts) = (random(1), random(2), random(3));
    test_hub.on_message(move |_| match answers.lock().unwrap().u32(..400) {
        0..8 => Answer::Release,
        8..20 => Answer::Detach("amqp:link:detach-forced"),
        20..28 => Answer::End("amqp:internal-error"),
        28..30 => Answer::Silence,
        30 => Answer::Close("amqp:connection:forced"),
        31 => Answer::Kill,
        _ => Answer::Accept,
    });
    test_hub.on_attach(move |_| match doors.lock().unwrap().u32(..50) {
        0 => Door::Refuse("amqp:resource-locked"),
        1 => Door::Late(Duration::from_millis(50)),
        _ => Door::Open,
    });
    test_hub.on_put(move |_| if puts.lock().unwrap().u32(..50) == 0 { (503, "busy") } else { (200, "OK") });

    let mut senders = tokio::task::JoinSet::new();
    for number in 0..DEVICES {
        let (hub, device) = (hub.clone(), by_key(&test_hub, &number.to_string()));
        senders.spawn(async move {
            for text in 0..MESSAGES {
                let message = telemetry(&format!("{number}:{text}"));
                while let Err(error) = hub.send(&device, &message).await {
                    assert!(matches!(error, SendError::Retry { .. }), "{error}");
                    // As a caller would: not at once.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    let all = async {
        while let Some(sender) = senders.join_next().await {
            sender.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("a sender hangs");

    let mut last = BTreeMap::<String, usize>::new();
    for id in ids(&test_hub) {
        let (device, text) = id.split_once(':').unwrap();
        let text: usize = text.parse().unwrap();
        // Again after an unknown outcome, or the next; never a step back or a gap.
        let before = last.insert(device.to_owned(), text);
        assert!(
            before.map_or(text == 0, |before| text == before || text == before + 1),
            "{device}: {before:?} {text}"
        );
    }
    assert_eq!(last.len(), DEVICES);
    assert!(last.values().all(|text| *text == MESSAGES - 1));
    hub.close().await;
    assert_eq!(hub.status().connections, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_devices_get_their_messages_and_calls_whatever_the_hub_does() {
    const KEPT: usize = 30;
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.max_devices_per_connection = 10;
    options.token_lifetime = Duration::from_secs(1);
    options.send_timeout = Duration::from_millis(500);
    options.attach_rate = 1000;
    let (hub, mut events) = IotHub::with_events(options);
    let random = |seed| std::sync::Mutex::new(fastrand::Rng::with_seed(seed));
    let (answers, doors, puts, twins) = (random(4), random(5), random(6), random(7));
    test_hub.on_message(move |_| match answers.lock().unwrap().u32(..60) {
        0 => Answer::Detach("amqp:link:detach-forced"),
        1 => Answer::End("amqp:internal-error"),
        2 => Answer::Kill,
        3 => Answer::Close("amqp:connection:forced"),
        _ => Answer::Accept,
    });
    test_hub.on_attach(move |_| match doors.lock().unwrap().u32(..80) {
        0 => Door::Refuse("amqp:resource-locked"),
        1 => Door::Late(Duration::from_millis(50)),
        _ => Door::Open,
    });
    test_hub.on_put(move |_| if puts.lock().unwrap().u32(..50) == 0 { (503, "busy") } else { (200, "OK") });
    test_hub.on_twin(move |(operation, _)| match twins.lock().unwrap().u32(..40) {
        0 => TwinSays::Silence,
        1 => twin_answer(500, None, ""),
        _ => default_twin(&operation),
    });
    let all = Links { c2d: true, methods: true, twin: true };
    let devices: Vec<_> = (0..KEPT).map(|number| by_key(&test_hub, &number.to_string())).collect();
    devices.iter().for_each(|device| hub.keep_open(device, all));
    let answering = tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                DeviceEvent::CloudMessage { settle, .. } => _ = settle.send(Settlement::Complete),
                DeviceEvent::Method { .. } | DeviceEvent::Desired { .. } => {}
                DeviceEvent::Lost { device, detail, .. } => panic!("{} {detail}", device.device_id),
            }
        }
    });
    // Telemetry brings the trouble about; reports run into it too.
    for round in 0..10 {
        let sends = devices.iter().map(|device| {
            let hub = hub.clone();
            async move {
                _ = hub.send(device, &telemetry(&round.to_string())).await;
                _ = hub.report(device, &serde_json::Map::new()).await;
            }
        });
        let sends = futures_util::future::join_all(sends);
        tokio::time::timeout(Duration::from_secs(30), sends).await.expect("a send or report hangs");
    }
    test_hub.on_message(|_| Answer::Accept);
    test_hub.on_attach(|_| Door::Open);
    test_hub.on_put(|_| (200, "OK"));
    test_hub.on_twin(|(operation, _)| default_twin(&operation));
    for device in &devices {
        // As a caller would: again until it is through.
        let through = async {
            while hub.report(device, &serde_json::Map::new()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let before = test_hub.settled().len();
            test_hub.send_c2d(&device.device_id, "last");
            test_hub.wait(before + 1, |seen| matches!(seen, Seen::Settled { .. })).await;
        };
        tokio::time::timeout(Duration::from_secs(60), through).await.expect("a device does not come back");
    }
    assert_eq!(hub.status().kept, KEPT);
    hub.close().await;
    answering.abort();
}
