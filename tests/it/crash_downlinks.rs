//! `kill -9` at random moments while cloud-to-device messages flow: each gives exactly one downlink, in order, and a
//! report.
//!
//! `TTI_KILLS=200 TTI_MESSAGES=1000 cargo test crash_downlinks` makes it longer; the seed is printed and can be set with
//! `TTI_SEED`.

mod flow;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tti_connector::emulator::things_stack::{Effect, Fault};

use crate::crash::from_env;
use flow::{Flow, Mix};

/// Runs the mix and looks at what The Things Stack got.
async fn exactly_once(mix: Mix) {
    let (kills, seed) = (from_env("TTI_KILLS", 10), from_env("TTI_SEED", fastrand::u64(..)));
    let messages = u32::try_from(from_env("TTI_MESSAGES", 100)).expect("fits");
    println!("TTI_SEED={seed} TTI_KILLS={kills} TTI_MESSAGES={messages}");
    let mut flow = Flow::start(mix, seed).await;
    flow.kill(u32::try_from(kills).expect("fits"), messages).await;
    let between = flow.pushes().len();
    flow.drain().await;

    let pushes = flow.pushes();
    let mut times: BTreeMap<u32, usize> = (0..messages).map(|number| (number, 0)).collect();
    let mut ids = HashSet::new();
    let mut order: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (number, push) in &pushes {
        *times.get_mut(number).expect("a message that was sent") += 1;
        ids.insert(push.downlink.correlation_ids[0].clone());
        order.entry(push.device.device_id.clone()).or_default().push(*number);
    }
    let count = |wrong: fn(usize) -> bool| times.values().filter(|times| wrong(**times)).count();
    let (lost, doubled) = (count(|times| times == 0), count(|times| times > 1));
    println!(
        "{kills} kills, {messages} messages, {} downlinks, {between} of them between kills, {lost} lost, {doubled} doubled; \
         {} reported sent",
        pushes.len(),
        flow.reported("sent").len()
    );
    assert_eq!((lost, doubled, pushes.len()), (0, 0, messages as usize));
    assert_eq!(ids.len(), pushes.len(), "each message has a correlation id of its own");
    assert_eq!(order, flow.order, "each device's downlinks are in the order sent");
    assert_eq!(flow.unreported(), HashSet::new());
    assert!(between as u64 > kills, "hardly anything was pushed between the kills, so they hit nothing");
}

fn mix() -> Mix {
    Mix { devices: 25, talking: 0, faults: Vec::new(), life: Duration::from_millis(600) }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_messages_flow_gives_each_exactly_one_downlink() {
    exactly_once(mix()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_downlinks_also_leave_their_queue_gives_each_exactly_one_downlink() {
    exactly_once(Mix { talking: 15, ..mix() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_the_things_stack_fails_and_loses_answers_gives_each_exactly_one_downlink() {
    let wait = [("x-rate-limit-retry".to_owned(), "1".to_owned())];
    let faults = vec![
        Fault { status: Some(429), headers: wait.into(), ..Fault::default() },
        Fault { status: Some(500), ..Fault::default() },
        Fault { status: Some(500), effect: Effect::After, ..Fault::default() },
        Fault { close: true, ..Fault::default() },
        Fault { close: true, effect: Effect::After, ..Fault::default() },
        Fault { status: Some(503), effect: Effect::After, delay_ms: 300, ..Fault::default() },
    ];
    exactly_once(Mix { talking: 10, faults, life: Duration::from_millis(1500), ..mix() }).await;
}
