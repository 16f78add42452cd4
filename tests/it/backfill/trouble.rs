//! A Storage Integration that refuses, limits, or holds what it should not; counters that begin anew.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::archive::{Archive, row};
use super::kit::{marked, metric, plain, until_metric};

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_garbage_are_counted_and_passed_over() {
    let archive = Archive::new(|_| ()).await;
    for (f_cnt, ago) in [(1, 60), (2, 50), (3, 40), (4, 30)] {
        archive.store(&row(f_cnt, ago));
    }
    let at = |row: &Value| row["received_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let of_other = |change: &dyn Fn(&mut Value)| {
        let mut other = row(9, 45);
        change(&mut other);
        json!({ "result": other }).to_string()
    };
    for garbage in [
        "{\"result\":{\"end_device_ids\":".to_owned(),
        "not JSON".to_owned(),
        "{\"result\":[]}".to_owned(),
        "{\"result\":{}}".to_owned(),
        "\u{0}\u{1f}".to_owned(),
        format!("{{\"result\":{{\"x\":{}1{}}}}}", "[".repeat(5000), "]".repeat(5000)),
        format!("{{\"result\":{{\"x\":\"{}\"}}}}", "y".repeat(1_100_000)),
        of_other(&|row| row["end_device_ids"]["application_ids"]["application_id"] = json!("other")),
        of_other(&|row| row["received_at"] = json!("yesterday")),
        of_other(&|row| row["uplink_message"]["f_cnt"] = json!(-1)),
        of_other(&|row| row["uplink_message"]["received_at"] = Value::Null),
    ] {
        archive.line(at(&row(9, 45)), garbage);
    }
    archive.post(&row(1, 60)).await;
    archive.arrived(1).await;
    archive.post(&row(4, 30)).await;
    assert_eq!(archive.arrived(4).await, [plain([1, 4]), marked([2, 3])].concat());
    // All garbage lies within one page; a further page overlaps by a millisecond and has none of it.
    assert_eq!(metric(&archive.connector, "backfill_bad_rows_total").await, 11);
    archive.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_come_in_pages_in_order_and_none_twice() {
    let archive = Archive::new(|_| ()).await;
    for f_cnt in 0..=251 {
        // Three at a time have one time of receipt, also across the ends of pages.
        archive.store(&row(f_cnt, 600 - i64::from(f_cnt / 3)));
    }
    archive.post(&row(0, 600)).await;
    archive.arrived(1).await;
    archive.post(&row(251, 600 - 83)).await;
    let counters = archive.arrived(252).await;
    assert_eq!(counters, [plain([0, 251]), marked(1..=250)].concat());
    let asked = archive.asked();
    assert!(
        asked.len() >= 3 && asked.iter().all(|request| request.target.contains("limit=100")),
        "{asked:?}"
    );
    assert_eq!(until_metric(&archive.connector, "backfill_sent_messages_total", 250).await, 250);
    archive.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_waited_out_as_long_as_it_asks_for() {
    let archive = Archive::new(|_| ()).await;
    archive.instead(Some((429, "Retry-After: 2\r\n")));
    archive.store(&row(2, 50));
    archive.store(&row(3, 40));
    archive.post(&row(1, 60)).await;
    archive.arrived(1).await;
    let began = Instant::now();
    archive.post(&row(3, 40)).await;
    until_metric(&archive.connector, "backfill_failed_fetches_total{reason=\"not_now\"}", 1).await;
    archive.instead(None);
    assert_eq!(archive.arrived(3).await, [plain([1, 3]), marked([2])].concat());
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(metric(&archive.connector, "backfill_failed_fetches_total{reason=\"not_now\"}").await, 1);
    archive.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_or_integration_is_asked_for_once_and_hinders_nothing() {
    for status in [401, 403, 404] {
        let archive = Archive::new(|_| ()).await;
        archive.instead(Some((status, "")));
        archive.post(&row(1, 60)).await;
        archive.arrived(1).await;
        archive.post(&row(3, 40)).await;
        archive.until_asked(1).await;
        until_metric(&archive.connector, "backfill_failed_fetches_total{reason=\"refused\"}", 1).await;
        archive.post(&row(5, 20)).await;
        assert_eq!(archive.arrived(3).await, plain([1, 3, 5]));
        until_metric(&archive.connector, "backfill_gaps_total", 2).await;
        tokio::time::sleep(super::kit::DELAY * 3).await;
        assert_eq!(archive.asked().len(), 1, "{status}");
        archive.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_comes_again_after_a_reset_is_another_uplink() {
    // An ABP device whose counters began anew: its session stays.
    let archive = Archive::new(|config| config.spool.dedup_window = Duration::ZERO).await;
    for (f_cnt, ago) in [(1, 90), (2, 80), (0, 70), (1, 60), (2, 50)] {
        archive.store(&row(f_cnt, ago));
    }
    for (count, (f_cnt, ago)) in [(1, 90), (2, 80), (0, 70), (2, 50)].into_iter().enumerate() {
        archive.post(&row(f_cnt, ago)).await;
        archive.arrived(count + 1).await;
    }
    assert_eq!(archive.arrived(5).await, [plain([1, 2, 0, 2]), marked([1])].concat());
    assert_eq!(metric(&archive.connector, "backfill_gaps_total").await, 1);
    archive.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uplinks_whose_time_a_field_mask_strips_are_recognised_all_the_same() {
    let archive = Archive::new(|_| ()).await;
    let stripped = |f_cnt, ago| {
        let mut row = row(f_cnt, ago);
        row["uplink_message"].as_object_mut().unwrap().remove("received_at");
        row
    };
    for (f_cnt, ago) in [(1, 90), (2, 80), (3, 70), (4, 60)] {
        archive.store(&row(f_cnt, ago));
    }
    archive.post(&stripped(1, 90)).await;
    archive.arrived(1).await;
    archive.post(&stripped(4, 60)).await;
    assert_eq!(archive.arrived(4).await, [plain([1, 4]), marked([2, 3])].concat());
    assert_eq!(until_metric(&archive.connector, "backfill_queued_messages_total", 2).await, 2);
    archive.end().await;
}
