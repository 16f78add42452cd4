//! A start with up to millions of waiting messages: how soon the webhook serves, what the backlog takes in memory, and how
//! fast it drains.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tti_connector::config;
use tti_connector::model::{Clock, EndDevice};
use tti_connector::spool::{DedupKey, NewRecord, Spool};

use super::arguments::{Backlog, Who};
use super::book::{BESIDE, Book};
use super::generator;
use super::report::Table;
use super::stage::Stage;
use super::subject::{Plan, Subject};
use super::support;

/// Appends under way at once while the spool is filled.
const FILLERS: u32 = 512;
const APPLICATION: &str = "soak";

/// Puts the book's uplinks into a new spool, as the connector would.
fn fill(stage: &Stage, book: &Arc<Book>) {
    let config = config::Spool { directory: stage.spool(), ..spool() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (spool, _claim) = Spool::open(&config, Clock::system()).expect("a spool");
        let next = Arc::new(AtomicU32::new(0));
        let mut fillers = JoinSet::new();
        for _ in 0..FILLERS {
            let (spool, book, next) = (spool.clone(), Arc::clone(book), Arc::clone(&next));
            fillers.spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= book.count {
                        return;
                    }
                    let (device, f_cnt) = book.uplink(index);
                    let name = super::hub::name(device);
                    let end_device = EndDevice::new("", APPLICATION, &name).expect("valid");
                    let mut dedup = [0; 16];
                    dedup[..4].copy_from_slice(&index.to_le_bytes());
                    let record = NewRecord {
                        lane: end_device.key().into(),
                        group: APPLICATION.into(),
                        dedup: Some(DedupKey(dedup)),
                        body: support::body(device.into(), f_cnt.into()).into(),
                        waiter: None,
                    };
                    spool.append(record).await.expect("room");
                }
            });
        }
        while let Some(filler) = fillers.join_next().await {
            filler.expect("it filled");
        }
        spool.close().await;
    });
}

/// The spool's settings; only its budget is not the usual one.
fn spool() -> config::Spool {
    config::Spool {
        directory: "spool".into(),
        max_bytes: 64 << 30,
        max_messages: 20_000_000,
        dedup_window: Duration::from_secs(90 * 60),
        parked_max_messages: 100_000,
        parked_max_bytes: 512 << 20,
        memory_bytes: 32 << 20,
    }
}

/// Starts the connector and posts one uplink beside the book; how long until it was answered.
fn serve(stage: &Stage, plan: &Plan, number: u32) -> (Subject, f64) {
    let began = Instant::now();
    let subject = stage.start(plan);
    let book = Arc::new(Book::new(1, 1, BESIDE + number));
    stage.runtime.block_on(generator::post(subject.webhook, &book, 1, None));
    (subject, began.elapsed().as_secs_f64())
}

fn measure(messages: u64, options: &Backlog) -> Vec<String> {
    let stage = Stage::new(options.devices, false);
    let book = stage.open_book(u32::try_from(messages).expect("below four thousand million"));
    let began = Instant::now();
    fill(&stage, &book);
    println!("{messages} messages stored in {:.1} s", began.elapsed().as_secs_f64());
    let mut plan = Plan::of(Who::Connector, options.binary.clone());
    plan.settings = vec![
        ("TTI_CONNECTOR__SPOOL__MAX_BYTES".to_owned(), "64 GiB".to_owned()),
        ("TTI_CONNECTOR__SPOOL__MAX_MESSAGES".to_owned(), "20000000".to_owned()),
    ];
    // The disk is not the measured one's fault.
    _ = Command::new("sync").status();
    // Nobody listens there: the hub is away, and the backlog stays.
    let mut away = Plan { amqp_port: Some(support::free_port()), ..plan.clone() };
    away.settings.push(("TTI_CONNECTOR__LOG__LEVEL".to_owned(), "error".to_owned()));
    let (subject, clean_s) = serve(&stage, &away, 0);
    thread::sleep(Duration::from_secs(3));
    let rss_mb = subject.process().rss_mb();
    // Killed, not stopped.
    drop(subject);
    let began = Instant::now();
    let (subject, crash_s) = serve(&stage, &plan, 1);
    let before = stage.cpu(&subject);
    let watched = u32::try_from(messages.min(options.drained)).expect("fits");
    let mut peak_mb = 0.0_f64;
    while book.arrived() < watched {
        thread::sleep(Duration::from_millis(50));
        peak_mb = peak_mb.max(subject.process().rss_mb());
        assert!(began.elapsed() < Duration::from_secs(600), "{} of {watched} drained", book.arrived());
    }
    let took_s = began.elapsed().as_secs_f64() - crash_s;
    let arrived = book.arrived();
    let cpu_us = (stage.cpu(&subject).0[0] - before.0[0]) * 1e6 / f64::from(arrived);
    assert_eq!(book.doubled.load(Ordering::Relaxed), 0, "an uplink arrived twice");
    let rate = f64::from(arrived) / took_s;
    println!(
        "{messages} waiting: serves after {clean_s:.2} s, {crash_s:.2} s after a crash; RSS {rss_mb:.0} MB, \
         {peak_mb:.0} MB while draining; {rate:.0}/s, {cpu_us:.1} us each"
    );
    vec![
        messages.to_string(),
        format!("{clean_s:.2}"),
        format!("{crash_s:.2}"),
        format!("{rss_mb:.0}"),
        format!("{peak_mb:.0}"),
        format!("{rate:.0}"),
        format!("{cpu_us:.1}"),
    ]
}

pub(crate) fn run(options: &Backlog) -> Vec<Table> {
    vec![Table {
        name: "backlog",
        head: vec![
            "waiting messages",
            "serves after s",
            "after a crash",
            "RSS MB, hub away",
            "RSS MB draining",
            "drained/s",
            "CPU µs each",
        ],
        rows: options.messages.iter().map(|messages| measure(*messages, options)).collect(),
    }]
}
