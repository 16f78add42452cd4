//! The spool against a plain model of it, over random operations and restarts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use tti_connector::model::ParkReason;
use tti_connector::spool::{Appended, Claim, DedupKey, NewRecord, Selection, Seq, Spool, SpoolError, State};

use super::{Place, seqs, take};

const WINDOW_MS: i64 = 1000;
const MAX_MESSAGES: usize = 6;
const MAX_PARKED: usize = 3;
/// The device whose record is being written when the power is cut.
const LAST: u8 = 3;

#[derive(Clone, Debug)]
enum Step {
    Append {
        device: u8,
        key: Option<u8>,
    },
    Take,
    Done(usize),
    Park(usize),
    Requeue(usize),
    RequeueGroup(u8),
    Discard(usize),
    Wait(i64),
    Reopen,
    /// While one more record is written: of what that wrote, so many of a hundred sectors are on disk.
    PowerCut {
        kept: u8,
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8, prop::option::of(0..6u8)).prop_map(|(device, key)| Step::Append { device, key }),
        2 => Just(Step::Take),
        2 => any::<usize>().prop_map(Step::Done),
        3 => any::<usize>().prop_map(Step::Park),
        1 => any::<usize>().prop_map(Step::Requeue),
        1 => (0..2u8).prop_map(Step::RequeueGroup),
        1 => any::<usize>().prop_map(Step::Discard),
        1 => (1..WINDOW_MS).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
        1 => (prop_oneof![Just(0), Just(100), 1..100u8], any::<u64>())
            .prop_map(|(kept, seed)| Step::PowerCut { kept, seed }),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Kept {
    device: u8,
    body: String,
}

/// Devices 0 and 2 are of one application, 1 and 3 of another.
fn group(device: u8) -> u8 {
    device % 2
}

#[derive(Default)]
struct Model {
    next: i64,
    bodies: usize,
    now_ms: i64,
    pending: BTreeMap<Seq, Kept>,
    parked: BTreeMap<Seq, Kept>,
    keys: HashMap<u8, (Seq, i64)>,
    /// Pending and not yet given to the claim.
    to_give: VecDeque<Seq>,
}

impl Model {
    fn store(&mut self, kept: Kept) -> Seq {
        self.next += 1;
        self.pending.insert(Seq(self.next), kept);
        self.to_give.push_back(Seq(self.next));
        Seq(self.next)
    }

    fn append(&mut self, device: u8, key: Option<u8>, body: &str) -> Result<Appended, &'static str> {
        let known = key.and_then(|key| self.keys.get(&key)).filter(|(_, expires)| *expires > self.now_ms);
        if let Some((seq, _)) = known {
            return Ok(Appended::Duplicate(*seq));
        }
        if self.parked.len() >= MAX_PARKED
            && self.parked.values().any(|kept| group(kept.device) == group(device))
        {
            return Err("parked full");
        }
        if self.pending.len() + self.parked.len().saturating_sub(MAX_PARKED) >= MAX_MESSAGES {
            return Err("full");
        }
        let seq = self.store(Kept { device, body: body.to_owned() });
        if let Some(key) = key {
            self.keys.insert(key, (seq, self.now_ms + WINDOW_MS));
        }
        Ok(Appended::Stored(seq))
    }

    fn requeue(&mut self, old: Seq) {
        let kept = self.parked.remove(&old).unwrap();
        let seq = self.store(kept);
        self.keys.values_mut().filter(|(of, _)| *of == old).for_each(|(of, _)| *of = seq);
    }

    /// One that was given and is still pending; the consumer knows no others.
    fn given(&self, pick: usize) -> Option<Seq> {
        let given: Vec<_> = self.pending.keys().filter(|seq| !self.to_give.contains(seq)).collect();
        (!given.is_empty()).then(|| *given[pick % given.len()])
    }

    fn parked_one(&self, pick: usize) -> Option<Seq> {
        self.parked.keys().nth(pick % self.parked.len().max(1)).copied()
    }
}

