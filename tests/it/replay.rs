//! `replay` against a real webhook.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tti_connector::cli::replay::{ReplayArgs, ReplayError, Source, Summary, replay};
use tti_connector::config;
use tti_connector::model::{Clock, ParkReason, Secret};
use tti_connector::spool::{Appended, NewRecord, ParkedFilter, Spool, control};
use warp::Filter as _;
use warp::http::StatusCode;

use crate::webhook::desk::{Desk, uplink};

fn folder(files: &[(&str, String)]) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, content).expect("file");
    }
    folder
}

fn args(path: &Path, to: &str) -> ReplayArgs {
    ReplayArgs {
        source: Source::Paths(vec![path.to_owned()]),
        to: to.to_owned(),
        secret: None,
        secret_file: None,
        concurrency: 1,
    }
}

fn statuses(summary: &Summary) -> Vec<(u16, u64)> {
    summary.by_status.iter().map(|(status, count)| (*status, *count)).collect()
}

#[tokio::test]
async fn a_folder_is_posted_in_order_without_what_is_expected_of_it() {
    let mut desk = Desk::open().await;
    let folder = folder(&[
        ("b.json", uplink(2)),
        ("a.json", uplink(1)),
        ("c/d.NDJSON", format!("{}\n\n{}\r\n   \n{}", one_line(3), one_line(4), one_line(5))),
        ("e.jsonl", format!("{}\n", one_line(6))),
        ("a.golden.json", "{}".to_owned()),
        ("a.expected.json", "{}".to_owned()),
        ("expected/a.json", "{}".to_owned()),
        ("notes.txt", "no payload".to_owned()),
    ]);
    let summary = replay(args(folder.path(), &desk.url())).await.expect("replayed");
    assert_eq!(statuses(&summary), [(202, 6)]);
    assert_eq!((summary.total(), summary.refused()), (6, 0));
    for f_cnt in 1..=6 {
        let kept = desk.next_kept().await;
        let body = String::from_utf8(kept.body.to_vec()).expect("text");
        assert_eq!(one_line_of(&body), one_line(f_cnt));
    }
    desk.assert_nothing_kept();
    assert!(summary.to_string().contains("6 payloads posted"), "{summary}");
    assert!(summary.to_string().contains("202 Accepted: 6"), "{summary}");
}

fn one_line_of(text: &str) -> String {
    text.replace(['\n', '\r', ' '], "")
}

fn one_line(f_cnt: u32) -> String {
    one_line_of(&uplink(f_cnt))
}

#[tokio::test]
async fn the_projects_own_payloads_are_all_answered_2xx() {
    let desk = Desk::open().await;
    let payloads = Path::new(env!("CARGO_MANIFEST_DIR")).join("payloads");
    let files = fs::read_dir(&payloads).expect("payloads").filter_map(Result::ok);
    let count = files.filter(|file| file.path().extension().is_some_and(|end| end == "json")).count();
    let summary = replay(args(&payloads, &desk.url())).await.expect("replayed");
    assert_eq!(statuses(&summary), [(202, count as u64)], "{summary}");
}

#[tokio::test]
async fn refusals_are_counted_and_told_with_their_place() {
    let desk = Desk::open().await;
    let folder = folder(&[
        ("1.json", uplink(1)),
        ("2.json", "{broken".to_owned()),
        ("3.ndjson", format!("{}\n[\n", one_line(3))),
        ("4.json", r#"{"join_accept":{}}"#.to_owned()),
    ]);
    let summary = replay(args(folder.path(), &desk.url())).await.expect("replayed");
    assert_eq!(statuses(&summary), [(202, 3), (400, 2)]);
    assert_eq!(summary.refused(), 2);
    let text = summary.to_string();
    assert!(summary.refusals[0].payload.ends_with("2.json"), "{text}");
    assert!(summary.refusals[1].payload.ends_with("3.ndjson:2"), "{text}");
    assert!(summary.refusals[0].detail.as_deref().is_some_and(|detail| detail.contains("line 1")), "{text}");
    assert!(text.contains("2.json: 400 Bad Request: the body is no message"), "{text}");
}

/// Answers 503 with this `Retry-After` for so many requests, then 202. Returns its URL and the count of requests.
async fn busy_server(retry_after: &'static str, times: usize) -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let routes = warp::post().map(move || {
        let busy = counter.fetch_add(1, Ordering::SeqCst) < times;
        let status = if busy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::ACCEPTED };
        let reply = warp::reply::with_header("{}", "retry-after", retry_after);
        warp::reply::with_status(reply, status)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}/webhook", listener.local_addr().expect("address"));
    tokio::spawn(warp::serve(routes).incoming(listener).run());
    (url, count)
}

