//! Databases that the disk has changed: nothing wrong comes out, and what is not damaged is not lost.
//!
//! By default some five places of each file are damaged; `TTI_FLIPS=1 cargo test damage::` damages each page.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tti_connector::model::ParkReason;
use tti_connector::spool::{
    Appended, DedupKey, NewRecord, ParkedFilter, Selection, Seq, Spool, SpoolError, State,
};

use super::{Place, keyed, record, seqs, stored, take};

const PAGE: usize = 4096;
const RECORDS: i64 = 60;
/// For a backlog that should come at once, on a busy machine; and a damaged one to be saved.
const PATIENCE: Duration = Duration::from_secs(5);

fn body(number: i64) -> Bytes {
    // Some fill pages of their own.
    let length = if number % 10 == 0 { 9000 } else { 200 };
    Bytes::from(format!("{number:->length$}").into_bytes())
}

/// Sixty pending records, three parked ones, some state; the database as a clean end leaves it, or as a crash does.
async fn filled(place: &Place, crashed: Option<&Place>) -> BTreeMap<Seq, Bytes> {
    let (spool, _claim) = place.open();
    let mut bodies = BTreeMap::new();
    for number in 0..RECORDS {
        let device = format!("device {}", number % 5);
        bodies.insert(stored(&spool, record(&device, body(number))).await, body(number));
    }
    for number in RECORDS..RECORDS + 3 {
        let seq = stored(&spool, keyed(number as u8, body(number))).await;
        spool.park(seq, ParkReason::TooLarge, "why").await.unwrap();
        bodies.insert(seq, body(number));
    }
    for number in 0..40 {
        spool.state().put("n", &format!("{number:03}"), vec![number; 50].into(), None).await.unwrap();
    }
    if let Some(crashed) = crashed {
        fs::create_dir_all(&crashed.config.directory).unwrap();
        for file in ["spool.db", "spool.db-wal"] {
            fs::copy(place.config.directory.join(file), crashed.config.directory.join(file)).unwrap();
        }
    }
    spool.close().await;
    bodies
}

struct Seen {
    good: usize,
    damaged: usize,
}

