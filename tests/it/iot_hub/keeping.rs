//! Links that are kept open: through every loss, at a pace, once refused no more, and given back when nobody wishes them.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tti_connector::azure::{Credential, HubDevice, Settlement, SigningKey};
use tti_connector::iot_hub::{DeviceEvent, IotHub, Links, SendError};
use tti_connector::model::ParkReason;

use super::cloud_messages::{C2D, next, next_message};
use super::hub::{Answer, Door, Seen, TestHub};
use super::inbound_hub::{Say, c2d_address, methods_address, twin_address};
use super::{by_key, by_policy, ids, telemetry};

const ALL: Links = Links { c2d: true, methods: true, twin: true };

/// Waits until so many kept devices are attached.
async fn wait_status(hub: &IotHub, attached: usize) {
    let reached = async {
        while hub.status().attached != attached {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("{:?}", hub.status()));
}

#[tokio::test]
async fn links_come_back_after_each_kind_of_loss_though_nobody_sends() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), C2D);
    let address = c2d_address("a");
    let mut count = 1;
    let mut connection = 0;
    for lose in ["link", "session", "telemetry", "kill", "close"] {
        test_hub.wait_attached(&address, count).await;
        match lose {
            "link" => test_hub.say(&address, Say::Detach("amqp:link:detach-forced")),
            "session" => test_hub.say(&address, Say::End("amqp:internal-error")),
            "telemetry" => {
                test_hub.on_message(|_| Answer::Detach("amqp:link:detach-forced"));
                hub.send(&by_key(&test_hub, "a"), &telemetry("t")).await.unwrap_err();
            }
            "kill" => test_hub.command(connection, Answer::Kill),
            _ => test_hub.command(connection, Answer::Close("amqp:connection:forced")),
        }
        connection += usize::from(lose == "kill");
        count += 1;
        test_hub.wait_attached(&address, count).await;
        wait_status(&hub, 1).await;
        test_hub.send_c2d("a", lose);
        let (message, settle) = next_message(&mut events).await;
        assert_eq!(message.message_id.as_deref(), Some(lose));
        settle.send(Settlement::Complete).unwrap();
        test_hub.wait(count - 1, |seen| matches!(seen, Seen::Settled { .. })).await;
    }
    assert_eq!(test_hub.attached(&address), count, "once per loss");
    hub.close().await;
}

#[tokio::test]
async fn a_wish_that_ends_gives_the_session_back_and_a_changed_one_opens_it_anew() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    let device = by_key(&test_hub, "a");
    hub.keep_open(&device, C2D);
    test_hub.wait_attached(&c2d_address("a"), 1).await;
    // The same again changes nothing.
    hub.keep_open(&by_key(&test_hub, "a"), C2D);
    hub.keep_open(&device, ALL);
    test_hub.wait_attached(&twin_address("a"), 2).await;
    wait_status(&hub, 1).await;
    assert!(matches!(next(&mut events).await, DeviceEvent::Desired { .. }));
    assert_eq!((test_hub.attached(&c2d_address("a")), test_hub.attached(&methods_address("a"))), (2, 2));

    let key = SigningKey::from_base64("b3RoZXIga2V5IG9mIHRoZSBkZXZpY2U=").unwrap();
    let other = HubDevice { credential: Credential::Device { key }, ..(*device).clone() };
    hub.keep_open(&other.into(), C2D);
    test_hub.wait_attached(&c2d_address("a"), 3).await;
    let puts = test_hub.seen().into_iter().filter_map(|seen| match seen {
        Seen::Put { token, .. } => Some(token),
        _ => None,
    });
    let signatures: std::collections::BTreeSet<_> =
        puts.map(|token| token.split("sig=").nth(1).unwrap().split('&').next().unwrap().to_owned()).collect();
    assert!(signatures.len() >= 2, "a token of the new key was put");

    hub.keep_open(&device, Links::NONE);
    let given_back = async {
        while hub.status().devices > 0 || hub.status().attached > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), given_back).await.unwrap();
    assert_eq!(hub.status().kept, 0);
    hub.send(&device, &telemetry("t")).await.unwrap();
    hub.keep_open(&device, C2D);
    test_hub.wait_attached(&c2d_address("a"), 4).await;
    hub.close().await;
}

#[tokio::test]
async fn kept_devices_are_never_idle() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.idle_timeout = Duration::from_millis(200);
    let (hub, mut events) = IotHub::with_events(options);
    hub.keep_open(&by_key(&test_hub, "kept"), C2D);
    hub.send(&by_key(&test_hub, "idle"), &telemetry("t")).await.unwrap();
    test_hub.wait(1, |seen| matches!(seen, Seen::Detached { address } if address.contains("idle"))).await;
    // By now the sweep has come by several times.
    tokio::time::sleep(Duration::from_millis(500)).await;
    test_hub.send_c2d("kept", "1");
    next_message(&mut events).await;
    assert_eq!(test_hub.attached(&c2d_address("kept")), 1);
    hub.close().await;
}

