//! What goes wrong at the hub, and what the caller is told: never nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tti_connector::iot_hub::{IotHub, RetryReason, SendError, Trouble};

use super::hub::{Answer, Door, Seen, TestHub};
use super::hub_amqp::{DETACH, NO_REPLY};
use super::{by_key, by_policy, ids, telemetry};

/// The error in short: `link device`, `connection hub`, `reresolve unauthorized`, `park rejected`.
pub(super) fn short(error: &SendError) -> String {
    match error {
        SendError::Retry { reason, trouble: Trouble::Device, .. } => format!("{} device", reason.as_str()),
        SendError::Retry { reason, trouble: Trouble::Hub(_), .. } => format!("{} hub", reason.as_str()),
        SendError::Reresolve { reason, .. } => format!("reresolve {reason}"),
        SendError::Park { reason, .. } => format!("park {reason}"),
    }
}

/// Gives the first answer once, then accepts.
fn once(answer: Answer) -> impl FnMut(String) -> Answer + Send {
    let mut first = Some(answer);
    move |_| first.take().unwrap_or(Answer::Accept)
}

#[tokio::test]
async fn every_outcome_and_every_way_to_lose_the_link_is_told_and_the_next_send_goes_through() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.send_timeout = Duration::from_secs(1);
    let hub = IotHub::new(options);
    let device = by_key(&test_hub, "a");
    for (number, (answer, expected)) in [
        (Answer::Reject("amqp:not-found"), "reresolve device_unknown"),
        (Answer::Reject("com.microsoft:device-container-throttled"), "throttled device"),
        (Answer::Reject("amqp:link:message-size-exceeded"), "park too_large"),
        (Answer::Reject("amqp:resource-limit-exceeded"), "quota device"),
        (Answer::RejectBare, "park rejected"),
        (Answer::Release, "released device"),
        (Answer::Modify { undeliverable: false }, "released device"),
        (Answer::Modify { undeliverable: true }, "park rejected"),
        (Answer::Detach("amqp:link:detach-forced"), "link device"),
        (Answer::Detach("amqp:not-found"), "reresolve device_unknown"),
        (Answer::Detach("com.microsoft:iot-hub-suspended"), "hub hub"),
        (Answer::End("amqp:session:window-violation"), "link device"),
        (Answer::End("amqp:internal-error"), "hub device"),
        (Answer::Silence, "timeout device"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{number} {answer:?}");
        test_hub.on_message(once(answer));
        let error = hub.send(&device, &telemetry(&name)).await.unwrap_err();
        assert_eq!(short(&error), expected, "{name}: {error}");
        hub.send(&device, &telemetry("next")).await.unwrap_or_else(|error| panic!("after {name}: {error}"));
    }
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Opened(_))), 1, "no answer cost the connection");
    hub.close().await;
}

#[tokio::test]
async fn a_lost_connection_fails_all_its_sends_at_once_and_comes_back_by_itself() {
    for (lose, expected) in [
        (Answer::Kill, "connection hub"),
        (Answer::Close("amqp:connection:forced"), "connection hub"),
        (Answer::Close("com.microsoft:iot-hub-suspended"), "hub hub"),
    ] {
        let test_hub = TestHub::start().await;
        let hub = IotHub::new(test_hub.options());
        let devices: Vec<_> = (0..5).map(|n| by_key(&test_hub, &n.to_string())).collect();
        for device in &devices {
            hub.send(device, &telemetry("before")).await.unwrap();
        }
        let mut hub_up = hub.hub_up();
        test_hub.on_message(|_| Answer::Silence);
        let sends = devices.iter().map(|device| {
            let hub = hub.clone();
            async move { hub.send(device, &telemetry("lost")).await }
        });
        let sends = futures_util::future::join_all(sends);
        let cut = async {
            test_hub.wait(10, |seen| matches!(seen, Seen::Got { .. })).await;
            test_hub.command(0, lose.clone());
        };
        // Far below the five seconds that a send waits for its outcome.
        let (results, ()) =
            tokio::time::timeout(Duration::from_secs(3), async { tokio::join!(sends, cut) }).await.unwrap();
        for result in results {
            let error = result.unwrap_err();
            assert_eq!(short(&error), expected, "{lose:?}: {error}");
        }
        test_hub.on_message(|_| Answer::Accept);
        let up = tokio::time::timeout(Duration::from_secs(5), hub_up.recv()).await.unwrap().unwrap();
        assert_eq!(up, test_hub.address);
        for device in &devices {
            hub.send(device, &telemetry("after")).await.unwrap();
        }
        assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Opened(_))), 2, "{lose:?}");
        hub.close().await;
    }
}

