//! Random lives: requests that come again, answers and events that get lost, crashes and failing writes. What the ledger
//! has proof of is never pushed again; what was never queued is never taken for done.

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;

const MESSAGES: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Push {
    /// Taken, and we know.
    Taken,
    /// Taken, and the answer is lost.
    AnswerLost,
    /// Certainly not taken.
    Refused,
    /// Not taken, and we don't know.
    NeverArrived,
}

#[derive(Clone, Debug)]
enum Step {
    Deliver { message: usize, push: Push },
    Radio { message: usize },
    Event { which: usize, lost: bool },
    Flush,
    Crash,
    Fuse(usize),
    FailNext { after: usize, kept: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let push = prop_oneof![
        3 => Just(Push::Taken),
        2 => Just(Push::AnswerLost),
        2 => Just(Push::Refused),
        1 => Just(Push::NeverArrived),
    ];
    prop_oneof![
        8 => (0..MESSAGES, push).prop_map(|(message, push)| Step::Deliver { message, push }),
        3 => (0..MESSAGES).prop_map(|message| Step::Radio { message }),
        6 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(which, lost)| Step::Event { which, lost }),
        1 => Just(Step::Flush),
        2 => Just(Step::Crash),
        2 => (0..6_usize).prop_map(Step::Fuse),
        2 => (0..4_usize, any::<bool>()).prop_map(|(after, kept)| Step::FailNext { after, kept }),
    ]
}

/// What must survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Proof {
    #[default]
    None,
    /// Until a crash.
    Told,
    /// For good.
    Durable,
}

#[derive(Default)]
struct World {
    queue: Vec<usize>,
    taken: [u32; MESSAGES],
    proof: [Proof; MESSAGES],
    /// A push whose outcome was not told to the ledger.
    unsure: [bool; MESSAGES],
    webhook: Vec<(DownlinkState, usize)>,
}

/// 0 and 1 are one device's, 1 and 3 replace, 2 and 3 are confirmed.
fn message(number: usize) -> NewEntry {
    NewEntry {
        device: device(if number < 2 { "cellar" } else { "attic" }),
        confirmed: number >= 2,
        operation: if number % 2 == 1 { Operation::Replace } else { Operation::Push },
        ..entry(&number.to_string())
    }
}

impl World {
    fn take(&mut self, number: usize) {
        if message(number).operation == Operation::Replace {
            self.queue.retain(|other| message(*other).device != message(number).device);
        }
        self.queue.push(number);
        self.taken[number] += 1;
        self.webhook.push((DownlinkState::Queued, number));
    }

    async fn deliver(&mut self, ledger: &Ledger<Disk, Disk>, number: usize, push: Push) {
        let new = message(number);
        let known = match ledger.begin(new.clone()).await {
            Err(_) => return,
            Ok(Begun::New) => {
                assert!(!self.unsure[number], "new, though The Things Stack may have {number}");
                false
            }
            // Once it was sent, its queue does not tell any more.
            Ok(Begun::Unsure) => self.queue.contains(&number),
            Ok(begun @ (Begun::Queued { .. } | Begun::Ended(_))) => {
                assert!(self.taken[number] > 0, "{begun:?}, though {number} was never queued");
                return;
            }
        };
        if known {
            ledger.queued(new.id).await;
            self.proof[number] = self.proof[number].max(Proof::Told);
            return;
        }
        assert_eq!(self.proof[number], Proof::None, "{number} is pushed again though there was proof");
        self.unsure[number] = true;
        match push {
            Push::Taken => {
                self.take(number);
                ledger.queued(new.id).await;
                self.proof[number] = Proof::Told;
            }
            Push::AnswerLost => self.take(number),
            Push::Refused => {
                ledger.put_back(new.id).await;
                self.unsure[number] = false;
            }
            Push::NeverArrived => {}
        }
    }

    async fn event(&mut self, ledger: &Ledger<Disk, Disk>, which: usize, lost: bool) {
        if self.webhook.is_empty() {
            return;
        }
        let at = which % self.webhook.len();
        let (state, number) = self.webhook[at];
        if lost {
            self.webhook.swap_remove(at);
            return;
        }
        let told = ledger.witness(&message(number).device, &event(state, &[&number.to_string()])).await;
        // Known in any case; a crash may take it while the webhook got no 2xx.
        self.proof[number] = self.proof[number].max(Proof::Told);
        if told.is_ok() {
            self.proof[number] = Proof::Durable;
            self.webhook.swap_remove(at);
        }
    }

    async fn act(&mut self, ledger: &Ledger<Disk, Disk>, disk: &Disk, step: &Step) {
        match step {
            Step::Deliver { message, push } => self.deliver(ledger, *message, *push).await,
            Step::Radio { message: number } => {
                if let Some(at) = self.queue.iter().position(|queued| queued == number) {
                    self.queue.remove(at);
                    self.webhook.push((DownlinkState::Sent, *number));
                    if message(*number).confirmed {
                        self.webhook.push((DownlinkState::Ack, *number));
                    }
                }
            }
            Step::Event { which, lost } => self.event(ledger, *which, *lost).await,
            Step::Flush => flush(ledger).await,
            Step::Fuse(steps) => disk.kept().fuse = Some(*steps),
            Step::FailNext { after, kept } => {
                disk.kept().fails_after = Some(*after);
                disk.kept().kept_though_failing = *kept;
            }
            Step::Crash => unreachable!("the caller's"),
        }
    }

    fn crash(&mut self) {
        for proof in &mut self.proof {
            if *proof == Proof::Told {
                *proof = Proof::None;
            }
        }
    }
}

async fn flush(ledger: &Ledger<Disk, Disk>) {
    let stop = CancellationToken::new();
    stop.cancel();
    ledger.run(stop).await;
}

async fn live(steps: &[Step]) {
    let disk = Disk::new();
    let mut world = World::default();
    let mut ledger = disk.load().await;
    for step in steps {
        // The fuse of an earlier step burns in this one.
        let fuse = disk.kept().fuse;
        let crashed = matches!(step, Step::Crash) || {
            let acted = disk.until_crash(world.act(&ledger, &disk, step)).await;
            if acted && let Step::Fuse(steps) = step {
                disk.kept().fuse = Some(*steps);
            } else if acted && fuse.is_some() {
                disk.kept().fuse = Some(1);
            }
            !acted
        };
        if crashed {
            ledger = disk.load().await;
            world.crash();
        }
    }
    // In the end all goes well.
    {
        let mut kept = disk.kept();
        (kept.fuse, kept.fails_after) = (None, None);
    }
    for _ in 0..3 {
        while !world.webhook.is_empty() {
            world.event(&ledger, 0, false).await;
        }
        for number in 0..MESSAGES {
            world.deliver(&ledger, number, Push::Taken).await;
        }
    }
    flush(&ledger).await;
    let ledger = disk.load().await;
    for number in 0..MESSAGES {
        assert!(world.taken[number] > 0, "{number} was lost");
        let begun = begun(&ledger, message(number)).await;
        assert!(matches!(begun, Begun::Queued { .. } | Begun::Ended(_)), "{number}: {begun:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_proven_is_pushed_again_and_nothing_is_lost(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(live(&steps));
    }
}
