//! One message gives one downlink and its reports, wherever the program crashes and whichever write fails.

use std::collections::VecDeque;

use tokio_util::sync::CancellationToken;

use super::*;

/// The hub, The Things Stack and its webhook; they do not crash with us.
#[derive(Default)]
struct World {
    /// Messages that are not completed, with the reason if they are invalid.
    hub: VecDeque<(NewEntry, Option<&'static str>)>,
    /// Correlation ids in The Things Stack's queue.
    queue: Vec<EntryId>,
    /// Every push that it took.
    taken: Vec<String>,
    /// Events that got no 2xx.
    webhook: VecDeque<DownlinkEvent>,
}

impl World {
    fn new() -> Self {
        let hub = [
            (entry("a"), None),
            (entry("b"), None),
            (entry("bad"), Some("FPort 300")),
            (replace("r"), None),
            (confirmed("c"), None),
        ];
        Self { hub: hub.into(), ..Self::default() }
    }

    /// Takes a downlink; the event leaves before the answer.
    fn push(&mut self, new: &NewEntry) {
        if new.operation == Operation::Replace {
            self.queue.clear();
        }
        self.queue.push(new.id);
        self.taken.push(new.correlation.clone());
        self.webhook.push_back(event(DownlinkState::Queued, &[&new.correlation]));
        match new.correlation.as_str() {
            "r" => self.webhook.push_back(event(DownlinkState::Sent, &["r"])),
            "c" => {
                self.webhook.push_back(event(DownlinkState::Ack, &["c"]));
                self.webhook.push_back(event(DownlinkState::Sent, &["c"]));
            }
            _ => {}
        }
    }

    /// One life of the program: until all messages are completed and all events are taken.
    async fn live(&mut self, disk: &Disk, events_first: bool) {
        let ledger = disk.load().await;
        while !self.hub.is_empty() || !self.webhook.is_empty() {
            if events_first {
                self.take_event(&ledger).await;
            }
            self.dispatch(disk, &ledger).await;
            self.take_event(&ledger).await;
        }
        // The last writes, and the end.
        let stop = CancellationToken::new();
        stop.cancel();
        ledger.run(stop).await;
    }

    async fn take_event(&mut self, ledger: &Ledger<Disk, Disk>) {
        let Some(next) = self.webhook.front() else { return };
        if ledger.witness(&device("cellar"), next).await.is_ok() {
            self.webhook.pop_front();
        }
    }

    async fn dispatch(&mut self, disk: &Disk, ledger: &Ledger<Disk, Disk>) {
        let Some((new, invalid)) = self.hub.front().cloned() else { return };
        if let Some(reason) = invalid {
            if ledger.reject(&new, reason).await.is_ok() {
                disk.step().await;
                self.hub.pop_front();
            }
            return;
        }
        let push = match ledger.begin(new.clone()).await {
            Ok(Begun::New) => true,
            Ok(Begun::Unsure) => !self.queue.contains(&new.id),
            Ok(Begun::Queued { .. } | Begun::Ended(_)) => {
                self.hub.pop_front();
                return;
            }
            Err(_) => return,
        };
        disk.step().await;
        if push {
            self.push(&new);
            disk.step().await;
        }
        ledger.queued(new.id).await;
        disk.step().await;
        self.hub.pop_front();
        disk.step().await;
    }

    async fn check(&self, disk: &Disk, what: &str) {
        assert_eq!(self.taken, ["a", "b", "r", "c"], "{what}");
        let mut states = disk.states();
        states.sort();
        assert_eq!(states, ["a replaced", "b replaced", "bad rejected"], "{what}");
        let ledger = disk.load().await;
        assert_eq!(ledger.open(), 0, "{what}");
        for (new, end) in [
            (entry("a"), End::Replaced),
            (entry("b"), End::Replaced),
            (entry("bad"), End::Rejected("FPort 300".to_owned())),
            (replace("r"), End::Sent),
            (confirmed("c"), End::Acknowledged),
        ] {
            assert_eq!(begun(&ledger, new).await, Begun::Ended(end), "{what}");
        }
    }
}

impl Disk {
    /// A point where the program may crash though it writes nothing.
    async fn step(&self) {
        let fails = self.kept().fails_after.take();
        let _ = self.write("step".to_owned(), |_| {}).await;
        self.kept().fails_after = fails;
    }
}

#[tokio::test]
async fn a_crash_at_any_step_loses_and_doubles_nothing() {
    for events_first in [false, true] {
        let mut steps = 0;
        loop {
            let (disk, mut world) = (Disk::new(), World::new());
            disk.kept().fuse = Some(steps);
            let ended = within(disk.until_crash(world.live(&disk, events_first))).await;
            if !ended {
                let again = disk.until_crash(world.live(&disk, events_first));
                assert!(within(again).await, "no second crash");
            }
            world.check(&disk, &format!("crash after {steps} steps")).await;
            if ended {
                break;
            }
            steps += 1;
        }
        assert!(steps > 30, "{steps} places to crash");
    }
}

#[tokio::test]
async fn two_crashes_at_any_two_steps_lose_and_double_nothing() {
    for first in 0..40 {
        for second in 0..25 {
            let (disk, mut world) = (Disk::new(), World::new());
            for fuse in [Some(first), Some(second), None] {
                disk.kept().fuse = fuse;
                if within(disk.until_crash(world.live(&disk, false))).await {
                    break;
                }
            }
            world.check(&disk, &format!("crashes after {first} and {second} steps")).await;
        }
    }
}

#[tokio::test]
async fn any_failing_write_loses_and_doubles_nothing() {
    for kept_though_failing in [false, true] {
        for fails_after in 0..60 {
            let (disk, mut world) = (Disk::new(), World::new());
            disk.kept().fails_after = Some(fails_after);
            disk.kept().kept_though_failing = kept_though_failing;
            within(world.live(&disk, false)).await;
            let what = format!("write {fails_after} failed, kept: {kept_though_failing}");
            world.check(&disk, &what).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_pushed_while_the_disk_fails() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    disk.kept().failing = true;
    assert!(ledger.begin(entry("m")).await.is_err());
    assert!(ledger.reject(&entry("n"), "why").await.is_err());
    disk.kept().failing = false;
    assert_eq!(begun(&ledger, entry("m")).await, Begun::New);
    // Unless the disk kept what it said it had not.
    disk.kept().fails_after = Some(0);
    disk.kept().kept_though_failing = true;
    assert!(ledger.begin(entry("o")).await.is_err());
    assert_eq!(begun(&ledger, entry("o")).await, Begun::Unsure);
    ledger.reject(&entry("n"), "why").await.unwrap();
    assert_eq!(disk.states(), ["n rejected"]);
}

#[tokio::test]
async fn a_request_that_is_given_up_in_the_middle_of_its_write_is_looked_up_next_time() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    {
        // One step to the look at the disk, one to the write.
        let mut begin = std::pin::pin!(ledger.begin(entry("m")));
        assert!(futures_util::poll!(begin.as_mut()).is_pending());
        assert!(futures_util::poll!(begin.as_mut()).is_pending());
    }
    assert!(disk.kept().rows.is_empty(), "the write was lost");
    assert_eq!(begun(&ledger, entry("m")).await, Begun::Unsure);
    assert_eq!(disk.kept().rows.len(), 1, "and is made up for before anything is pushed");
    assert_eq!(begun(&disk.load().await, entry("m")).await, Begun::Unsure);
}