#[tokio::test]
async fn a_hub_that_falls_silent_is_noticed() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.silence_limit = Duration::from_millis(1_000);
    options.send_timeout = Duration::from_secs(60);
    let hub = IotHub::new(options);
    let device = by_key(&test_hub, "a");
    hub.send(&device, &telemetry("before")).await.unwrap();
    test_hub.command(0, Answer::Freeze);
    let text = telemetry("lost");
    let lost = tokio::time::timeout(Duration::from_secs(8), hub.send(&device, &text));
    assert_eq!(short(&lost.await.unwrap().unwrap_err()), "connection hub");
    hub.send(&device, &telemetry("after")).await.or_else(after_reconnect).unwrap();
    hub.close().await;
}

/// A send right after a loss may still be told so.
fn after_reconnect(error: SendError) -> Result<(), SendError> {
    if short(&error) == "connection hub" { Ok(()) } else { Err(error) }
}

#[tokio::test]
async fn a_hub_that_stops_reading_under_load_is_noticed() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.silence_limit = Duration::from_millis(1_000);
    options.send_timeout = Duration::from_secs(60);
    let hub = IotHub::new(options);
    let devices: Vec<_> = (0..60).map(|n| by_key(&test_hub, &n.to_string())).collect();
    for device in &devices {
        hub.send(device, &telemetry("before")).await.unwrap();
    }
    test_hub.command(0, Answer::Freeze);
    // Far more than all socket buffers take, so that the client stands still in the middle of a write.
    let mut large = telemetry("large");
    large.body = vec![b'x'; 250_000].into();
    let sends = futures_util::future::join_all(devices.iter().map(|device| hub.send(device, &large)));
    for sent in tokio::time::timeout(Duration::from_secs(10), sends).await.unwrap() {
        assert_eq!(short(&sent.unwrap_err()), "connection hub");
    }
    hub.close().await;
}

#[tokio::test]
async fn a_lost_token_link_costs_the_connection_once() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    let mut hub_up = hub.hub_up();
    hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap();
    assert_eq!(hub_up.recv().await.unwrap(), test_hub.address);
    test_hub.on_put(|_| (DETACH, ""));
    let error = hub.send(&by_key(&test_hub, "b"), &telemetry("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }), "{error}");
    test_hub.on_put(|_| (200, "OK"));
    tokio::time::timeout(Duration::from_secs(5), hub_up.recv()).await.unwrap().unwrap();
    for name in ["a", "b"] {
        hub.send(&by_key(&test_hub, name), &telemetry(name)).await.unwrap();
    }
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Opened(_))), 2);
    hub.close().await;
}

#[tokio::test]
async fn what_happens_to_one_device_does_not_touch_another() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    // `sharing` has those that share one.
    options.max_devices_per_session = 1;
    let hub = IotHub::new(options);
    let (good, bad) = (by_key(&test_hub, "good"), by_key(&test_hub, "bad"));
    hub.send(&good, &telemetry("0")).await.unwrap();
    let bad_ones = Arc::new(AtomicUsize::new(0));
    let counted = bad_ones.clone();
    test_hub.on_message(move |address| {
        if !address.contains("bad") {
            return Answer::Accept;
        }
        match counted.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Answer::Detach("amqp:link:detach-forced"),
            _ => Answer::End("amqp:internal-error"),
        }
    });
    for round in 1..=10 {
        let (bad_text, good_text) = (telemetry("x"), telemetry(&round.to_string()));
        let (bad, good) = tokio::join!(hub.send(&bad, &bad_text), hub.send(&good, &good_text));
        bad.unwrap_err();
        good.unwrap();
    }
    assert_eq!(bad_ones.load(Ordering::Relaxed), 10);
    let of_good = |seen: &Seen| matches!(seen, Seen::Attached { address, .. } if address.contains("good"));
    assert_eq!((test_hub.count(of_good), hub.status().connections), (1, 1));
    hub.close().await;
}