/// Opens what is there. Every body that is given is right and of its lane; gives how many, and how many are known to
/// be damaged.
async fn looked_at(place: &Place, bodies: &BTreeMap<Seq, Bytes>) -> Seen {
    let (spool, mut claim) = place.open();
    let mut seen = Seen { good: 0, damaged: 0 };
    let mut given = Vec::new();
    // Fewer may come than are expected: what hides them is found at the end.
    while given.len() < usize::try_from(spool.stats().pending).unwrap() {
        let Ok(Some(batch)) = tokio::time::timeout(PATIENCE, claim.next()).await else { break };
        given.extend(batch);
    }
    let mut last = Seq(0);
    for pending in &given {
        assert!(pending.seq > last, "in order, each once");
        last = pending.seq;
        match steady(async || spool.record(pending.seq).await).await {
            Ok(Some((_, body))) => {
                assert_eq!(Some(&body), bodies.get(&pending.seq), "{:?}", pending.seq);
                let number = (pending.seq.0 - 1) % 5;
                // The last three are of another one.
                let device =
                    if pending.seq.0 > RECORDS { "device".to_owned() } else { format!("device {number}") };
                assert!(pending.lane.ends_with(&device), "{pending:?}");
                seen.good += 1;
            }
            // It was found to be damaged while the database was saved.
            Ok(None) => {
                let state = spool.state_of(pending.seq).await;
                assert!(matches!(state, State::Parked { .. }), "{pending:?} is {state:?}");
                seen.damaged += 1;
            }
            Err(SpoolError::Damaged(_)) => {
                seen.damaged += 1;
                // Which is what the pump does. It may show that more is damaged.
                let _ = spool.park(pending.seq, ParkReason::Damaged, "found when read").await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let parked = steady(async || spool.parked(&ParkedFilter::default(), Seq(0), 1000).await).await.unwrap();
    for parked in parked {
        if parked.reason == ParkReason::Damaged.as_str() {
            seen.damaged += usize::from(!given.iter().any(|pending| pending.seq == parked.seq));
        } else {
            match steady(async || spool.body(parked.seq).await).await {
                Ok(Some(body)) => {
                    assert_eq!(Some(&body), bodies.get(&parked.seq), "{parked:?}");
                    seen.good += 1;
                }
                Ok(None) => panic!("parked and gone: {parked:?}"),
                Err(_) => seen.damaged += 1,
            }
        }
    }
    for row in spool.state().load("n").await.unwrap_or_default() {
        assert_eq!(row.value, vec![row.key.parse::<u8>().unwrap(); 50]);
    }
    spool.close().await;
    seen
}

/// Tries again while the files are opened anew.
async fn steady<T>(mut ask: impl AsyncFnMut() -> Result<T, SpoolError>) -> Result<T, SpoolError> {
    let answer = async {
        loop {
            match ask().await {
                Err(SpoolError::Io(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => break other,
            }
        }
    };
    super::within(answer).await
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for file in ["spool.db", "spool.db-wal"] {
        if from.join(file).exists() {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
}

/// A change of a file's bytes at a place.
type Damage = fn(Vec<u8>, usize) -> Vec<u8>;

/// Damages one page after the other of `file`, or one frame. `holds` tells how many messages may be lost with the page
/// at an index; the others must come, and the lost ones be known as damaged unless `silent`.
async fn try_each(file: &str, crash: bool, step: usize, with: &[Damage], silent: bool, holds: Option<usize>) {
    let (place, sound, victim) = (Place::new(), Place::new(), Place::new());
    let bodies = filled(&place, Some(&sound)).await;
    let from = if crash { &sound } else { &place };
    let original = fs::read(from.config.directory.join(file)).unwrap();
    let per_page = rows_of_pages(&place);
    let (mut tried, mut worst) = (0, 0);
    for (index, offset) in (0..original.len()).step_by(step).enumerate() {
        if index % every(original.len() / step) != 0 {
            continue;
        }
        for change in with {
            copy(&from.config.directory, &victim.config.directory);
            fs::write(victim.config.directory.join(file), change(original.clone(), offset)).unwrap();
            let Seen { good, damaged } = looked_at(&victim, &bodies).await;
            let (lost, may) =
                (bodies.len() - good, holds.unwrap_or_else(|| per_page.get(&index).copied().unwrap_or(0)));
            tried += 1;
            worst = worst.max(lost);
            let what = format!("{file} at {offset}: {good} good and {damaged} damaged of {}", bodies.len());
            assert!(lost <= may, "{what}; it may be {may}");
            assert!(silent || damaged >= lost, "{what}; some are not accounted for");
            // A second start has nothing to complain about.
            assert_eq!(
                looked_at(&victim, &bodies).await.good,
                good,
                "{what}, and another number the second time"
            );
        }
    }
    println!("{tried} times {file} was damaged; of {} messages at most {worst} with it", bodies.len());
}

/// How many messages depend on each page of a database, by its index in the file.
fn rows_of_pages(place: &Place) -> BTreeMap<usize, usize> {
    let sqlite = place.sqlite();
    let mut pages = sqlite.prepare("SELECT pageno, name, pagetype, ncell FROM dbstat").unwrap();
    let rows = pages.query_map([], |row| {
        let (number, name, kind): (u32, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let cells: u32 = row.get(3)?;
        Ok((
            number as usize - 1,
            match (name.as_str(), kind.as_str()) {
                // Whose they are; all of them, with so few devices.
                ("lane", _) => RECORDS as usize + 3,
                ("msg", "overflow") => 1,
                // The way to the bodies is found without it.
                ("msg", "internal") => 0,
                ("msg" | "idx" | "parked", _) => cells as usize,
                (_, _) => 0,
            },
        ))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Each one of so many is damaged, by default some five in all.
fn every(pages: usize) -> usize {
    std::env::var("TTI_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or((pages / 5).max(1))
}

fn flip(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    // Somewhere in the page, the same for each run.
    let place = (at + at.wrapping_mul(2_654_435_761) % PAGE).min(bytes.len() - 1);
    bytes[place] ^= 1 << (at % 7);
    bytes
}

fn flip_head(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 0xff;
    let next = (at + 5).min(bytes.len() - 1);
    bytes[next] ^= 0x10;
    bytes
}

fn zero(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let end = (at + PAGE).min(bytes.len());
    bytes[at..end].fill(0);
    bytes
}

fn cut(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes.truncate(at);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damaged_page_of_the_database_gives_a_wrong_body_or_takes_more_than_it_holds() {
    try_each("spool.db", false, PAGE, &[flip, flip_head, zero], false, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damaged_frame_of_the_log_loses_more_than_it_holds() {
    // Each is a version of a page, with as many messages on it.
    try_each("spool.db-wal", true, PAGE + 24, &[flip, flip_head], false, Some(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_or_log_cut_anywhere_comes_up_with_what_is_left() {
    try_each("spool.db", false, PAGE, &[cut], true, Some(usize::MAX)).await;
    try_each("spool.db-wal", true, PAGE + 24, &[cut], true, Some(usize::MAX)).await;
}

#[tokio::test]
async fn a_changed_body_is_found_out_parked_and_never_requeued() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let seq = stored(&spool, record("a", "the body")).await;
    let sound = stored(&spool, record("a", "another")).await;
    place.sqlite().execute("UPDATE msg SET body = CAST('the bodY' AS BLOB) WHERE seq = ?", [seq.0]).unwrap();
    assert!(matches!(spool.record(seq).await, Err(SpoolError::Damaged(_))));
    assert_eq!(spool.record(sound).await.unwrap().unwrap().1, "another");
    spool.park(seq, ParkReason::Damaged, "why").await.unwrap();
    let (shown, body) = spool.show(seq).await.unwrap().unwrap();
    assert_eq!((shown.reason.as_str(), &body[..]), ("damaged", &b"the bodY"[..]));
    assert_eq!(spool.requeue(&Selection::Seqs(vec![seq])).await, Ok(0));
    assert_eq!(spool.requeue(&Selection::Matching(ParkedFilter::default())).await, Ok(0));
    assert!(matches!(spool.state_of(seq).await, State::Parked { .. }));
    assert_eq!(spool.discard(&Selection::Seqs(vec![seq])).await, Ok(1));
}

#[tokio::test]
async fn a_message_is_never_given_for_another_device() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let first = stored(&spool, record("a", "x")).await;
    let second = stored(&spool, record("b", "x")).await;
    place.sqlite().execute("UPDATE idx SET lane = 1 WHERE seq = ?", [second.0]).unwrap();
    assert!(spool.record(first).await.is_ok());
    assert!(matches!(spool.record(second).await, Err(SpoolError::Damaged(_))));
}

#[tokio::test]
async fn a_requeued_message_keeps_a_valid_checksum() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let seq = stored(&spool, record("a", "x")).await;
    spool.park(seq, ParkReason::TooLarge, "").await.unwrap();
    assert_eq!(spool.requeue(&Selection::Seqs(vec![seq])).await, Ok(1));
    let requeued = take(&mut claim, 2).await[1].seq;
    assert_ne!(requeued, seq);
    assert_eq!(spool.record(requeued).await.unwrap().unwrap().1, "x");
}

#[tokio::test]
async fn a_record_whose_key_is_none_is_requeued_all_the_same() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let seq = stored(&spool, keyed(1, "x")).await;
    take(&mut claim, 1).await;
    spool.park(seq, ParkReason::TooLarge, "").await.unwrap();
    for key in ["x'010203'", "'text'", "7", "NULL"] {
        let changed = place.sqlite().execute(&format!("UPDATE msg SET dedup = {key}"), []).unwrap();
        assert_eq!(changed, 1);
        assert_eq!(spool.requeue(&Selection::Matching(ParkedFilter::default())).await, Ok(1), "{key}");
        let requeued = take(&mut claim, 1).await[0].seq;
        spool.park(requeued, ParkReason::TooLarge, "").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_stops_the_writer_is_saved_while_it_runs() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let seq = stored(&spool, record("a", "x")).await;
    let parked = stored(&spool, record("b", "y")).await;
    take(&mut claim, 2).await;
    // Its lane is gone, so that it can't be parked.
    place.sqlite().execute("DELETE FROM lane WHERE id = 2", []).unwrap();
    assert!(spool.park(parked, ParkReason::TooLarge, "").await.is_err());
    super::within(spool.healthy().wait_for(|healthy| *healthy)).await.unwrap();
    assert!(spool.stats().set_aside);
    assert_eq!(spool.record(seq).await.unwrap().unwrap().1, "x");
    assert!(matches!(spool.state_of(parked).await, State::Parked { reason: ParkReason::Damaged, .. }));
    let next = stored(&spool, record("a", "z")).await;
    assert_eq!(seqs(&take(&mut claim, 1).await), [next]);
}

#[tokio::test]
async fn a_database_of_version_1_is_brought_up_with_all_it_holds() {
    let place = Place::new();
    fs::create_dir(&place.config.directory).unwrap();
    let sqlite = place.sqlite();
    sqlite.execute_batch(include_str!("version_1.sql")).unwrap();
    drop(sqlite);
    let (spool, mut claim) = place.open();
    assert!(!spool.stats().set_aside);
    assert_eq!((spool.stats().pending, spool.stats().parked), (2, 1));
    assert_eq!(seqs(&take(&mut claim, 2).await), [Seq(1), Seq(3)]);
    let known = NewRecord {
        dedup: Some(DedupKey(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes())),
        ..record("device", "two")
    };
    assert_eq!(spool.append(known).await, Ok(Appended::Duplicate(Seq(2))));
    assert_eq!(spool.record(Seq(1)).await.unwrap().unwrap().1, "one");
    assert_eq!(spool.state().get("dps", "device").await.unwrap().unwrap(), "hub");
    assert_eq!(spool.requeue(&Selection::Seqs(vec![Seq(2)])).await, Ok(1));
    let requeued = take(&mut claim, 1).await[0].seq;
    assert_eq!(spool.record(requeued).await.unwrap().unwrap().1, "two");
    // From now on a record has a seal.
    let seq = stored(&spool, record("device", "new")).await;
    place.sqlite().execute("UPDATE idx SET seal = NULL WHERE seq = ?", [seq.0]).unwrap();
    assert!(matches!(spool.record(seq).await, Err(SpoolError::Damaged(_))));
    spool.close().await;
    drop(spool);
    let reopened = Spool::open(&place.config, place.clock.clone()).map(|_| ());
    assert_eq!(reopened, Ok(()));
}

/// Before version 3 the table of duplicates was ordered by its keys.
const BACK_TO_VERSION_2: &str = "
ALTER TABLE dedup RENAME TO log;
CREATE TABLE dedup(key BLOB PRIMARY KEY, seq INTEGER NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX dedup_expires ON dedup(expires_ms);
INSERT INTO dedup SELECT key, seq, expires_ms FROM log;
DROP TABLE log;
UPDATE meta SET v = 2 WHERE k = 'schema';
";

#[tokio::test]
async fn a_database_of_version_2_is_brought_up_with_the_keys_it_knows() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let mut first = Vec::new();
    for key in 0..100 {
        first.push(stored(&spool, keyed(key, "x")).await);
    }
    let taken = seqs(&take(&mut claim, 100).await);
    taken[1..].iter().for_each(|seq| spool.done(*seq));
    spool.park(first[0], ParkReason::TooLarge, "").await.unwrap();
    spool.requeue(&Selection::Seqs(vec![first[0]])).await.unwrap();
    first[0] = take(&mut claim, 1).await[0].seq;
    spool.close().await;
    place.sqlite().execute_batch(BACK_TO_VERSION_2).unwrap();
    let (spool, _claim) = place.open();
    assert!(!spool.stats().set_aside);
    assert_eq!(spool.stats().pending, 1);
    for (key, seq) in (0..).zip(first) {
        assert_eq!(spool.append(keyed(key, "x")).await, Ok(Appended::Duplicate(seq)));
    }
    let next = stored(&spool, keyed(100, "x")).await;
    assert_eq!(spool.append(keyed(100, "x")).await, Ok(Appended::Duplicate(next)));
}

#[tokio::test]
async fn a_newer_database_is_left_untouched() {
    let place = Place::new();
    filled(&place, None).await;
    place.sqlite().execute("UPDATE meta SET v = 99 WHERE k = 'schema'", []).unwrap();
    let file = place.config.directory.join("spool.db");
    let before = fs::read(&file).unwrap();
    let refused = Spool::open(&place.config, place.clock.clone()).map(|_| ());
    assert!(
        matches!(refused, Err(SpoolError::Incompatible(ref why)) if why.contains("newer")),
        "{refused:?}"
    );
    assert_eq!(fs::read(&file).unwrap(), before);
}
