//! A tier's limits as a device meets them: messages wait, are throttled, are over the day's quota; links that are refused.

use std::time::Duration;

use fe2o3_amqp_types::messaging::Outcome;
use tti_connector::emulator::{AmqpOptions, Tier, TierSettings};

use super::kit::{Rig, attach, condition, data, message, refusal_of, rejection, send, telemetry};

const THROTTLED: &str = "com.microsoft:device-container-throttled";

/// A hub on which a burst of `burst` messages passes, and hardly anything after it.
async fn rig(burst: u32, change: impl FnOnce(&mut TierSettings)) -> Rig {
    let rig = Rig::start().await;
    let mut settings = TierSettings {
        speed: 0.01,
        burst: Duration::from_secs(u64::from(burst)),
        max_delay: Duration::ZERO,
        ..TierSettings::new(Tier::S1, 1)
    };
    change(&mut settings);
    rig.hub.set_tier(settings);
    rig
}

#[tokio::test]
async fn beyond_the_burst_messages_wait_and_then_they_are_rejected_as_throttled_while_the_link_stays() {
    let rig = rig(2, |_| {}).await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    for text in ["1", "2"] {
        assert!(matches!(send(&mut sender, message(data(text))).await.unwrap(), Outcome::Accepted(_)));
    }
    let error = rejection(send(&mut sender, message(data("3"))).await.unwrap());
    assert_eq!(condition(&error), THROTTLED);
    assert!(error.description.unwrap().contains("429001"));
    // One that has to wait is accepted late.
    rig.hub.set_tier(TierSettings {
        speed: 0.1,
        burst: Duration::ZERO,
        max_delay: Duration::from_secs(1),
        ..TierSettings::new(Tier::S1, 1)
    });
    let began = tokio::time::Instant::now();
    for text in ["4", "5", "6"] {
        assert!(matches!(send(&mut sender, message(data(text))).await.unwrap(), Outcome::Accepted(_)));
    }
    assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
    let bodies: Vec<_> = rig.events_of("dev").into_iter().map(|event| event.body).collect();
    assert_eq!(bodies, ["1", "2", "4", "5", "6"]);
    let traffic = rig.hub.traffic();
    assert_eq!((traffic.telemetry.accepted, traffic.telemetry.throttled, traffic.connections), (5, 1, 1));
    assert!(traffic.telemetry.delayed >= 2, "{traffic:?}");
}

#[tokio::test]
async fn used_up_messages_of_the_day_are_refused_until_midnight() {
    let rig = rig(100, |settings| settings.daily_messages = Some(3)).await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    send(&mut sender, message(data("1"))).await.unwrap();
    // 4 KB make one message; this counts two.
    assert!(matches!(send(&mut sender, message(data([0; 4097]))).await.unwrap(), Outcome::Accepted(_)));
    let error = rejection(send(&mut sender, message(data("over"))).await.unwrap());
    assert_eq!(condition(&error), "amqp:resource-limit-exceeded");
    assert!(error.description.unwrap().contains("403002"));
    rig.clock.advance(24 * 3_600_000);
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    assert!(matches!(send(&mut sender, message(data("2"))).await.unwrap(), Outcome::Accepted(_)));
    let traffic = rig.hub.traffic();
    assert_eq!((traffic.used_today, traffic.telemetry.over_quota), (1, 1));
}

#[tokio::test]
async fn a_device_that_goes_on_is_cut_off_if_the_hub_is_told_to() {
    let rig = rig(1, |settings| settings.cut_after = Some(2)).await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    send(&mut sender, message(data("1"))).await.unwrap();
    for _ in 0..2 {
        rejection(send(&mut sender, message(data("over"))).await.unwrap());
    }
    let error = refusal_of(sender).await;
    assert_eq!(condition(&error), THROTTLED);
    assert!(error.description.unwrap().contains("429002"));
}

#[tokio::test]
async fn devices_connect_no_faster_than_the_tier_allows() {
    let rig = rig(2, |_| {}).await;
    let ids = ["a", "b", "c"];
    ids.iter().for_each(|id| rig.device(id));
    let mut client = rig.client_of(&ids).await;
    let _first = client.telemetry("a").await;
    // A further link of a device that is there already is no connect.
    let _again = attach(&mut client.session, "again", "/devices/a/messages/events").await;
    let _second = client.telemetry("b").await;
    let error = refusal_of(telemetry(&mut client.session, "c").await).await;
    assert_eq!(condition(&error), THROTTLED);
    let connects = rig.hub.traffic().connects;
    assert_eq!((connects.accepted, connects.throttled), (2, 1));
}

#[tokio::test]
async fn a_basic_tier_with_limits_lacks_what_basic_lacks() {
    let rig = Rig::of(AmqpOptions::default(), |hub| hub.with_tier(Tier::B2)).await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let twin = attach(&mut client.session, "twin", "/devices/dev/twin").await;
    assert_eq!(condition(&refusal_of(twin).await), "amqp:not-allowed");
}