#[tokio::test]
async fn a_refused_attach_says_why() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    for (condition, expected) in [
        ("amqp:not-found", "reresolve device_unknown"),
        ("amqp:unauthorized-access", "reresolve unauthorized"),
        ("com.microsoft:device-container-throttled", "throttled device"),
        ("amqp:resource-locked", "link device"),
    ] {
        for device in [by_key(&test_hub, "a"), by_policy(&test_hub, "a")] {
            test_hub.on_attach(move |_| Door::Refuse(condition));
            let error = hub.send(&device, &telemetry("a")).await.unwrap_err();
            assert_eq!(short(&error), expected, "{condition}: {error}");
            test_hub.on_attach(|_| Door::Open);
            hub.send(&device, &telemetry("a")).await.unwrap();
        }
    }
    hub.close().await;
}

/// Processor time of this thread so far, where the system tells.
fn thread_time() -> Option<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

#[tokio::test]
async fn a_session_that_waits_for_its_end_to_be_answered_takes_no_processor_time() {
    const LAG: Duration = Duration::from_millis(1_500);
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    hub.send(&by_policy(&test_hub, "good"), &telemetry("good")).await.unwrap();
    test_hub.on_attach(
        |address| if address.contains("ill") { Door::Refuse("amqp:not-found") } else { Door::Open },
    );
    *test_hub.state.lag.lock().unwrap() = LAG;
    let before = thread_time();
    let error = hub.send(&by_policy(&test_hub, "ill"), &telemetry("a")).await.unwrap_err();
    assert_eq!(short(&error), "reresolve device_unknown", "{error}");
    // This takes until long after the hub's answer.
    hub.send(&by_policy(&test_hub, "good"), &telemetry("good again")).await.unwrap();
    let (Some(before), Some(after)) = (before, thread_time()) else {
        println!("skipped: needs /proc to see the processor time");
        return hub.close().await;
    };
    println!("processor time {:?}", after - before);
    assert!(after - before < LAG / 3, "{:?}", after - before);
    hub.close().await;
}

#[tokio::test]
async fn an_attach_without_answer_costs_one_device_its_time_and_nobody_else_anything() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.connect_timeout = Duration::from_millis(500);
    options.send_timeout = Duration::from_millis(500);
    let hub = IotHub::new(options);
    let (mute, good) = (by_key(&test_hub, "mute"), by_key(&test_hub, "good"));
    test_hub.on_attach(|address| if address.contains("mute") { Door::Silence } else { Door::Open });
    let error = hub.send(&mute, &telemetry("a")).await.unwrap_err();
    assert_eq!(short(&error), "timeout device", "{error}");
    for _ in 0..3 {
        hub.send(&good, &telemetry("b")).await.unwrap();
    }
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Opened(_))), 1);
    // The open attach stays pending, and with it the device; a cancelled one would take the connection along.
    let again = tokio::time::timeout(Duration::from_secs(5), hub.send(&mute, &telemetry("a"))).await;
    assert_eq!(short(&again.unwrap().unwrap_err()), "timeout device");
    let mutes = |seen: &Seen| matches!(seen, Seen::Attached { address, .. } if address.contains("mute"));
    assert_eq!(test_hub.count(mutes), 1, "never a second session while the first is opening");
    hub.close().await;
}

#[tokio::test]
async fn a_cancelled_send_leaves_the_connection_and_the_next_send_whole() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    let good = by_key(&test_hub, "good");
    hub.send(&good, &telemetry("good")).await.unwrap();
    // Cut while each of token, session, link and message is under way, with its answer still to come.
    *test_hub.state.lag.lock().unwrap() = Duration::from_millis(40);
    for millis in (0..200).step_by(10) {
        let device = by_key(&test_hub, &format!("d{millis}"));
        let text = telemetry("cut");
        let cut = tokio::time::timeout(Duration::from_millis(millis), hub.send(&device, &text)).await;
        assert!(cut.is_err() || cut == Ok(Ok(())));
        hub.send(&device, &telemetry("whole")).await.unwrap();
    }
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Opened(_))), 1);
    assert_eq!(ids(&test_hub).iter().filter(|id| *id == "whole").count(), 20);
    hub.close().await;
}

