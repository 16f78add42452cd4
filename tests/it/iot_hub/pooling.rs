//! Seats, tokens, idle devices, and a hub that comes and goes.

use std::time::Duration;

use tti_connector::iot_hub::{IotHub, SendError, Trouble};

use super::hub::{Answer, Seen, TestHub};
use super::{by_key, by_policy, ids, telemetry};

fn opened(seen: &Seen) -> bool {
    matches!(seen, Seen::Opened(_))
}

fn put(seen: &Seen) -> bool {
    matches!(seen, Seen::Put { .. })
}

#[tokio::test]
async fn more_devices_than_fit_open_more_connections() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.max_devices_per_connection = 3;
    let hub = IotHub::new(options);
    let devices: Vec<_> = (0..8).map(|n| by_key(&test_hub, &n.to_string())).collect();
    let text = telemetry("a");
    let sends = devices.iter().map(|device| hub.send(device, &text));
    for sent in futures_util::future::join_all(sends).await {
        sent.unwrap();
    }
    assert_eq!((hub.status().connections, hub.status().devices), (3, 8));
    let mut per_connection = [0; 3];
    for seen in test_hub.seen() {
        if let Seen::Attached { connection, .. } = seen {
            per_connection[connection] += 1;
        }
    }
    assert_eq!(per_connection, [3, 3, 2]);
    hub.close().await;
}

#[tokio::test]
async fn a_connection_that_is_full_at_the_hub_is_passed_by() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap();
    let mut first = true;
    test_hub.on_put(move |_| {
        if std::mem::take(&mut first) {
            (500, "The maximum number of tokens per connection (1000) has been reached.")
        } else {
            (200, "OK")
        }
    });
    for name in ["b", "c", "a"] {
        hub.send(&by_key(&test_hub, name), &telemetry(name)).await.unwrap();
    }
    assert_eq!(ids(&test_hub), ["a", "b", "c", "a"]);
    assert_eq!(test_hub.count(opened), 2);
    hub.close().await;
}

#[tokio::test]
async fn idle_devices_and_connections_are_given_back_and_opened_again_when_needed() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.idle_timeout = Duration::from_millis(300);
    let hub = IotHub::new(options);
    hub.send(&by_key(&test_hub, "a"), &telemetry("1")).await.unwrap();
    test_hub.wait(1, |seen| matches!(seen, Seen::Detached { .. })).await;
    test_hub.wait(1, |seen| matches!(seen, Seen::Gone)).await;
    assert_eq!(hub.status().devices, 0);
    hub.send(&by_key(&test_hub, "a"), &telemetry("2")).await.unwrap();
    assert_eq!(ids(&test_hub), ["1", "2"]);
    assert_eq!(test_hub.count(opened), 2);
    hub.close().await;
}

#[tokio::test]
async fn devices_that_come_and_go_never_put_more_tokens_on_a_connection_than_it_takes() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.max_devices_per_connection = 3;
    options.idle_timeout = Duration::from_millis(200);
    let hub = IotHub::new(options);
    for round in 0..8 {
        hub.send(&by_key(&test_hub, &round.to_string()), &telemetry("a")).await.unwrap();
        test_hub.wait(round + 1, |seen| matches!(seen, Seen::Detached { .. })).await;
        // The same device again finds its own token's connection, if that is still there.
        hub.send(&by_key(&test_hub, "steady"), &telemetry("a")).await.unwrap();
    }
    let mut audiences = std::collections::BTreeMap::<usize, std::collections::BTreeSet<String>>::new();
    for seen in test_hub.seen() {
        if let Seen::Put { connection, audience, .. } = seen {
            audiences.entry(connection).or_default().insert(audience);
        }
    }
    assert!(audiences.values().all(|of_one| of_one.len() <= 3), "{audiences:?}");
    assert!(audiences.len() >= 3, "{audiences:?}");
    hub.close().await;
}

#[tokio::test]
async fn tokens_are_renewed_in_time_with_the_links_open() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.token_lifetime = Duration::from_secs(1);
    let hub = IotHub::new(options);
    let started = tokio::time::Instant::now();
    hub.send(&by_key(&test_hub, "a"), &telemetry("1")).await.unwrap();
    hub.send(&by_policy(&test_hub, "p"), &telemetry("1")).await.unwrap();
    // A passing failure is tried again before the token ends.
    let mut failures = 2;
    test_hub.on_put(move |_| {
        failures -= i32::from(failures > 0);
        if failures > 0 { (503, "busy") } else { (200, "OK") }
    });
    test_hub.wait(7, put).await;
    let took = started.elapsed();
    assert!(took > Duration::from_millis(1_600), "renewed too early: {took:?}");
    hub.send(&by_key(&test_hub, "a"), &telemetry("2")).await.unwrap();
    hub.send(&by_policy(&test_hub, "p"), &telemetry("2")).await.unwrap();
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Attached { .. })), 2);
    assert_eq!(test_hub.count(opened), 2);
    hub.close().await;
}

