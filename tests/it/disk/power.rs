//! Power cuts: a process works on the spool under load while every write and sync is recorded; the record, cut anywhere,
//! gives what a disk may hold then; the spool opened on that must have everything that was acknowledged before.
//!
//! `TTI_CUTS=200 cargo test power::` makes more of them; the seed is printed and can be set with `TTI_SEED`. A life is
//! ended by its last cut, and the next life goes on from what that left. In every third life syncs fail now and then, and in every eighth bodies are long, so that the log is moved into the database.

mod driver;
mod image;
mod record;
mod verdict;

use std::fs;
use std::path::Path;
use std::process::Command;

use image::Cut;
use record::Call;
use verdict::Told;

use super::{Disk, shim};

/// Cuts of one life.
const CUTS_A_LIFE: u64 = 5;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_lose_nothing_that_was_acknowledged() {
    let shim = match shim() {
        Ok(shim) => shim,
        Err(why) => return println!("skipped: {why}"),
    };
    let (cuts, seed) = (from_env("TTI_CUTS", 10), from_env("TTI_SEED", fastrand::u64(..)));
    println!("TTI_SEED={seed} TTI_CUTS={cuts}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut told, mut done) = (Told::default(), 0);
    let (mut acknowledged, mut resurrected, mut dropped, mut life) = (0, 0, 0, 0);
    let base = tempfile::tempdir().unwrap();
    let mut survivor = image::empty();
    while done < cuts {
        let folder = tempfile::tempdir_in(base.path()).unwrap();
        let disk = Disk::new(folder.path());
        image::write(&survivor, &disk.folder);
        let calls = live(shim, &disk, random.u64(..), life);
        let mut ends: Vec<usize> =
            (0..CUTS_A_LIFE.min(cuts - done)).map(|_| random.usize(..=calls.len())).collect();
        ends.sort_unstable();
        let mut after = told.clone();
        for (index, end) in ends.iter().enumerate() {
            let cut = Cut::random(&mut random);
            let (left, lost) = image::after(&survivor, &calls[..*end], cut, &mut random);
            after = told.clone();
            after.hear(&calls[..*end]);
            let place = folder.path().join(format!("cut-{index}"));
            image::write(&left, &place);
            let seen = verdict::check(&place, &after).await;
            let what = format!(
                "TTI_SEED={seed}, life {life}, cut {index} after {end} of {} calls, {cut:?}",
                calls.len()
            );
            let seen = seen.unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
            acknowledged += after.pending().count();
            resurrected += seen.resurrected;
            dropped += lost;
            done += 1;
            if index + 1 == ends.len() {
                survivor = left;
                after.settle(&seen);
            }
        }
        told = after;
        life += 1;
    }
    println!(
        "{done} power cuts in {life} lives, {dropped} pieces of writes dropped, {acknowledged} acknowledged messages looked for, 0 lost, {resurrected} done ones came back"
    );
    assert!(dropped > 0, "hardly anything was dropped, so the cuts cut nothing");
    assert!(acknowledged > 0, "nothing was acknowledged");
}

/// Were this not found out, the test above could not fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_only_says_that_it_synced_the_log_is_found_to_lose_messages() {
    let shim = match shim() {
        Ok(shim) => shim,
        Err(why) => return println!("skipped: {why}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    image::write(&image::empty(), &disk.folder);
    let mut calls = live(shim, &disk, 1, 0);
    let mut told = Told::default();
    told.hear(&calls);
    let middle = calls.len() / 2;
    let mut syncs = 0;
    calls.retain(|call| {
        syncs += usize::from(matches!(call, Call::Sync(_)));
        syncs < middle / 20 || !matches!(call, Call::Sync(file) if file == "spool.db-wal")
    });
    let (left, _) =
        image::after(&image::empty(), &calls, Cut::NOTHING_KEPT, &mut fastrand::Rng::with_seed(1));
    let place = folder.path().join("cut");
    image::write(&left, &place);
    let wrong = verdict::check(&place, &told).await.err().expect("messages are lost");
    assert!(wrong.contains("is lost") || wrong.contains("is not") || wrong.contains("is back"), "{wrong}");
}

/// Runs the driver to its end; gives all it did to the disk.
fn live(shim: &Path, disk: &Disk, seed: u64, life: u64) -> Vec<Call> {
    let record = disk.control.with_file_name("record");
    let me = std::env::current_exe().unwrap();
    let output = Command::new(me)
        .args(["--exact", driver::NAME, "--nocapture"])
        .envs(disk.environment(shim))
        .env("TTI_DISK_RECORD", &record)
        .env(driver::SEED, seed.to_string())
        .env(driver::LIFE, life.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    record::read(&fs::read(record).unwrap())
}
