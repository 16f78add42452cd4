//! Our clock jumps while tokens are renewed: each stays good by the hub's clock, and none is renewed early.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tti_connector::emulator::Token;
use tti_connector::iot_hub::IotHub;
use tti_connector::model::Clock;

use super::hub::{Seen, TestHub};
use super::{by_key, by_policy, telemetry};

const HOUR_MS: i64 = 3_600_000;
const DEVICES: usize = 5;
const LIFETIME: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_makes_no_token_expire_early_and_none_be_renewed_early() {
    let test_hub = TestHub::start().await;
    let clock = Clock::shifted(0);
    let mut options = test_hub.options();
    options.token_lifetime = LIFETIME;
    options.clock = clock.clone();
    let hub = IotHub::new(options);
    let is_put = |seen: &Seen| matches!(seen, Seen::Put { .. });
    let began = Instant::now();
    for number in 0..DEVICES {
        hub.send(&by_key(&test_hub, &number.to_string()), &telemetry("x")).await.unwrap();
    }
    for jump in [HOUR_MS, -2 * HOUR_MS, HOUR_MS] {
        clock.advance(jump);
        let before = test_hub.count(is_put);
        test_hub.wait(before + DEVICES, is_put).await;
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // Each is renewed at 85 % of its life, and the last may be just due.
    let most =
        DEVICES * (2 + (began.elapsed().as_secs_f64() / LIFETIME.mul_f64(0.85).as_secs_f64()) as usize);
    let started_s = now_s - began.elapsed().as_secs() - 1;
    let puts = test_hub.count(is_put);
    assert!((DEVICES * 4..=most).contains(&puts), "{puts} tokens, at most {most} expected");
    for seen in test_hub.seen() {
        if let Seen::Put { token, .. } = seen {
            let expiry = Token::parse(&token).unwrap().expiry;
            assert!(expiry > started_s, "a token that had expired when it was put: {expiry} at {now_s}");
        }
    }
    hub.close().await;
}

#[tokio::test]
async fn a_refused_token_names_our_clock_beside_the_key() {
    let test_hub = TestHub::start().await;
    test_hub.on_put(|_| (401, "Unauthorized"));
    let mut options = test_hub.options();
    options.clock = Clock::manual(1_700_000_000_000);
    let hub = IotHub::new(options);
    for device in [by_key(&test_hub, "a"), by_policy(&test_hub, "b")] {
        let error = hub.send(&device, &telemetry("x")).await.unwrap_err().to_string();
        assert!(error.contains("this machine's clock, which says 2023-11-14T22:13:20Z"), "{error}");
    }
    hub.close().await;
}