#[tokio::test]
async fn ways_that_a_basic_hub_refuses_are_left_out_and_not_asked_for_again() {
    for condition in ["amqp:not-implemented", "amqp:not-allowed", "amqp:not-found"] {
        let test_hub = TestHub::start().await;
        test_hub.on_attach(move |address| {
            let basic = address.contains("devicebound") || address.contains("twin");
            if basic { Door::Refuse(condition) } else { Door::Open }
        });
        let (hub, mut events) = IotHub::with_events(test_hub.options());
        let refused =
            |seen: &Seen| matches!(seen, Seen::Attached { address, .. } if !address.contains("events"));
        let first = by_policy(&test_hub, "first");
        hub.keep_open(&first, ALL);
        test_hub.wait(5, refused).await;
        hub.send(&first, &telemetry("t")).await.unwrap();
        // Once the three ways are given up, no session is held for them.
        wait_status(&hub, 0).await;
        let asked = test_hub.count(refused);
        for number in 0..20 {
            hub.keep_open(&by_policy(&test_hub, &number.to_string()), ALL);
        }
        hub.send(&first, &telemetry("t")).await.unwrap();
        assert!(timeout(Duration::from_millis(300), events.recv()).await.is_err(), "not lost: {condition}");
        assert_eq!(test_hub.count(refused), asked, "{condition}");
        assert_eq!((asked, hub.status().kept), (5, 21), "{condition}");
        assert_eq!(test_hub.attached("/devices/first/messages/events"), 1, "{condition}");
        let patch = serde_json::Map::new();
        let error = hub.report(&first, &patch).await.unwrap_err();
        assert!(error.to_string().contains("basic"), "{error}");
        hub.close().await;
    }
}

#[tokio::test]
async fn only_the_refused_way_is_left_out() {
    let test_hub = TestHub::start().await;
    test_hub.on_attach(|address| {
        if address.contains("methods") { Door::Refuse("amqp:not-allowed") } else { Door::Open }
    });
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), ALL);
    assert!(matches!(next(&mut events).await, DeviceEvent::Desired { .. }));
    test_hub.send_c2d("a", "1");
    next_message(&mut events).await;
    assert_eq!((test_hub.attached(&c2d_address("a")), hub.status().attached), (1, 1));
    hub.close().await;
}

#[tokio::test]
async fn one_device_whose_link_is_refused_takes_it_from_no_other_where_it_has_stayed_open() {
    let test_hub = TestHub::start().await;
    test_hub.on_attach(|address| {
        let odd = address.contains("odd") && address.contains("devicebound");
        if odd { Door::Refuse("amqp:not-found") } else { Door::Open }
    });
    let (hub, _events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "quiet"), C2D);
    test_hub.wait_attached(&c2d_address("quiet"), 1).await;
    wait_status(&hub, 1).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    hub.keep_open(&by_key(&test_hub, "odd"), C2D);
    test_hub.wait_attached(&c2d_address("odd"), 2).await;
    test_hub.say(&c2d_address("quiet"), Say::Detach("amqp:link:detach-forced"));
    test_hub.wait_attached(&c2d_address("quiet"), 2).await;
    hub.close().await;
}

#[tokio::test]
async fn a_refused_device_is_told_lost_once_and_given_up() {
    for (by_token, condition) in [(true, ""), (false, "amqp:not-found"), (false, "amqp:unauthorized-access")]
    {
        let test_hub = TestHub::start().await;
        let (hub, mut events) = IotHub::with_events(test_hub.options());
        let device = if by_token { by_key(&test_hub, "a") } else { by_policy(&test_hub, "a") };
        if by_token {
            test_hub.on_put(|_| (404, "device not registered"));
        } else {
            // A device that is gone is refused on every link.
            test_hub.on_attach(move |_| Door::Refuse(condition));
        }
        hub.keep_open(&device, ALL);
        let DeviceEvent::Lost { device: whose, reason, .. } = next(&mut events).await else {
            panic!("not lost")
        };
        let expected = match condition {
            "amqp:unauthorized-access" => ParkReason::Unauthorized,
            _ => ParkReason::DeviceUnknown,
        };
        assert_eq!((&*whose, reason), (&*device, expected));
        assert_eq!(hub.status().kept, 0);
        let (puts, attaches) = (
            test_hub.count(|seen| matches!(seen, Seen::Put { .. })),
            test_hub.count(|seen| matches!(seen, Seen::Attached { .. })),
        );
        assert!(timeout(Duration::from_millis(700), events.recv()).await.is_err());
        assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Put { .. })), puts);
        assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Attached { .. })), attaches);
        // Kept open anew, it is tried anew.
        test_hub.on_put(|_| (200, "OK"));
        test_hub.on_attach(|_| Door::Open);
        hub.keep_open(&device, C2D);
        wait_status(&hub, 1).await;
        hub.close().await;
    }
}

