//! The process whose power is cut: appends, finishes, parks and keeps state as fast as it can, and says in the file
//! `told` of the same folder what it was told, so that the record knows what came before a cut.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tti_connector::model::{Clock, ParkReason};
use tti_connector::spool::{Appended, Seq, Spool};

use super::verdict::{Message, TOLD, config};
use crate::messages::DEADLINE;

/// This file's one test, as the command line names it.
pub(super) const NAME: &str = "disk::power::driver::works_only_in_the_process_that_another_test_starts";
pub(super) const SEED: &str = "TTI_DRIVER_SEED";
pub(super) const LIFE: &str = "TTI_DRIVER_LIFE";
const DEVICES: u64 = 6;
const EIO: i32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn works_only_in_the_process_that_another_test_starts() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (Some(seed), Some(life)) = (number(SEED), number(LIFE)) else { return };
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    tokio::time::timeout(DEADLINE, work(&path("TTI_DISK_FOLDER"), &path("TTI_DISK_CONTROL"), seed, life))
        .await
        .expect("in time");
}

#[derive(Clone)]
struct Teller(Arc<Mutex<File>>);

impl Teller {
    fn tell(&self, line: String) {
        self.0.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

async fn work(folder: &Path, control: &Path, seed: u64, life: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (spool, mut claim) = Spool::open(&config(folder), Clock::system()).unwrap();
    let file = OpenOptions::new().create(true).append(true).open(folder.join(TOLD)).unwrap();
    let teller = Teller(Arc::new(Mutex::new(file)));
    let (each, longest) = if life % 8 == 7 { (45, 120_000) } else { (25, 6000) };

    let mut devices = JoinSet::new();
    for device in 0..DEVICES {
        let (spool, teller, mut random) = (spool.clone(), teller.clone(), random.fork());
        devices.spawn(async move {
            for number in 0..each {
                let message = Message { life, device, number, length: random.usize(40..longest) };
                // Again and again under the same key, as The Things Stack does.
                let seq = loop {
                    match spool.append(message.record()).await {
                        Ok(Appended::Stored(seq) | Appended::Duplicate(seq)) => break seq,
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                };
                teller.tell(format!("stored {} {message}", seq.0));
                if random.u8(..4) == 0 {
                    let (key, value) = (device.to_string(), format!("{life} {number}"));
                    if spool.state().put("test", &key, value.clone().into(), None).await.is_ok() {
                        teller.tell(format!("state {key} {value}"));
                    }
                }
            }
        });
    }
    let sick = life % 3 == 2;
    let fails = async {
        if sick {
            tokio::time::sleep(Duration::from_millis(random.u64(..60))).await;
            std::fs::write(control, format!("sync {EIO}")).unwrap();
            let mut healthy = spool.healthy();
            healthy.wait_for(|healthy| !healthy).await.unwrap();
            std::fs::write(control, "").unwrap();
            healthy.wait_for(|healthy| *healthy).await.unwrap();
        }
    };
    let mut consumer_random = fastrand::Rng::with_seed(!seed);
    let mut unsettled: Vec<Seq> = Vec::new();
    let consumes = async {
        while let Some(batch) = claim.next().await {
            for pending in batch {
                match consumer_random.u8(..10) {
                    // Sent.
                    0..6 => {
                        teller.tell(format!("done {}", pending.seq.0));
                        spool.done(pending.seq);
                        unsettled.push(pending.seq);
                    }
                    6 => {
                        teller.tell(format!("parking {}", pending.seq.0));
                        if spool.park(pending.seq, ParkReason::Rejected, "why").await.is_ok() {
                            teller.tell(format!("parked {}", pending.seq.0));
                        }
                    }
                    // Waits for its hub.
                    7.. => {}
                }
                if consumer_random.u8(..12) == 0 && spool.flush().await.is_ok() {
                    let numbers: Vec<String> = unsettled.drain(..).map(|seq| seq.0.to_string()).collect();
                    teller.tell(format!("settled {}", numbers.join(" ")));
                }
            }
        }
    };
    let posts = async { while devices.join_next().await.is_some() {} };
    tokio::select! {
        ((), ()) = async { tokio::join!(posts, fails) } => {}
        () = consumes => {}
    }
    if random.bool() {
        spool.close().await;
        teller.tell("closed".to_owned());
    }
    std::process::exit(0);
}
