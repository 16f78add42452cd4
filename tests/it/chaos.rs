//! Everything fails at random while uplinks flow: nothing is lost, doubled without cause or out of order.
//!
//! Lasts 15 s, or `TTI_CHAOS_SECONDS`; `TTI_SEED` chooses the same failures again, though not the same timing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tti_connector::app::Connector;
use tti_connector::emulator::{DeviceStatus, Event, Hub, Refusal};
use tti_connector::model::{EndDevice, Secret};
use tti_connector::spool::{ParkedFilter, Seq};

use crate::messages::{DEADLINE, uplink};
use crate::world::{Poster, World, frame_counter};

/// By DPS over three hubs, and by the first hub's policy.
const DEVICES: [(&str, usize); 2] = [("by-dps", 45), ("by-policy", 15)];
const HUBS: usize = 3;
/// Between two rounds of uplinks, and their number in one.
const ROUND: (Duration, usize) = (Duration::from_millis(25), 8);
/// Longest pause between two failures.
const STRIKE_MS: u64 = 250;

/// What happened to a device's link, or could have.
#[derive(Default)]
struct Cuts {
    /// Of all links at once.
    all: usize,
    /// Of one device's.
    of: HashMap<String, usize>,
}

struct Chaos {
    rng: fastrand::Rng,
    names: Vec<(&'static str, String)>,
    cuts: Cuts,
    /// What arrived at emulators that are gone, in order within each.
    before: Vec<Event>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let names = |(application, count): (&'static str, usize)| {
            (0..count).map(move |index| (application, format!("{application}-{index}")))
        };
        Self {
            rng: fastrand::Rng::with_seed(seed),
            names: DEVICES.into_iter().flat_map(names).collect(),
            cuts: Cuts::default(),
            before: Vec::new(),
        }
    }

    /// One failure, or the end of some.
    async fn strike(&mut self, world: World) -> World {
        let (application, name) = self.names[self.rng.usize(..self.names.len())].clone();
        let hub = world.emulator.hubs().iter().find(|hub| hub.device(&name).is_some());
        let hub = hub.unwrap_or(world.hub(0)).clone();
        match self.rng.u8(..20) {
            0..2 => return self.restart(world).await,
            2..=5 => {
                *self.cuts.of.entry(name.clone()).or_default() += 1;
                _ = hub.delete_device(&name, None);
            }
            6..=8 => {
                *self.cuts.of.entry(name.clone()).or_default() += 1;
                _ = hub.update_device(&name, DeviceStatus::Disabled, None, None);
            }
            9..=10 => {
                *self.cuts.of.entry(name.clone()).or_default() += 1;
                let key = || "bmV3IGtleQ==".to_owned();
                _ = hub.update_device(&name, DeviceStatus::Enabled, Some((key(), key())), None);
            }
            11..=13 => {
                let status = if self.rng.bool() { 429 } else { 500 };
                let error_code = u32::from(status) * 1000 + 1;
                let refusal =
                    Refusal { status, error_code, message: "as told".to_owned(), retry_after_s: None };
                world.emulator.dps().set_refusal(Some(refusal));
            }
            14..=16 => world.emulator.dps().set_refusal(None),
            17.. => self.mend(&world),
        }
        if application == "by-policy" && self.rng.bool() {
            _ = world.hub(0).create_device(&name, None);
        }
        world
    }

    async fn restart(&mut self, world: World) -> World {
        self.cuts.all += 1;
        let World { dir, emulator } = world;
        let (ready, hubs) = (emulator.ready().clone(), emulator.hubs().to_vec());
        emulator.shutdown().await;
        self.before.extend(in_order(&hubs));
        sleep(Duration::from_millis(self.rng.u64(..1500))).await;
        World::start_on(dir, &ready).await
    }

    /// All devices may connect again. DPS makes its own anew.
    fn mend(&self, world: &World) {
        for hub in world.emulator.hubs() {
            for device in hub.devices() {
                _ = hub.update_device(&device.device_id, DeviceStatus::Enabled, None, None);
            }
        }
        for (_, name) in self.names.iter().filter(|(application, _)| *application == "by-policy") {
            _ = world.hub(0).create_device(name, None);
        }
    }
}

