//! Devices that share an AMQP session: what it saves, and what the end of one session costs those that were in it.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::arguments::Sharing;
use super::book::Spread;
use super::generator;
use super::hub::name;
use super::report::Table;
use super::service::Service;
use super::stage::Stage;
use super::subject::Plan;

const CONNECTIONS: u32 = 250;
const LINKS: u32 = 2;
/// Between the ends of two sessions.
const FAULT_EACH: Duration = Duration::from_secs(1);
/// Spreads the devices whose sessions end over all; a prime.
const STRIDE: u32 = 7_919;

/// Ends the sessions in which some devices are, one after the other.
async fn end_sessions(stage: &Stage, service: &Service, count: u32) {
    let (things_stack, host) = (&stage.ready["thingsStackUrl"], &stage.ready["hubs"][0]["hostName"]);
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let url = format!("{}/emulator/hubs/{}/faults", text(things_stack), text(host));
    let began = Instant::now();
    for number in 0..count {
        sleep_until(began + FAULT_EACH * (number + 1)).await;
        let device = name(number.wrapping_mul(STRIDE) % stage.devices);
        let fault = json!({ "type": "KillAmqpSession", "device": device });
        let asked = service.http().post(&url).json(&fault).send().await.expect("an answer");
        assert!(asked.status().is_success(), "{}", asked.status());
    }
}

/// Uplinks at the rate while so many sessions end: how long they took, and how many came twice.
fn traffic(stage: &Stage, webhook: u16, options: &Sharing, faults: u32) -> (Spread, u32) {
    let seconds = f64::from(options.faults + 2);
    let book = stage.open_book((options.uplinks * seconds) as u32);
    stage.runtime.block_on(async {
        let service = Service::of(&stage.ready);
        tokio::join!(
            generator::post(webhook, &book, CONNECTIONS, Some(options.uplinks)),
            end_sessions(stage, &service, faults),
        );
    });
    stage.wait_for_all(&book);
    (book.acceptances(), book.doubled.load(Ordering::Relaxed))
}

fn measure(limit: u32, options: &Sharing) -> Vec<String> {
    let stage = Stage::new(options.devices, true);
    let mut plan = Plan::with_downlinks(options.binary.clone(), &stage.ready, "c2d");
    // Each end of a session is a warning.
    let settings =
        [("AZURE__MAX_DEVICES_PER_SESSION", limit.to_string()), ("LOG__LEVEL", "error".to_owned())];
    plan.settings.extend(settings.map(|(name, value)| (format!("TTI_CONNECTOR__{name}"), value)));
    let subject = stage.start(&plan);
    thread::sleep(Duration::from_millis(500));
    let bare_mb = subject.process().rss_mb();
    let (began, book) = (Instant::now(), stage.open_book(options.devices));
    stage.runtime.block_on(generator::post(subject.webhook, &book, CONNECTIONS, None));
    stage.settle(&book);
    stage.wait_for_links(LINKS, began.into());
    thread::sleep(Duration::from_secs(5));
    let kb = (subject.process().rss_mb() - bare_mb) * 1024.0 / f64::from(options.devices);

    let (quiet, _) = traffic(&stage, subject.webhook, options, 0);
    let links = || stage.told.links.load(Ordering::Relaxed);
    let before = links();
    let (struck, doubled) = traffic(&stage, subject.webhook, options, options.faults);
    // Links for messages come back by themselves, those for telemetry with the next uplink.
    let book = stage.open_book(options.devices);
    stage.runtime.block_on(generator::post(subject.webhook, &book, CONNECTIONS, Some(options.uplinks)));
    stage.settle(&book);
    thread::sleep(Duration::from_secs(5));
    let anew = f64::from(links() - before) / f64::from(options.faults);
    let row = vec![
        limit.to_string(),
        format!("{kb:.1}"),
        format!("{:.0} / {:.0} / {:.0}", quiet.ms(0.5), quiet.ms(0.99), quiet.ms(1.0)),
        format!("{:.0} / {:.0} / {:.0}", struck.ms(0.5), struck.ms(0.99), struck.ms(1.0)),
        format!("{anew:.1}"),
        doubled.to_string(),
    ];
    println!("{} devices, {limit} a session: {}", options.devices, row[1..].join(", "));
    row
}

pub(crate) fn run(options: &Sharing) -> Vec<Table> {
    vec![Table {
        name: "sharing",
        head: vec![
            "devices a session",
            "kB a device",
            "accepted p50 / p99 / worst, ms",
            "the same while sessions end",
            "links attached anew for one end",
            "came twice",
        ],
        rows: options.limits.iter().map(|limit| measure(*limit, options)).collect(),
    }]
}
