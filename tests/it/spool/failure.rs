//! Full and failing disks, and files that are not what they should be.

use std::fs;

use bytes::Bytes;
use tti_connector::model::Clock;
use tti_connector::spool::{Appended, Spool, SpoolError, State, damaged_files};

use super::{Place, keyed, record, seqs, stored, take, until, within};

fn is_io<T>(result: &Result<T, SpoolError>) -> bool {
    matches!(result, Err(SpoolError::Io(_)))
}

/// The pages the database may have follow from the budgets: with small ones, 64 MiB of state fill it.
#[tokio::test(flavor = "multi_thread")]
async fn without_space_appends_are_refused_until_there_is_some_again() {
    let mut place = Place::new();
    place.config.max_messages = 10;
    place.config.max_bytes = 300_000;
    place.config.parked_max_messages = 10;
    place.config.parked_max_bytes = 1000;
    let (spool, mut claim) = place.open();
    let healthy = spool.healthy();
    let before = stored(&spool, record("a", "before")).await;
    let finished = stored(&spool, record("a", "finished")).await;
    take(&mut claim, 2).await;

    let state = spool.state();
    let mut filled = 0;
    while state.put("filler", &filled.to_string(), Bytes::from(vec![0; 65_536]), None).await.is_ok() {
        filled += 1;
        assert!(filled < 2000, "there is no end");
    }
    assert!(filled > 900, "{filled}");
    assert!(!*healthy.borrow());
    assert!(is_io(&spool.append(keyed(1, vec![1; 100_000])).await));
    assert!(!spool.stats().healthy);
    spool.done(finished);
    assert_eq!(spool.body(before).await.unwrap().unwrap(), "before", "reading goes on");

    for key in 0..filled / 2 {
        state.delete("filler", &key.to_string()).await.unwrap();
    }
    within(spool.healthy().wait_for(|healthy| *healthy)).await.unwrap();
    let after = stored(&spool, keyed(1, vec![1; 100_000])).await;
    assert!(after > before);
    spool.flush().await.unwrap();
    assert_eq!(spool.state_of(finished).await, State::Gone, "what was done meanwhile is written");
    spool.close().await;
    let (_spool, mut claim) = place.open();
    assert_eq!(seqs(&take(&mut claim, 2).await), [before, after]);
}

#[tokio::test]
async fn after_any_other_write_error_nothing_is_accepted_until_the_files_were_opened_anew() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let before = stored(&spool, record("a", "before")).await;
    let finished = stored(&spool, record("a", "finished")).await;
    take(&mut claim, 2).await;
    let sqlite = place.sqlite();
    sqlite
        .execute_batch("CREATE TRIGGER broken BEFORE INSERT ON idx BEGIN SELECT RAISE(ABORT, 'broken'); END")
        .unwrap();
    assert!(is_io(&spool.append(record("a", "x")).await));
    assert!(!spool.stats().healthy);
    sqlite.execute_batch("DROP TRIGGER broken").unwrap();
    drop(sqlite);
    assert!(is_io(&spool.append(record("a", "x")).await), "not even when it would succeed");
    assert!(is_io(&spool.flush().await));
    let why = spool.trouble().expect("it says why");
    assert!(why.contains(&place.config.directory.display().to_string()), "{why}");
    spool.done(finished);
    within(spool.healthy().wait_for(|healthy| *healthy)).await.unwrap();
    assert_eq!(spool.trouble(), None);
    assert_eq!((spool.stats().pending, spool.state_of(finished).await), (1, State::Gone));
    let after = stored(&spool, record("a", "after")).await;
    assert_eq!(seqs(&take(&mut claim, 1).await), [after], "and nothing comes twice");
    spool.close().await;
    let (_spool, mut claim) = place.open();
    assert_eq!(seqs(&take(&mut claim, 2).await), [before, after]);
}