#[tokio::test]
async fn links_that_the_hub_takes_away_at_each_attach_are_tried_ever_more_rarely() {
    let test_hub = TestHub::start().await;
    let (hub, _events) = IotHub::with_events(test_hub.options());
    test_hub.on_attach(|address| {
        if address.contains("devicebound") { Door::Refuse("amqp:link:detach-forced") } else { Door::Open }
    });
    let device = by_key(&test_hub, "a");
    hub.keep_open(&device, C2D);
    test_hub.wait_attached(&c2d_address("a"), 3).await;
    let third = Instant::now();
    test_hub.wait_attached(&c2d_address("a"), 4).await;
    // The third pause is one second, halved at most.
    assert!(third.elapsed() >= Duration::from_millis(480), "{:?}", third.elapsed());
    // Telemetry is not held back meanwhile.
    hub.send(&device, &telemetry("t")).await.unwrap();
    assert_eq!((hub.status().kept, ids(&test_hub).len()), (1, 1));
    hub.close().await;
}

#[tokio::test]
async fn attaches_keep_a_pace_that_telemetry_need_not_wait_for() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.attach_rate = 10;
    let (hub, _events) = IotHub::with_events(options);
    let started = Instant::now();
    let devices: Vec<_> = (0..45).map(|number| by_policy(&test_hub, &number.to_string())).collect();
    for device in &devices {
        hub.keep_open(device, C2D);
    }
    let attached =
        |seen: &Seen| matches!(seen, Seen::Attached { address, .. } if address.contains("devicebound"));
    test_hub.wait(30, attached).await;
    let burst = started.elapsed();
    hub.send(&devices[44], &telemetry("now")).await.unwrap();
    let sent = started.elapsed();
    assert!(test_hub.attached(&c2d_address("44")) == 0 && sent < Duration::from_millis(1_400), "{sent:?}");
    test_hub.wait(45, attached).await;
    let all = started.elapsed();
    assert!(all >= Duration::from_millis(1_450), "burst {burst:?}, all {all:?}");
    assert_eq!(test_hub.attached("/devices/44/messages/events"), 1, "on the session that telemetry opened");
    hub.close().await;
}

#[tokio::test]
async fn two_hundred_kept_devices_survive_a_hub_that_goes_away_and_comes_back() {
    const DEVICES: usize = 200;
    let mut test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.max_devices_per_connection = 60;
    options.attach_rate = 500;
    let (hub, mut events) = IotHub::with_events(options);
    for number in 0..DEVICES {
        hub.keep_open(&by_key(&test_hub, &number.to_string()), C2D);
    }
    wait_status(&hub, DEVICES).await;
    let port = test_hub.address.port;
    test_hub.go_away().await;
    wait_status(&hub, 0).await;
    let error = hub.send(&by_key(&test_hub, "0"), &telemetry("t")).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }), "{error}");
    let opened = test_hub.count(|seen| matches!(seen, Seen::Opened(_)));
    test_hub.listen(port).await;
    wait_status(&hub, DEVICES).await;
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Opened(_))), opened + DEVICES.div_ceil(60));
    let attaches = |number: usize| test_hub.attached(&c2d_address(&number.to_string()));
    assert!((0..DEVICES).all(|number| attaches(number) == 2), "each once more");
    for number in 0..DEVICES {
        test_hub.send_c2d(&number.to_string(), &number.to_string());
    }
    let mut came = std::collections::BTreeSet::new();
    for _ in 0..DEVICES {
        let (message, settle) = next_message(&mut events).await;
        came.insert(message.message_id.unwrap());
        settle.send(Settlement::Complete).unwrap();
    }
    assert_eq!(came.len(), DEVICES);
    test_hub.wait(DEVICES, |seen| matches!(seen, Seen::Settled { .. })).await;
    hub.close().await;
}

#[tokio::test]
async fn a_device_refused_for_an_old_token_gets_one_fresh_token_before_it_is_lost() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    let device = by_key(&test_hub, "a");
    hub.send(&device, &telemetry("t")).await.unwrap();
    let mut first = true;
    test_hub.on_attach(move |address| {
        if address.contains("devicebound") && std::mem::take(&mut first) {
            Door::Refuse("amqp:unauthorized-access")
        } else {
            Door::Open
        }
    });
    hub.keep_open(&device, C2D);
    test_hub.wait_attached(&c2d_address("a"), 2).await;
    test_hub.send_c2d("a", "1");
    next_message(&mut events).await;
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Put { .. })), 2);
    hub.close().await;
}
