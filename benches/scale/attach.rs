//! Tens of thousands of devices with links for telemetry and for what the cloud sends: how long until all are attached,
//! what they take, and whether traffic both ways then flows without an error, near the hub and far from it.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{io::BufRead as _, io::BufReader, thread};

use serde_json::json;

use super::arguments::Attach;
use super::cloud::{self, Cloud};
use super::generator;
use super::report::Table;
use super::service::Service;
use super::stage::Stage;
use super::subject::{Plan, Subject};
use super::support::{Running, metrics};

const CONNECTIONS: u32 = 250;
/// Of what went wrong, by the start of the metric's name.
const ERRORS: [&str; 5] = [
    "tti_connector_hub_retried_messages_total",
    "tti_connector_hub_parked_messages_total",
    "tti_connector_downlink_rejected_requests_total",
    "tti_connector_downlink_abandoned_messages_total",
    "tti_connector_downlink_retried_requests_total",
];

fn proxy(to: u16, round_trip_ms: u64) -> (Running, u16) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("delay").args(["--to", &to.to_string()]);
    command.args(["--one-way-ms", &(round_trip_ms / 2).to_string()]);
    let mut running = Running(command.stdout(Stdio::piped()).spawn().expect("the proxy starts"));
    let mut line = String::new();
    let mut out = BufReader::new(running.0.stdout.take().expect("piped"));
    out.read_line(&mut line).expect("its port");
    (running, line.trim().parse().expect("a port"))
}

/// The emulated Things Stack tells the connector of its downlinks, as the real one does.
async fn point_webhook(stage: &Stage, service: &Service, webhook: u16) {
    let webhook = json!({ "url": format!("http://127.0.0.1:{webhook}/webhook") });
    let url = format!("{}/emulator/webhook", stage.ready["thingsStackUrl"].as_str().expect("a URL"));
    let put = service.http().put(url).json(&webhook).send().await;
    assert!(put.expect("an answer").status().is_success());
}

fn errors(subject: &Subject) -> Vec<String> {
    let text = metrics(subject.admin.expect("the connector's"));
    let wrong = |line: &&str| ERRORS.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0");
    text.lines().filter(wrong).map(str::to_owned).collect()
}

fn measure(round_trip_ms: u64, options: &Attach) -> Vec<String> {
    let links = if options.methods > 0.0 { 4 } else { 2 };
    let stage = Stage::new(options.devices, true);
    let routes = if options.methods > 0.0 { "c2d,method" } else { "c2d" };
    let mut plan = Plan::with_downlinks(options.binary.clone(), &stage.ready, routes);
    let amqp_port =
        u16::try_from(stage.ready["hubs"][0]["amqpPort"].as_u64().expect("a port")).expect("a port");
    let proxy = (round_trip_ms > 0).then(|| proxy(amqp_port, round_trip_ms));
    plan.amqp_port = proxy.as_ref().map(|(_, port)| *port);
    let subject = stage.start(&plan);
    thread::sleep(Duration::from_millis(500));
    let bare_mb = subject.process().rss_mb();

    let (began, before) = (Instant::now(), stage.cpu(&subject));
    let book = stage.open_book(options.devices);
    stage.runtime.block_on(generator::post(subject.webhook, &book, CONNECTIONS, None));
    let posted_s = began.elapsed().as_secs_f64();
    stage.settle(&book);
    let attached_s = stage.wait_for_links(links, began).as_secs_f64();
    let first_s = book.took().as_secs_f64();
    let spent = stage.cpu(&subject).0[0] - before.0[0];
    thread::sleep(Duration::from_secs(5));
    let rss_mb = subject.process().rss_mb();
    let kb = (rss_mb - bare_mb) * 1024.0 / f64::from(options.devices);
    println!(
        "{round_trip_ms} ms: {} devices posted in {posted_s:.1} s, first uplinks accepted after {first_s:.1} s, \
         all links after {attached_s:.1} s, CPU {spent:.1} s; RSS {rss_mb:.0} MB (peak {:.0}), {kb:.1} kB a device; \
         {} connections, {} files, {} tasks; hub {:.0} MB; errors {:?}",
        options.devices,
        subject.process().peak_mb(),
        subject.metric("tti_connector_hub_connections"),
        subject.process().open_files(),
        subject.metric("tti_connector_tasks"),
        stage.hub().rss_mb(),
        errors(&subject),
    );

    let errors_before = errors(&subject);
    let seconds = options.minutes * 60.0;
    let traffic = (options.minutes > 0.0).then(|| {
        let book = stage.open_book((options.uplinks * seconds) as u32);
        let cloud = Cloud::new(options, seconds);
        let before = stage.cpu(&subject);
        stage.runtime.block_on(async {
            let service = Service::of(&stage.ready);
            point_webhook(&stage, &service, subject.webhook).await;
            tokio::join!(
                generator::post(subject.webhook, &book, CONNECTIONS, Some(options.uplinks)),
                cloud::send(&cloud, &service, stage.devices),
                cloud::call(&cloud, &service, stage.devices),
            );
        });
        stage.settle(&book);
        cloud.settle(&stage.told);
        let spent = stage.cpu(&subject).0[0] - before.0[0];
        (book, cloud, spent)
    });
    let new_errors: Vec<_> =
        errors(&subject).into_iter().filter(|line| !errors_before.contains(line)).collect();
    let end_mb = subject.process().rss_mb();
    let mut row = vec![
        options.devices.to_string(),
        round_trip_ms.to_string(),
        format!("{attached_s:.1}"),
        format!("{spent:.1}"),
        format!("{rss_mb:.0}"),
        format!("{kb:.1}"),
    ];
    if let Some((book, cloud, spent)) = traffic {
        let (answers, acceptances, downlinks) =
            (book.answers(), book.acceptances(), cloud.latencies(&stage.told));
        println!(
            "  {} min of {}/s up and {}/s down: answer p99 {:.1} ms, accepted p99 {:.0} ms, downlink p50 {:.0} ms p99 {:.0} ms, \
             CPU {:.1} %, RSS {end_mb:.0} MB, {} reports, errors {new_errors:?}",
            options.minutes,
            options.uplinks,
            options.messages,
            answers.ms(0.99),
            acceptances.ms(0.99),
            downlinks.ms(0.5),
            downlinks.ms(0.99),
            spent / seconds * 100.0,
            stage.told.reports.load(Ordering::Relaxed),
        );
        row.extend([
            format!("{:.0} min, {} + {}", options.minutes, book.count, cloud.count()),
            format!("{:.1}", answers.ms(0.99)),
            format!("{:.0}", acceptances.ms(0.99)),
            format!("{:.0}", downlinks.ms(0.99)),
            format!("{:.1} %", spent / seconds * 100.0),
            format!("{end_mb:.0}"),
            if new_errors.is_empty() { "none".to_owned() } else { new_errors.join(", ") },
        ]);
    } else {
        row.extend(std::iter::repeat_n("–".to_owned(), 7));
    }
    row
}

pub(crate) fn run(options: &Attach) -> Vec<Table> {
    let rows = options.round_trips.iter().map(|round_trip| measure(*round_trip, options)).collect();
    vec![Table {
        name: "attach",
        head: vec![
            "devices",
            "added round trip, ms",
            "all attached after s",
            "CPU s for it",
            "RSS MB",
            "kB a device",
            "then uplinks + messages",
            "2xx p99 ms",
            "accepted p99 ms",
            "downlink p99 ms",
            "CPU, of one core",
            "RSS MB at the end",
            "errors",
        ],
        rows,
    }]
}
