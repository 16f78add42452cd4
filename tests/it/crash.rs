//! `kill -9` at random moments under load: nothing answered 2xx is lost, nothing settled is sent twice, order stays.
//!
//! `TTI_KILLS=1000 cargo test --test it crash::` makes it longer; the seed is printed and can be set with `TTI_SEED`.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::process::Child;

use crate::fleet::{Arrivals, Fleet};
use crate::messages::DEADLINE;
use crate::world::{Poster, World, free_port};

const DEVICES: usize = 20;
/// The hub's `accepted` and the commit that records it lie closer together than this, also on a busy machine.
const UNSETTLED_MS: i64 = 2_000;

pub(crate) fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("fits")
}

/// Whether a kill explains that what came at `first` comes again at `second`. A pause is from a kill until the next life
/// serves: what a life sent last, the hub may read only then, but before the next one sends.
pub(crate) fn cut_between(pauses: &[(i64, i64)], first: i64, second: i64) -> bool {
    pauses.iter().any(|(killed, next)| first <= *next && killed - first < UNSETTLED_MS && second >= *killed)
}

fn connector(world: &World, port: u16) -> Child {
    let mut command = world.connector(port);
    command.env("TTI_CONNECTOR__UPLINK__RETRY_INITIAL", "50ms").env("TTI_CONNECTOR__LOG__LEVEL", "error");
    command.stdout(Stdio::null()).spawn().expect("the connector starts")
}

/// Resolves once the webhook answers.
pub(crate) async fn up(port: u16) {
    let answers = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, answers).await.expect("the connector listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_nothing_doubles_only_the_unsettled_and_keeps_the_order() {
    let (kills, seed) = (from_env("TTI_KILLS", 10), from_env("TTI_SEED", fastrand::u64(..)));
    println!("TTI_SEED={seed} TTI_KILLS={kills}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new(2).await;
    let port = free_port();
    let poster = Poster::to_url(format!("http://127.0.0.1:{port}/webhook"));

    let mut child = connector(&world, port);
    up(port).await;
    let fleet = Fleet::start(&world, &poster, DEVICES).await;
    let mut arrivals = Arrivals::new(&world);

    let mut pauses = Vec::new();
    for _ in 0..kills {
        // The random moment itself, not a wait for something.
        tokio::time::sleep(Duration::from_millis(random.u64(5..600))).await;
        child.start_kill().expect("it runs");
        let killed = now_ms();
        child.wait().await.expect("it ended");
        child = connector(&world, port);
        up(port).await;
        pauses.push((killed, now_ms()));
        arrivals.read(&world);
    }
    let sent_between = arrivals.read(&world);
    let answered = fleet.end().await;
    let total: u32 = answered.values().sum();

    arrivals.until(&world, total as usize).await;
    child.start_kill().expect("it runs");
    child.wait().await.expect("it ended");
    arrivals.read(&world);

    assert!(sent_between as u64 > kills, "hardly anything was sent between the kills, so they hit nothing");
    let again = arrivals.again(&answered);
    for (device, counter, before, at) in &again {
        let excused = cut_between(&pauses, *before, *at);
        assert!(excused, "{device} #{counter} came twice, at {before} and {at}, without a kill between");
    }
    println!(
        "{kills} kills, {total} answered 202, {sent_between} of them sent between kills, 0 lost, {} sent again",
        again.len()
    );
}
