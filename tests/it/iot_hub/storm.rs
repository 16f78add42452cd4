//! Many devices on several threads against a hub that misbehaves at random: nothing hangs, nothing is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use tti_connector::iot_hub::{IotHub, SendError};

use super::hub::{Answer, Door, TestHub};
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
        0 => Door::Refuse("com.microsoft:link-creation-conflict"),
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
