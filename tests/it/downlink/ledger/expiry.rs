//! What nothing ends, ends by itself; and how long ends are remembered.

use tokio_util::sync::CancellationToken;

use super::*;

struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(ledger: &Ledger<Disk, Disk>) -> Self {
        let stop = CancellationToken::new();
        let (ledger, stopped) = (ledger.clone(), stop.clone());
        Self { stop, task: tokio::spawn(async move { ledger.run(stopped).await }) }
    }

    async fn stop(self) {
        self.stop.cancel();
        within(self.task).await.unwrap();
    }
}

/// In paused time: lets the ledger's timers go off until it holds.
async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("it comes to hold");
}

#[tokio::test(start_paused = true)]
async fn what_nothing_ends_expires_is_reported_and_never_pushed_again() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    let running = Running::start(&ledger);
    for name in ["pushing", "back", "queued", "sent"] {
        assert_eq!(begun(&ledger, confirmed(name)).await, Begun::New);
    }
    ledger.put_back(id("back")).await;
    ledger.queued(id("queued")).await;
    ledger.witness(&device("cellar"), &event(DownlinkState::Sent, &["sent"])).await.unwrap();
    disk.clock.advance(HOUR_MS);
    assert_eq!(begun(&ledger, confirmed("young")).await, Begun::New);
    disk.clock.advance(23 * HOUR_MS - 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(disk.states(), Vec::<String>::new(), "not a millisecond early");
    disk.clock.advance(1);
    until(|| ledger.open() == 1).await;
    let mut states = disk.states();
    states.sort();
    assert_eq!(states, ["back expired", "pushing expired", "queued expired", "sent expired"]);
    assert_eq!(begun(&ledger, confirmed("queued")).await, Begun::Ended(End::Expired));
    // Late, but true: reported, though it ended.
    let ack = event(DownlinkState::Ack, &["queued"]);
    ledger.witness(&device("cellar"), &ack).await.unwrap();
    assert_eq!(ledger.reports(&device("cellar"), None, &ack, NOW_MS).await.unwrap().len(), 1);
    assert_eq!(begun(&ledger, confirmed("queued")).await, Begun::Ended(End::Expired));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_expired_while_the_connector_was_away_is_reported_at_its_start() {
    let disk = Disk::new();
    assert_eq!(begun(&disk.load().await, confirmed("m")).await, Begun::New);
    disk.clock.advance(29 * 24 * HOUR_MS);
    let ledger = disk.load().await;
    assert_eq!(ledger.open(), 1);
    let running = Running::start(&ledger);
    until(|| ledger.open() == 0).await;
    assert_eq!(disk.states(), ["m expired"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_is_remembered_as_long_as_the_message_may_come_again() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, entry("m")).await, Begun::New);
    ledger.witness(&device("cellar"), &event(DownlinkState::Sent, &["m"])).await.unwrap();
    disk.clock.advance(49 * HOUR_MS - 1);
    assert_eq!(begun(&ledger, entry("m")).await, Begun::Ended(End::Sent));
    disk.clock.advance(1);
    assert_eq!(begun(&ledger, entry("m")).await, Begun::New);
}

#[tokio::test(start_paused = true)]
async fn an_expiry_that_the_disk_refuses_is_tried_until_it_takes_it_and_reported_once() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, confirmed("m")).await, Begun::New);
    let running = Running::start(&ledger);
    disk.kept().failing = true;
    disk.kept().kept_though_failing = true;
    disk.clock.advance(25 * HOUR_MS);
    until(|| !disk.kept().reports.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(ledger.open(), 1, "it is not forgotten before it is on disk");
    assert_eq!(begun(&ledger, confirmed("m")).await, Begun::Ended(End::Expired));
    disk.kept().failing = false;
    until(|| ledger.open() == 0).await;
    assert_eq!(disk.states(), ["m expired"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waited_for_is_on_disk_soon_and_at_the_latest_when_it_stops() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    let running = Running::start(&ledger);
    assert_eq!(begun(&ledger, confirmed("m")).await, Begun::New);
    ledger.queued(id("m")).await;
    until(|| disk.kept().journal.contains(&"put m queued".to_owned())).await;
    assert_eq!(begun(&ledger, confirmed("n")).await, Begun::New);
    disk.kept().failing = true;
    ledger.queued(id("n")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    disk.kept().failing = false;
    running.stop().await;
    assert_eq!(begun(&disk.load().await, confirmed("n")).await, Begun::Queued { sent: false });
}

#[tokio::test(start_paused = true)]
async fn a_group_that_takes_no_reports_holds_up_no_other() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    for number in 0..600 {
        let new = NewEntry { device: device(&format!("d{number}")), ..confirmed(&format!("m{number}")) };
        assert_eq!(begun(&ledger, new).await, Begun::New);
    }
    disk.kept().refused = Some("m7".to_owned());
    disk.clock.advance(25 * HOUR_MS);
    let running = Running::start(&ledger);
    until(|| ledger.open() == 1).await;
    disk.kept().refused = None;
    until(|| ledger.open() == 0).await;
    assert_eq!(disk.states().len(), 600);
    running.stop().await;
}