#[tokio::test]
async fn a_failed_commit_acknowledges_and_hands_out_nothing_of_its_batch() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let sqlite = place.sqlite();
    sqlite
        .execute_batch(
            "CREATE TRIGGER broken BEFORE INSERT ON msg WHEN NEW.body = CAST('poison' AS BLOB)
             BEGIN SELECT RAISE(ABORT, 'broken'); END; BEGIN IMMEDIATE",
        )
        .unwrap();
    // All wait together for the lock; the first few may be in a transaction of their own.
    let poison = 200;
    let body = |at: u8| if at == poison { "poison".to_owned() } else { format!("body {at}") };
    let mut appends: Vec<_> = (0..250).map(|at| Box::pin(spool.append(keyed(at, body(at))))).collect();
    for append in &mut appends {
        assert!(futures_util::poll!(append).is_pending());
    }
    sqlite.execute_batch("COMMIT").unwrap();
    let mut acknowledged = Vec::new();
    for append in appends {
        match within(append).await {
            Ok(Appended::Stored(seq)) => acknowledged.push(seq),
            Err(SpoolError::Io(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(acknowledged.len() < usize::from(poison), "those beside the poisoned one were refused with it");
    assert_eq!(spool.stats().pending, acknowledged.len() as u64);
    take(&mut claim, acknowledged.len()).await;
    assert!(futures_util::poll!(Box::pin(claim.next())).is_pending());
    sqlite.execute_batch("DROP TRIGGER broken").unwrap();
    spool.close().await;
    let (spool, mut claim) = place.open();
    assert_eq!(seqs(&take(&mut claim, acknowledged.len()).await), acknowledged);
    stored(&spool, keyed(poison, "again")).await;
}

/// The damaged file lies beside, byte by byte, and `saved` records were saved out of it.
async fn is_set_aside(place: &Place, damaged: &[u8], saved: u64) {
    let (spool, _claim) = place.open();
    assert!(spool.stats().set_aside);
    assert_eq!((spool.stats().pending, spool.stats().damaged_files), (saved, 1));
    stored(&spool, record("a", "x")).await;
    let aside = damaged_files(&place.config.directory);
    assert_eq!(aside.len(), 1);
    assert!(aside[0].to_string_lossy().ends_with(&format!(".damaged-{}", super::NOW_MS)));
    assert_eq!(fs::read(&aside[0]).unwrap(), damaged);
    spool.close().await;
    let (spool, _claim) = place.open();
    assert!(!spool.stats().set_aside, "only the start that found it says so");
    assert_eq!(spool.stats().pending, saved + 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_moved_aside_with_its_name_and_time() {
    let place = Place::new();
    fs::create_dir(&place.config.directory).unwrap();
    let rubbish = vec![b'x'; 10_000];
    fs::write(place.config.directory.join("spool.db"), &rubbish).unwrap();
    is_set_aside(&place, &rubbish, 0).await;
}

#[tokio::test]
async fn a_database_without_its_first_page_is_moved_aside_and_its_messages_saved() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    stored(&spool, record("a", "x")).await;
    spool.close().await;
    let file = place.config.directory.join("spool.db");
    let mut damaged = fs::read(&file).unwrap();
    damaged[100..4096].fill(0xff);
    fs::write(&file, &damaged).unwrap();
    is_set_aside(&place, &damaged, 1).await;
}

#[tokio::test]
async fn a_database_of_another_version_or_program_is_refused_and_left_alone() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let seq = stored(&spool, record("a", "x")).await;
    spool.close().await;
    let ours: i64 =
        place.sqlite().query_row("SELECT v FROM meta WHERE k = 'schema'", [], |row| row.get(0)).unwrap();
    for (version, word) in [(99, "newer"), (0, "upgrade")] {
        place.sqlite().execute("UPDATE meta SET v = ? WHERE k = 'schema'", [version]).unwrap();
        match Spool::open(&place.config, Clock::system()) {
            Err(SpoolError::Incompatible(why)) => assert!(why.contains(word), "{why}"),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
    place.sqlite().execute("UPDATE meta SET v = ? WHERE k = 'schema'", [ours]).unwrap();
    let (spool, mut claim) = place.open();
    assert_eq!(seqs(&take(&mut claim, 1).await), [seq]);
    spool.close().await;

    let place = Place::new();
    fs::create_dir(&place.config.directory).unwrap();
    place.sqlite().execute_batch("CREATE TABLE recipes(name TEXT)").unwrap();
    let refused = Spool::open(&place.config, Clock::system()).map(|_| ());
    assert!(matches!(refused, Err(SpoolError::Incompatible(_))), "{refused:?}");
    place.sqlite().execute_batch("SELECT * FROM recipes").unwrap();
}

#[tokio::test]
async fn a_folder_that_can_not_be_made_is_named() {
    let mut place = Place::new();
    place.config.directory = "/proc/no-such-folder/spool".into();
    match Spool::open(&place.config, Clock::system()) {
        Err(SpoolError::Io(why)) => assert!(why.contains("/proc/no-such-folder/spool"), "{why}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn what_a_crash_left_without_tables_is_completed() {
    let place = Place::new();
    fs::create_dir(&place.config.directory).unwrap();
    place.sqlite().execute_batch("PRAGMA journal_mode=WAL; PRAGMA user_version=0; VACUUM").unwrap();
    let (spool, _claim) = place.open();
    stored(&spool, record("a", "x")).await;
    until("stats", || spool.stats().pending == 1).await;
}