#[tokio::test]
async fn a_device_whose_renewal_is_refused_loses_only_its_own_session() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.token_lifetime = Duration::from_secs(1);
    let hub = IotHub::new(options);
    let (good, bad) = (by_key(&test_hub, "good"), by_key(&test_hub, "bad"));
    hub.send(&good, &telemetry("1")).await.unwrap();
    hub.send(&bad, &telemetry("1")).await.unwrap();
    test_hub.on_put(|audience| if audience.contains("bad") { (401, "no") } else { (200, "OK") });
    test_hub.wait(1, |seen| matches!(seen, Seen::Detached { .. })).await;
    hub.send(&good, &telemetry("2")).await.unwrap();
    let error = hub.send(&bad, &telemetry("2")).await.unwrap_err();
    assert!(matches!(error, SendError::Reresolve { .. }), "{error}");
    assert_eq!(hub.status().devices, 1);
    let detached = |seen: &Seen| matches!(seen, Seen::Detached { address, .. } if address.contains("good"));
    assert_eq!((test_hub.count(detached), test_hub.count(opened)), (0, 1));
    hub.close().await;
}

#[tokio::test]
async fn while_a_hub_is_away_sends_fail_at_once_and_its_return_is_told() {
    let mut test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    let device = by_key(&test_hub, "a");
    hub.send(&device, &telemetry("1")).await.unwrap();
    let port = test_hub.address.port;
    test_hub.go_away().await;
    test_hub.wait(0, opened).await;
    let mut hub_up = hub.hub_up();
    let away = |error: &SendError| match error {
        SendError::Retry { trouble: Trouble::Hub(hub), .. } => *hub == device.hub,
        SendError::Retry { .. } | SendError::Reresolve { .. } | SendError::Park { .. } => false,
    };
    let error = hub.send(&device, &telemetry("2")).await.unwrap_err();
    assert!(away(&error), "{error}");
    let others: Vec<_> = (0..200).map(|n| by_key(&test_hub, &n.to_string())).collect();
    let text = telemetry("x");
    let started = tokio::time::Instant::now();
    for sent in futures_util::future::join_all(others.iter().map(|other| hub.send(other, &text))).await {
        assert!(away(&sent.unwrap_err()));
    }
    assert!(started.elapsed() < Duration::from_secs(2), "sends pile up: {:?}", started.elapsed());

    test_hub.listen(port).await;
    let up = tokio::time::timeout(Duration::from_secs(30), hub_up.recv()).await.unwrap().unwrap();
    assert_eq!(up, device.hub);
    hub.send(&device, &telemetry("2")).await.unwrap();
    assert_eq!(ids(&test_hub), ["1", "2"]);
    assert_eq!(test_hub.count(opened), 2);
    hub.close().await;
}

#[tokio::test]
async fn a_hub_that_was_never_there_is_told_as_such() {
    let mut test_hub = TestHub::start().await;
    test_hub.go_away().await;
    let hub = IotHub::new(test_hub.options());
    let error = hub.send(&by_key(&test_hub, "a"), &telemetry("1")).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { trouble: Trouble::Hub(_), .. }), "{error}");
    assert!(!hub.status().reached);
    hub.close().await;
}

#[tokio::test]
async fn losing_one_of_two_connections_is_no_trouble_of_the_whole_hub() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.max_devices_per_connection = 1;
    let hub = IotHub::new(options);
    let (a, b) = (by_key(&test_hub, "a"), by_key(&test_hub, "b"));
    hub.send(&a, &telemetry("1")).await.unwrap();
    hub.send(&b, &telemetry("1")).await.unwrap();
    test_hub.on_message(|address| if address.contains("/a/") { Answer::Kill } else { Answer::Accept });
    let error = hub.send(&a, &telemetry("2")).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { trouble: Trouble::Device, .. }), "{error}");
    hub.send(&b, &telemetry("2")).await.unwrap();
    hub.close().await;
}

#[tokio::test]
async fn who_is_left_on_a_connection_that_takes_no_newcomers_moves_to_another() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.max_devices_per_connection = 4;
    options.idle_timeout = Duration::from_millis(400);
    let hub = IotHub::new(options);
    for name in ["a", "b", "c", "d"] {
        hub.send(&by_key(&test_hub, name), &telemetry(name)).await.unwrap();
    }
    assert_eq!(hub.status().connections, 1);
    // The others grow idle; this one stays, and may not keep the connection alone.
    let mut sent = 1;
    // The hub sees a connection go before the client knows that it is gone.
    let gone = || test_hub.count(|seen| matches!(seen, Seen::Gone)) >= 1 && hub.status().connections == 1;
    while test_hub.count(opened) < 2 || !gone() {
        hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap();
        sent += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(ids(&test_hub).iter().filter(|id| *id == "a").count(), sent);
    assert_eq!((hub.status().connections, hub.status().devices), (1, 1));
    hub.close().await;
}