#[tokio::test]
async fn refused_tokens_are_told_by_their_status() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    for (status, expected) in [
        (400, "park rejected"),
        (401, "reresolve unauthorized"),
        (403, "reresolve unauthorized"),
        (404, "reresolve device_unknown"),
        (429, "connects_throttled device"),
        (500, "token device"),
    ] {
        test_hub.on_put(move |_| (status, "no"));
        let error = hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap_err();
        assert_eq!(short(&error), expected, "{error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    test_hub.on_put(|_| (202, "Accepted"));
    hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap();
    // Policy: the connection is not opened. No device is to blame, so their messages wait for a right key.
    for (status, expected) in [(400, "token device"), (401, "token device"), (404, "token device")] {
        test_hub.on_put(move |_| (status, "no"));
        let hub = IotHub::new(test_hub.options());
        let error = hub.send(&by_policy(&test_hub, "p"), &telemetry("a")).await.unwrap_err();
        assert_eq!(short(&error), expected, "{error}");
        assert!(error.to_string().contains("connection string"), "{error}");
        hub.close().await;
    }
    hub.close().await;
}

#[tokio::test]
async fn a_token_without_reply_is_a_passing_failure() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.send_timeout = Duration::from_millis(300);
    let hub = IotHub::new(options);
    let opened = |seen: &Seen| matches!(seen, Seen::Opened(_));
    for (unanswered, connections) in [(1, 1), (3, 2)] {
        test_hub.on_put(|_| (NO_REPLY, ""));
        for _ in 0..unanswered {
            let error = hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap_err();
            assert!(matches!(error, SendError::Retry { reason: RetryReason::Token, .. }), "{error}");
        }
        test_hub.on_put(|_| (200, ""));
        test_hub.wait(connections, opened).await;
        let mut sent = hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await;
        while sent.is_err() && connections == 2 {
            // The new connection is being announced.
            tokio::task::yield_now().await;
            sent = hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await;
        }
        sent.unwrap();
        hub.send(&by_key(&test_hub, "b"), &telemetry("b")).await.unwrap();
        assert_eq!(test_hub.count(opened), connections);
        // Next time it must put its token anew.
        test_hub.on_message(once(Answer::Detach("amqp:link:detach-forced")));
        hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap_err();
    }
    hub.close().await;
}

#[tokio::test]
async fn a_link_refused_for_its_token_gets_one_fresh_token_before_the_device_is_looked_up_again() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    let device = by_key(&test_hub, "a");
    hub.send(&device, &telemetry("0")).await.unwrap();
    let puts = |seen: &Seen| matches!(seen, Seen::Put { .. });

    test_hub.on_message(once(Answer::Detach("amqp:unauthorized-access")));
    hub.send(&device, &telemetry("1")).await.unwrap();
    assert_eq!(test_hub.count(puts), 2);

    test_hub.on_message(|_| Answer::Detach("amqp:unauthorized-access"));
    let error = hub.send(&device, &telemetry("2")).await.unwrap_err();
    assert_eq!(short(&error), "reresolve unauthorized");
    assert_eq!(test_hub.count(puts), 3, "one fresh token, not more");
    hub.close().await;
}

#[tokio::test]
async fn a_message_over_the_links_limit_is_parked_and_the_link_lives_on() {
    let test_hub =
        TestHub::start_with(super::hub::Limits { max_message_bytes: 1_000, ..Default::default() }).await;
    let hub = IotHub::new(test_hub.options());
    let device = by_key(&test_hub, "a");
    let error = hub.send(&device, &telemetry(&"x".repeat(2_000))).await.unwrap_err();
    assert_eq!(short(&error), "park too_large");
    hub.send(&device, &telemetry("b")).await.unwrap();
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Attached { .. })), 1);
    hub.close().await;
}