#[tokio::test]
async fn a_busy_webhook_is_asked_again_after_the_time_it_names() {
    let (to, count) = busy_server("1", 1).await;
    let folder = folder(&[("1.json", uplink(1))]);
    let began = Instant::now();
    let summary = replay(args(folder.path(), &to)).await.expect("replayed");
    assert_eq!((statuses(&summary), count.load(Ordering::SeqCst)), (vec![(202, 1)], 2));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(summary.took >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_webhook_that_stays_busy_ends_as_a_refusal() {
    let (to, count) = busy_server("0", 5).await;
    let folder = folder(&[("1.json", uplink(1)), ("2.json", uplink(2))]);
    let summary = replay(args(folder.path(), &to)).await.expect("replayed");
    assert_eq!((statuses(&summary), count.load(Ordering::SeqCst)), (vec![(202, 1), (503, 1)], 6));
    assert!(summary.refusals[0].payload.ends_with("1.json"));
}

#[tokio::test]
async fn the_secret_comes_from_the_argument_or_a_file() {
    let desk = Desk::with_secrets(&["hush"]).await;
    let folder = folder(&[("1.json", uplink(1)), ("secret", "hush\n".to_owned())]);
    let without = args(folder.path(), &desk.url());
    assert_eq!(statuses(&replay(without.clone()).await.expect("replayed")), [(401, 1)]);
    let file = Some(folder.path().join("secret"));
    let secret = Some(Secret::new("hush"));
    let by_file = ReplayArgs { secret_file: file.clone(), ..without.clone() };
    assert_eq!(statuses(&replay(by_file).await.expect("replayed")), [(202, 1)]);
    let by_argument = ReplayArgs { secret: secret.clone(), ..without.clone() };
    assert_eq!(statuses(&replay(by_argument).await.expect("replayed")), [(202, 1)]);
    let both = ReplayArgs { secret, secret_file: file, ..without };
    assert!(matches!(replay(both).await, Err(ReplayError::TwoSecrets)));
}

#[tokio::test]
async fn many_posts_may_be_under_way_at_once() {
    let mut desk = Desk::open().await;
    desk.hold();
    let lines: String = (0..100).map(|f_cnt| one_line(f_cnt) + "\n").collect();
    let folder = folder(&[("all.ndjson", lines)]);
    let replaying = tokio::spawn(replay(ReplayArgs { concurrency: 8, ..args(folder.path(), &desk.url()) }));
    let began = tokio::time::Instant::now();
    while desk.metric("tti_connector_webhook_received_messages_total{kind=\"uplink_message\"}") < 8 {
        assert!(began.elapsed() < crate::webhook::desk::DEADLINE);
        tokio::task::yield_now().await;
    }
    desk.release(100);
    assert_eq!(statuses(&replaying.await.expect("task").expect("replayed")), [(202, 100)]);
    for _ in 0..100 {
        desk.next_kept().await;
    }
}

/// By the way of the files, and through the instance that runs on them.
#[tokio::test]
async fn parked_messages_are_posted_as_they_were_received_and_stay_parked() {
    let mut desk = Desk::open().await;
    let folder = tempfile::tempdir().expect("folder");
    let config = config::Spool { directory: folder.path().join("spool"), ..config::Spool::default() };
    let (spool, _claim) = Spool::open(&config, Clock::system()).expect("opened");
    for (f_cnt, reason) in
        [(1, ParkReason::Unauthorized), (2, ParkReason::TooLarge), (3, ParkReason::Unauthorized)]
    {
        let (lane, group) = ("\u{1f}app\u{1f}device".into(), "app".into());
        let record = NewRecord { lane, group, dedup: None, body: uplink(f_cnt).into(), waiter: None };
        let Appended::Stored(seq) = spool.append(record).await.expect("stored") else { panic!("it is new") };
        spool.park(seq, reason, "as told").await.expect("parked");
    }
    let parked = |filter: ParkedFilter| ReplayArgs {
        source: Source::Parked { spool: Box::new(config.clone()), filter },
        ..args(Path::new("unused"), &desk.url())
    };
    let (all, refused) = (
        parked(ParkedFilter::default()),
        parked(ParkedFilter { group: None, reason: Some(ParkReason::Unauthorized) }),
    );

    let stop = CancellationToken::new();
    let running = tokio::spawn(control::serve(spool.clone(), stop.clone()));
    let socket = config.directory.join("control.sock");
    let began = tokio::time::Instant::now();
    while !socket.exists() {
        assert!(began.elapsed() < crate::webhook::desk::DEADLINE);
        tokio::task::yield_now().await;
    }
    assert_eq!(statuses(&replay(refused).await.expect("replayed")), [(202, 2)]);
    stop.cancel();
    running.await.expect("no panic").expect("served");
    spool.close().await;
    assert_eq!(statuses(&replay(all.clone()).await.expect("replayed")), [(202, 3)]);
    for f_cnt in [1, 3, 1, 2, 3] {
        assert_eq!(desk.next_kept().await.body, uplink(f_cnt));
    }
    // They are still there, and nobody holds the spool.
    assert_eq!(statuses(&replay(all).await.expect("replayed")), [(202, 3)]);
}

#[tokio::test]
async fn errors_name_what_is_wrong() {
    let desk = Desk::open().await;
    let empty = folder(&[("notes.txt", String::new()), ("expected/a.json", String::new())]);
    let good = args(empty.path(), &desk.url());
    assert!(matches!(replay(good.clone()).await, Err(ReplayError::NoPayloads)));

    let missing =
        ReplayArgs { source: Source::Paths(vec![PathBuf::from("/no/such/file.json")]), ..good.clone() };
    let text = replay(missing).await.expect_err("missing").to_string();
    assert!(text.contains("/no/such/file.json"), "{text}");

    for to in ["127.0.0.1:8080", "ftp://x/", "nonsense", ""] {
        let bad = ReplayArgs { to: to.to_owned(), ..good.clone() };
        assert!(matches!(replay(bad).await, Err(ReplayError::BadUrl(_))), "{to}");
    }
    for concurrency in [0, 2049] {
        let bad = ReplayArgs { concurrency, ..good.clone() };
        assert!(matches!(replay(bad).await, Err(ReplayError::Concurrency(_))));
    }

    let file = folder(&[("1.json", uplink(1))]);
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("address").port()
    };
    let to = format!("http://me:hush@127.0.0.1:{port}/webhook");
    let nobody = ReplayArgs { to, ..args(file.path(), &desk.url()) };
    let text = replay(nobody).await.expect_err("nobody listens").to_string();
    assert!(text.contains("1.json") && text.contains(&port.to_string()) && !text.contains("hush"), "{text}");
}