fn in_order(hubs: &[std::sync::Arc<Hub>]) -> Vec<Event> {
    let mut events: Vec<_> = hubs.iter().flat_map(|hub| hub.all_events()).collect();
    events.sort_by_key(|event| (event.enqueued_ms, event.sequence_number));
    events
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_out_of_order_whatever_fails() {
    let seed = from_environment("TTI_SEED").unwrap_or_else(|| fastrand::u64(..));
    let lasting = Duration::from_secs(from_environment("TTI_CHAOS_SECONDS").unwrap_or(15));
    println!("TTI_SEED={seed}");
    let mut chaos = Chaos::new(seed);
    let mut world = World::new(HUBS).await;
    chaos.mend(&world);
    let mut config = world.config();
    let string = world.hub(0).connection_string("iothubowner").expect("a policy");
    let azure = config.azure.applications.entry("by-policy".to_owned()).or_default();
    azure.iot_hub.connection_string = Some(Secret::new(string));
    config.devices.negative_ttl = Duration::from_millis(300);
    let connector = Connector::start(config).await.expect("the connector starts");
    let poster = Poster::to(&connector);

    let end = Instant::now() + lasting;
    let posting = tokio::spawn(post_until(end, poster, chaos.names.clone(), chaos.rng.fork()));
    while Instant::now() < end {
        sleep(Duration::from_millis(chaos.rng.u64(..STRIKE_MS))).await;
        world = chaos.strike(world).await;
    }
    let posted = posting.await.expect("every post is answered 202");
    world.emulator.dps().set_refusal(None);
    chaos.mend(&world);
    drained(&connector, seed).await;

    let parked = parked(&connector).await;
    let mut events = std::mem::take(&mut chaos.before);
    events.extend(in_order(world.emulator.hubs()));
    let mut arrived: HashMap<&str, Vec<u32>> = HashMap::new();
    for event in &events {
        let f_cnt = u32::try_from(frame_counter(event)).expect("a frame counter");
        arrived.entry(&event.device_id).or_default().push(f_cnt);
    }
    let (mut doubled, mut sum) = (0, 0);
    for (name, last) in &posted {
        let mut counters = arrived.remove(name.as_str()).unwrap_or_default();
        let all = counters.len();
        // A message that was under way when its link was lost may come twice, but then at once.
        counters.dedup();
        let twice = all - counters.len();
        assert!(counters.is_sorted_by(|a, b| a < b), "TTI_SEED={seed} {name} out of order: {counters:?}");
        let cuts = chaos.cuts.all + chaos.cuts.of.get(name).copied().unwrap_or(0);
        assert!(twice <= cuts, "TTI_SEED={seed} {name}: {twice} doubled, its link was cut {cuts} times");
        let kept = |f_cnt: &u32| counters.contains(f_cnt) || parked.contains(&(name.clone(), *f_cnt));
        let lost: Vec<_> = (1..=*last).filter(|f_cnt| !kept(f_cnt)).collect();
        assert!(lost.is_empty(), "TTI_SEED={seed} {name} lost {lost:?}");
        (doubled, sum) = (doubled + twice, sum + last);
    }
    assert!(arrived.is_empty(), "nobody else sends");
    assert!(parked.len() * 2 < sum as usize, "most messages get through: {} of {sum} parked", parked.len());
    println!(
        "{sum} uplinks, {} parked, {doubled} doubled, {} restarts, {} cuts of single devices",
        parked.len(),
        chaos.cuts.all,
        chaos.cuts.of.values().sum::<usize>()
    );
    connector.stop().await;
}

/// Posts uplinks of random devices; gives each one's last frame counter.
async fn post_until(
    end: Instant,
    poster: Poster,
    names: Vec<(&'static str, String)>,
    mut rng: fastrand::Rng,
) -> BTreeMap<String, u32> {
    let mut posted: BTreeMap<String, u32> = BTreeMap::new();
    while Instant::now() < end {
        let chosen: BTreeSet<_> = (0..ROUND.1).map(|_| rng.usize(..names.len())).collect();
        let messages = chosen.into_iter().map(|index| {
            let (application, name) = &names[index];
            let f_cnt = posted.entry(name.clone()).or_default();
            *f_cnt += 1;
            uplink(application, name, *f_cnt)
        });
        let messages: Vec<_> = messages.collect();
        let statuses = join_all(messages.iter().map(|message| poster.post(message))).await;
        assert!(statuses.iter().all(|status| *status == 202), "{statuses:?}");
        sleep(ROUND.0).await;
    }
    posted
}

/// Waits until nothing is pending any more. Both a hub that came and went often and a DPS that failed long are left
/// alone for up to a minute.
async fn drained(connector: &Connector, seed: u64) {
    let began = Instant::now();
    loop {
        connector.spool().flush().await.expect("flushed");
        let pending = connector.spool().stats().pending;
        if pending == 0 {
            println!("drained in {:?}", began.elapsed());
            return;
        }
        assert!(began.elapsed() < DEADLINE * 2, "TTI_SEED={seed}: {pending} still pending");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Device and frame counter of all parked messages.
async fn parked(connector: &Connector) -> BTreeSet<(String, u32)> {
    let (mut all, mut after) = (BTreeSet::new(), Seq(0));
    loop {
        let page = connector.spool().parked(&ParkedFilter::default(), after, 1000).await.expect("a list");
        let Some(last) = page.last() else { return all };
        after = last.seq;
        for record in page {
            let body = connector.spool().body(record.seq).await.expect("readable").expect("parked");
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            let f_cnt = body["uplink_message"]["f_cnt"].as_u64().expect("a counter");
            let device = EndDevice::from_key(&record.lane).expect("a device");
            all.insert((device.device_id().to_owned(), u32::try_from(f_cnt).expect("small")));
        }
    }
}
