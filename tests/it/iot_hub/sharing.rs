//! Devices that share a session: how many, and what the trouble of one costs the others.

use std::time::Duration;

use tokio::time::timeout;
use tti_connector::iot_hub::IotHub;

use super::failures::short;
use super::hub::{Answer, Door, Seen, TestHub};
use super::{by_key, telemetry};

fn attached(of: &str) -> impl Fn(&Seen) -> bool {
    move |seen| matches!(seen, Seen::Attached { address, .. } if address.contains(of))
}

#[tokio::test]
async fn a_session_takes_so_many_devices_and_no_more() {
    for (limit, sessions) in [(1, 10), (4, 3), (16, 1)] {
        let test_hub = TestHub::start().await;
        let mut options = test_hub.options();
        options.max_devices_per_session = limit;
        let hub = IotHub::new(options);
        for number in 0..10 {
            hub.send(&by_key(&test_hub, &number.to_string()), &telemetry("a")).await.unwrap();
        }
        hub.close().await;
        // And the token links'.
        test_hub.wait(1, |seen| matches!(seen, Seen::Gone)).await;
        test_hub.wait(sessions + 1, |seen| matches!(seen, Seen::Ended)).await;
        assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Ended)), sessions + 1, "{limit} to one");
    }
}

#[tokio::test]
async fn links_that_are_refused_or_taken_away_touch_no_other_of_their_session() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    test_hub.on_attach(
        |address| if address.contains("gone") { Door::Refuse("amqp:not-found") } else { Door::Open },
    );
    test_hub.on_message(|address| {
        if address.contains("cut") { Answer::Detach("amqp:link:detach-forced") } else { Answer::Accept }
    });
    for round in 0..10 {
        for name in ["gone-1", "well-1", "cut-1", "well-2", "gone-2", "cut-2", "well-3"] {
            let (device, text) = (by_key(&test_hub, name), telemetry(&round.to_string()));
            let sent = timeout(Duration::from_secs(5), hub.send(&device, &text)).await;
            let sent = sent.unwrap_or_else(|_| panic!("{name} in round {round}"));
            assert_eq!(sent.is_ok(), name.contains("well"), "{name}: {sent:?}");
        }
    }
    for name in ["well-1", "well-2", "well-3"] {
        assert_eq!(test_hub.count(attached(name)), 1, "{name}");
    }
    hub.close().await;
}

#[tokio::test]
async fn a_device_for_which_the_hub_ends_sessions_costs_the_others_their_links_once() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    let wells: Vec<_> = (0..8).map(|number| by_key(&test_hub, &format!("well-{number}"))).collect();
    for well in &wells {
        hub.send(well, &telemetry("0")).await.unwrap();
    }
    test_hub.on_message(|address| {
        if address.contains("bad") { Answer::End("amqp:internal-error") } else { Answer::Accept }
    });
    let bad = by_key(&test_hub, "bad");
    for round in 1..=10 {
        hub.send(&bad, &telemetry("x")).await.unwrap_err();
        for well in &wells {
            let sent = hub.send(well, &telemetry(&round.to_string())).await;
            assert!(sent.is_ok() || round == 1, "{sent:?} in round {round}");
        }
    }
    for number in 0..wells.len() {
        assert_eq!(test_hub.count(attached(&format!("well-{number}"))), 2, "well-{number}");
    }
    assert_eq!((test_hub.count(attached("bad")), hub.status().connections), (10, 1));
    hub.close().await;
}

#[tokio::test]
async fn the_end_of_a_session_is_no_verdict_on_those_who_share_it() {
    for condition in ["amqp:invalid-field", "amqp:not-found", "amqp:unauthorized-access", "amqp:link:stolen"]
    {
        let test_hub = TestHub::start().await;
        let hub = IotHub::new(test_hub.options());
        let devices: Vec<_> = (0..8).map(|number| by_key(&test_hub, &format!("well-{number}"))).collect();
        let bad = by_key(&test_hub, "bad");
        for device in devices.iter().chain([&bad]) {
            hub.send(device, &telemetry("first")).await.unwrap();
        }
        test_hub.on_message(
            move |address| {
                if address.contains("bad") { Answer::End(condition) } else { Answer::Silence }
            },
        );
        let text = telemetry("second");
        let under_way = futures_util::future::join_all(devices.iter().map(|device| hub.send(device, &text)));
        let (outcomes, of_bad) = tokio::join!(under_way, async {
            test_hub.wait(9 + 8, |seen| matches!(seen, Seen::Got { .. })).await;
            hub.send(&bad, &text).await
        });
        for outcome in outcomes.into_iter().chain([of_bad]) {
            assert_eq!(short(&outcome.unwrap_err()), "link device", "{condition}");
        }
        test_hub.on_message(|_| Answer::Accept);
        for device in devices.iter().chain([&bad]) {
            hub.send(device, &telemetry("third")).await.unwrap();
        }
        hub.close().await;
    }
}

#[tokio::test]
async fn a_device_whose_attach_ends_sessions_does_so_to_others_once() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    test_hub.on_attach(
        |address| if address.contains("bad") { Door::End("amqp:internal-error") } else { Door::Open },
    );
    let bad = by_key(&test_hub, "bad");
    for round in 1..=5 {
        let name = format!("well-{round}");
        let wells: Vec<_> = (0..4).map(|number| by_key(&test_hub, &format!("{name}-{number}"))).collect();
        for well in &wells {
            hub.send(well, &telemetry("before")).await.unwrap();
        }
        hub.send(&bad, &telemetry("x")).await.unwrap_err();
        for well in &wells {
            hub.send(well, &telemetry("after")).await.unwrap();
        }
        let times = if round == 1 { 2 } else { 1 };
        assert_eq!(test_hub.count(attached(&name)), times * wells.len(), "in round {round}");
    }
    hub.close().await;
}

#[tokio::test]
async fn nobody_waits_long_behind_an_attach_without_answer() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    test_hub.on_attach(|address| if address.contains("mute") { Door::Silence } else { Door::Open });
    let mutes: Vec<_> = (0..40).map(|number| by_key(&test_hub, &format!("mute-{number}"))).collect();
    let text = telemetry("a");
    let silent = futures_util::future::join_all(mutes.iter().map(|mute| hub.send(mute, &text)));
    let well = async {
        test_hub.wait(16, attached("mute")).await;
        // No other session fills, so this one joins one that is stuck, until that is known.
        for number in 0..40 {
            let device = by_key(&test_hub, &format!("well-{number}"));
            let sent = timeout(Duration::from_secs(8), hub.send(&device, &text)).await;
            sent.unwrap_or_else(|_| panic!("well-{number} waits")).unwrap();
        }
    };
    tokio::select! {
        _ = silent => panic!("the mute ones are answered"),
        () = well => {}
    }
    assert_eq!(hub.status().connections, 1);
    hub.close().await;
}
