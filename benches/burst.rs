//! As many uplinks at once as The Things Stack can have under way (1,024 workers and a queue of 1,024), while the hub is
//! away: how long the slowest answer takes, and whether all arrive once the hub is back.
//!
//! `cargo bench --bench burst`. Linux only. One thread and one connection an uplink; generator and connector share the
//! machine. The connections are open before the clock starts, as a client that posts all day has them.

mod support;

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use support::{answered, connect, emulate, free_port, metric, request, wait_for};

const UPLINKS: u64 = 2_048;
const DEVICES: u64 = 512;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = dir.path().join("emulator");
    let (emulator, ready) = emulate(&place, 0, 0);
    let (webhook, admin) = (free_port(), free_port());
    let _connector = connect(dir.path(), &ready, webhook, admin);
    // Killed, not stopped: the hub is simply gone.
    drop(emulator);
    _ = std::fs::remove_file(place.join("ready.json"));

    let start = Arc::new(Barrier::new(usize::try_from(UPLINKS).expect("fits") + 1));
    let posters: Vec<_> = (0..UPLINKS)
        .map(|index| {
            let start = Arc::clone(&start);
            let builder = thread::Builder::new().stack_size(256 * 1024);
            let post = move || {
                let request = request(index % DEVICES, index / DEVICES + 1);
                let mut stream = TcpStream::connect(("127.0.0.1", webhook)).expect("the webhook");
                stream.set_nodelay(true).expect("a socket");
                start.wait();
                let asked = Instant::now();
                stream.write_all(request.as_bytes()).expect("sent");
                let status = answered(&mut stream, &mut vec![0; 4096]).0;
                (status, asked.elapsed())
            };
            builder.spawn(post).expect("a thread")
        })
        .collect();
    start.wait();
    let mut took = Vec::new();
    for poster in posters {
        let (status, answer) = poster.join().expect("it was answered");
        assert_eq!(status, 202);
        took.push(answer);
    }
    took.sort();
    let at = |share: f64| took[(share * (took.len() - 1) as f64) as usize];
    println!("{UPLINKS} uplinks at once, hub away: all answered 202");
    println!("answered in: median {:?}, 99 % {:?}, slowest {:?}", at(0.5), at(0.99), at(1.0));

    let port = |name: &str| ready[name].as_u64().expect("a number");
    let amqp_port = ready["hubs"][0]["amqpPort"].as_u64().expect("a number");
    let back = Instant::now();
    let (_emulator, _) = emulate(&place, amqp_port, port("httpsPort"));
    wait_for("all uplinks are sent", || metric(admin, "tti_connector_hub_sent_messages_total") >= UPLINKS);
    thread::sleep(Duration::from_secs(1));
    let sent = metric(admin, "tti_connector_hub_sent_messages_total");
    assert_eq!(sent, UPLINKS, "each once");
    println!(
        "hub back: all {sent} sent after {:?}, DPS registration of {DEVICES} devices included",
        back.elapsed()
    );
}
