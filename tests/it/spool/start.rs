//! How long a start takes with a backlog: `TTI_ROWS=3000000 cargo test start:: -- --nocapture` for the figure.

use std::time::{Duration, Instant};

use super::{Place, keyed, stored};

fn rows() -> i64 {
    std::env::var("TTI_ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// A database with a long backlog, made faster than by appending; and its ledger, sealed.
fn filled(place: &Place, rows: i64) {
    let sqlite = place.sqlite();
    sqlite
        .execute_batch(&format!(
            "PRAGMA synchronous=OFF; BEGIN;
             INSERT INTO lane(key, grp) VALUES('' || char(31) || 'app' || char(31) || 'device', 'app');
             WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n WHERE seq < {rows})
             INSERT INTO msg SELECT seq, NULL, zeroblob(300) FROM n;
             INSERT INTO idx SELECT seq, 1, 1700000000000, 300, 0 FROM msg;
             INSERT INTO dedup SELECT seq, randomblob(16), seq, 4000000000000 FROM msg;"
        ))
        .unwrap();
    let counts = [rows + 1, rows, rows * 300, 0, 0, rows, 1];
    let mut seal = crc32fast::Hasher::new();
    counts.iter().for_each(|count: &i64| seal.update(&count.to_le_bytes()));
    let [next, pending, bytes, parked, parked_bytes, dedup, lanes] = counts;
    sqlite
        .execute(
            "UPDATE ledger SET next_seq = ?, pending = ?, pending_bytes = ?, parked = ?, parked_bytes = ?,
             dedup = ?, lanes = ?, seal = ?",
            [next, pending, bytes, parked, parked_bytes, dedup, lanes, i64::from(seal.finalize())],
        )
        .unwrap();
    sqlite.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

#[tokio::test]
async fn a_clean_start_reads_the_keys_of_duplicates_only_and_an_unclean_one_looks_for_two_seconds_at_most() {
    let place = Place::new();
    place.open().0.close().await;
    let rows = rows();
    filled(&place, rows);
    let mut took = Vec::new();
    for _ in 0..2 {
        let began = Instant::now();
        let (spool, _claim) = place.open();
        stored(&spool, keyed(took.len() as u8, "x")).await;
        took.push(began.elapsed());
        assert!(!spool.stats().set_aside);
        if took.len() == 1 {
            spool.close().await;
            // As after a crash: without the mark of a clean end.
            place.sqlite().execute("DELETE FROM meta WHERE k = 'clean'", []).unwrap();
        } else {
            spool.close().await;
        }
    }
    println!(
        "{rows} waiting messages: first append {:?} after a clean end, {:?} after a crash",
        took[0], took[1]
    );
    // The look and a busy machine.
    assert!(took[1] < Duration::from_secs(30), "{took:?}");
}
