//! A real disk of a few megabytes, really full: a tmpfs in a mount namespace, where the machine allows one.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tti_connector::model::Clock;
use tti_connector::spool::{Appended, NewRecord, Spool, SpoolError};

/// Set in the child that has the small disk.
const SMALL: &str = "TTI_SMALL_DISK";

#[test]
fn a_disk_that_is_really_full_refuses_and_recovers_and_loses_nothing() {
    let me = std::env::current_exe().unwrap();
    let folder = TempDir::new().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=6m,nr_inodes=64 none '{0}' && exec '{1}' --exact disk::full::on_the_small_disk --nocapture",
        folder.path().display(),
        me.display()
    );
    let ran = Command::new("unshare").args(["-m", "sh", "-c", &script]).env(SMALL, folder.path()).output();
    let output = match ran {
        Ok(output) => output,
        Err(error) => return println!("skipped: no unshare: {error}"),
    };
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !said.contains("running 1 test") {
        return println!("skipped: a small disk can't be mounted here: {said}");
    }
    assert!(output.status.success() && said.contains("the small disk was full"), "{said}");
}

/// Does something only in the child that the test above starts.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_small_disk() {
    let Ok(disk) = std::env::var(SMALL) else { return };
    let disk = Path::new(&disk);
    let config = tti_connector::config::Spool { directory: disk.join("spool"), ..Default::default() };
    let (spool, _claim) = Spool::open(&config, Clock::system()).unwrap();
    let ballast = disk.join("ballast");
    let mut accepted = Vec::new();
    for round in 0..3_u8 {
        // Other programs fill the disk while we write; perhaps with all that is left.
        let _ = std::fs::write(&ballast, vec![1; 2 * 1024 * 1024]);
        let error = loop {
            match spool.append(record(round, accepted.len())).await {
                Ok(Appended::Stored(seq)) => accepted.push((seq, round)),
                Ok(Appended::Duplicate(_)) => panic!("no keys were given"),
                Err(error) => break error,
            }
            assert!(accepted.len() < 10_000, "it never fills");
        };
        let SpoolError::Io(why) = &error else { panic!("{error:?}") };
        assert!(why.contains("free space") && why.contains(&disk.display().to_string()), "{why}");
        let done = accepted.remove(0).0;
        spool.done(done);
        std::fs::remove_file(&ballast).unwrap();
        let well = async { spool.healthy().wait_for(|healthy| *healthy).await.map(|_| ()) };
        tokio::time::timeout(crate::messages::DEADLINE, well).await.expect("it recovers").unwrap();
        assert_eq!(spool.body(done).await, Ok(None), "what was done meanwhile is written");
        // Room for the next round.
        for (seq, _) in accepted.drain(..accepted.len() / 2) {
            spool.done(seq);
        }
        spool.flush().await.unwrap();
    }
    println!("the small disk was full");
    spool.close().await;
    let (spool, _claim) = Spool::open(&config, Clock::system()).unwrap();
    assert_eq!(spool.stats().pending, accepted.len() as u64);
    for (seq, round) in accepted {
        assert_eq!(spool.body(seq).await.unwrap().unwrap()[0], round);
    }
    spool.close().await;
    // No inode is left for the files of a new start: refused, with the folder's name.
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::create(disk.join(format!("file-{}", files.len()))) {
        files.push(file);
    }
    let other = tti_connector::config::Spool { directory: disk.join("other"), ..config };
    let Err(SpoolError::Io(why)) = Spool::open(&other, Clock::system()) else { panic!("there is no inode") };
    assert!(why.contains(&other.directory.display().to_string()), "{why}");
}

fn record(round: u8, number: usize) -> NewRecord {
    NewRecord {
        lane: format!("\u{1f}app\u{1f}device {}", number % 7).into(),
        group: "app".into(),
        dedup: None,
        body: vec![round; 3000].into(),
        waiter: None,
    }
}