async fn follow(steps: Vec<Step>) {
    let mut place = Place::new();
    place.config.dedup_window = Duration::from_millis(WINDOW_MS as u64);
    place.config.max_messages = MAX_MESSAGES as u64;
    place.config.parked_max_messages = MAX_PARKED as u64;
    let (mut spool, mut claim) = place.open();
    let mut model = Model { now_ms: place.clock.now_ms(), ..Model::default() };
    for step in steps {
        match step {
            Step::Append { device, key } => {
                model.bodies += 1;
                let body = format!("body {}", model.bodies);
                let record = NewRecord {
                    dedup: key.map(|key| DedupKey([key; 16])),
                    group: format!("app {}", group(device)).into(),
                    ..super::record(&device.to_string(), body.clone())
                };
                let answer = spool.append(record).await.map_err(|error| match error {
                    SpoolError::Full(_) => "full",
                    SpoolError::ParkedFull(_) => "parked full",
                    other => panic!("{other}"),
                });
                assert_eq!(answer, model.append(device, key, &body));
            }
            Step::Take => give(&mut claim, &mut model).await,
            Step::Done(pick) => {
                if let Some(seq) = model.given(pick) {
                    model.pending.remove(&seq);
                    spool.done(seq);
                }
            }
            Step::Park(pick) => {
                if let Some(seq) = model.given(pick) {
                    let kept = model.pending.remove(&seq).unwrap();
                    model.parked.insert(seq, kept);
                    spool.park(seq, ParkReason::Rejected, "why").await.unwrap();
                }
            }
            Step::Requeue(pick) => {
                if let Some(seq) = model.parked_one(pick) {
                    model.requeue(seq);
                    assert_eq!(spool.requeue(&Selection::Seqs(vec![seq])).await, Ok(1));
                }
            }
            Step::RequeueGroup(of) => {
                let all: Vec<Seq> = model
                    .parked
                    .iter()
                    .filter(|(_, kept)| group(kept.device) == of)
                    .map(|(seq, _)| *seq)
                    .collect();
                all.iter().for_each(|seq| model.requeue(*seq));
                let filter = tti_connector::spool::ParkedFilter {
                    group: Some(format!("app {of}")),
                    reason: Some(ParkReason::Rejected),
                };
                assert_eq!(spool.requeue(&Selection::Matching(filter)).await, Ok(all.len() as u64));
            }
            Step::Discard(pick) => {
                if let Some(seq) = model.parked_one(pick) {
                    model.parked.remove(&seq);
                    assert_eq!(spool.discard(&Selection::Seqs(vec![seq])).await, Ok(1));
                }
            }
            Step::Wait(ms) => {
                place.clock.advance(ms);
                model.now_ms += ms;
            }
            Step::Reopen => {
                spool.close().await;
                (spool, claim) = place.open();
                model.to_give = model.pending.keys().copied().collect();
            }
            Step::PowerCut { kept, seed } => {
                model.bodies += 1;
                let body = format!("body {}", model.bodies);
                let stored = model.append(LAST, None, &body);
                cut_power(&mut place, &spool, &body, kept, seed).await;
                spool.close().await;
                (spool, claim) = place.open();
                assert!(!spool.stats().set_aside, "a power cut is no damage");
                if let Ok(Appended::Stored(seq)) = stored
                    && spool.body(seq).await.unwrap().is_none()
                {
                    // Nobody was told of it, so it may be gone; all of it, and its number, too.
                    assert!(kept < 100);
                    model.pending.remove(&seq);
                    model.next -= 1;
                }
                model.to_give = model.pending.keys().copied().collect();
            }
        }
        agree(&spool, &model).await;
    }
    give(&mut claim, &mut model).await;
    spool.close().await;
    (spool, claim) = place.open();
    model.to_give = model.pending.keys().copied().collect();
    give(&mut claim, &mut model).await;
    agree(&spool, &model).await;
}

/// Appends one record, and goes on in a folder as a power cut in the middle of that may leave it.
async fn cut_power(place: &mut Place, spool: &Spool, body: &str, kept: u8, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    spool.flush().await.unwrap();
    let read = |place: &Place, file: &str| fs::read(place.config.directory.join(file)).unwrap();
    let (database, before) = (read(place, "spool.db"), read(place, "spool.db-wal"));
    let record = NewRecord {
        group: format!("app {}", group(LAST)).into(),
        ..super::record(&LAST.to_string(), body.to_owned())
    };
    _ = spool.append(record).await;
    let mut log = read(place, "spool.db-wal");
    // A log that was begun again meanwhile is no longer the one the append went to.
    if log.starts_with(&before) && read(place, "spool.db") == database {
        for sector in log[before.len()..].chunks_mut(512) {
            if random.u8(..100) >= kept {
                sector.fill(0);
            }
        }
    }
    let database = read(place, "spool.db");
    place.config.directory = place.config.directory.with_file_name(format!("cut-{}", random.u64(..)));
    fs::create_dir(&place.config.directory).unwrap();
    fs::write(place.config.directory.join("spool.db"), database).unwrap();
    fs::write(place.config.directory.join("spool.db-wal"), log).unwrap();
}

async fn give(claim: &mut Claim, model: &mut Model) {
    if !model.to_give.is_empty() {
        let taken = take(claim, model.to_give.len()).await;
        assert_eq!(seqs(&taken), Vec::from(std::mem::take(&mut model.to_give)));
        for record in taken {
            let device = model.pending[&record.seq].device.to_string();
            assert!(record.lane.ends_with(&device), "{record:?}");
        }
    }
}

async fn agree(spool: &Spool, model: &Model) {
    spool.flush().await.unwrap();
    let stats = spool.stats();
    let bytes = |of: &BTreeMap<Seq, Kept>| of.values().map(|kept| kept.body.len() as u64).sum::<u64>();
    assert_eq!(
        (stats.pending, stats.pending_bytes, stats.parked, stats.parked_bytes),
        (model.pending.len() as u64, bytes(&model.pending), model.parked.len() as u64, bytes(&model.parked))
    );
    for seq in (1..=model.next).map(Seq) {
        let kept = model.pending.get(&seq).or_else(|| model.parked.get(&seq));
        let body = spool.body(seq).await.unwrap();
        assert_eq!(body.as_deref(), kept.map(|kept| kept.body.as_bytes()), "{seq:?}");
        match spool.state_of(seq).await {
            State::Pending => assert!(model.pending.contains_key(&seq)),
            State::Parked { .. } => assert!(model.parked.contains_key(&seq)),
            State::Gone => assert_eq!(kept, None),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(steps in prop::collection::vec(step(), 1..50)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(follow(steps));
    }
}
