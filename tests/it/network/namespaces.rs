//! Real TCP whose packets vanish, and a name that moves: the connector in a network namespace of its own.
//!
//! The test starts itself again within new namespaces, as root or as an ordinary user whom the system lets make user
//! namespaces; elsewhere it is skipped. `TTI_NETNS=1` also waits for the real time-outs, a minute and a half.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tti_connector::emulator::Event;

use super::relay::{Relay, until};
use crate::messages::uplink;
use crate::world::{Poster, World, frame_counter};

const INNER: &str = "TTI_NETNS_INNER";
/// The promise.
const NOTICED: Duration = Duration::from_secs(60);
/// What a connector's namespace shares with the hub's; each link is a pair of these.
const LINKS: [(&str, &str); 3] = [("a", "10.88.1"), ("b", "10.88.2"), ("c", "10.88.3")];
const WEBHOOK: &str = "10.88.3.2:8080";
const SECRET: &str = "a long random text for the webhook";

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_packets_vanish_or_whose_name_moves_is_followed() {
    if std::env::var_os(INNER).is_some() {
        return inner().await;
    }
    let as_root = Command::new("id").arg("-u").output().await.is_ok_and(|id| id.stdout == b"0\n");
    let user: &[&str] = if as_root { &[] } else { &["--user", "--map-root-user"] };
    let unshare = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(user).args(["--net", "--mount", "--"]).args(command).kill_on_drop(true);
        unshare
    };
    let probe = "ip link add x0 type veth peer name x1 && mount --bind /etc/hosts /etc/hosts";
    match unshare(&["sh", "-c", probe]).output().await {
        Ok(probed) if probed.status.success() => {}
        Ok(probed) => {
            let why = String::from_utf8_lossy(&probed.stderr).trim().to_owned();
            return println!("skipped: no network namespaces with veth here: {why}");
        }
        Err(error) => return println!("skipped: unshare can't be run: {error}"),
    }
    let this = std::env::current_exe().expect("this test's program");
    let name = "network::namespaces::a_hub_whose_packets_vanish_or_whose_name_moves_is_followed";
    let this = this.to_str().expect("a path in UTF-8");
    let ran =
        unshare(&[this, "--exact", name, "--nocapture"]).env(INNER, "1").output().await.expect("it runs");
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

async fn shell(command: &str) {
    let ran = Command::new("sh").args(["-ec", command]).output().await.expect("a shell");
    assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// The connector, its hub at two addresses, and the file that says at which.
struct Stand {
    world: World,
    /// Behind the links `a` and `b`.
    hubs: [Relay; 2],
    hosts: std::path::PathBuf,
    connector: Child,
    poster: Poster,
    sent: u32,
    _dir: TempDir,
}

impl Stand {
    async fn new() -> Self {
        shell("ip link set lo up").await;
        let world = World::new(1).await;
        world.hub(0).create_device("meter", None).expect("a new device");
        let dir = TempDir::new().expect("a folder");
        let hosts = dir.path().join("hosts");
        point(&hosts, "10.88.1.1");
        shell(&format!("mount --bind {} /etc/hosts", hosts.display())).await;

        // It waits for its links before it becomes the connector.
        let mut connector = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "read go; exec \"$0\" run"])
            .arg(env!("CARGO_BIN_EXE_tti-connector"))
            .current_dir(dir.path())
            .env("TTI_CONNECTOR__WEBHOOK__LISTEN", WEBHOOK)
            .env("TTI_CONNECTOR__WEBHOOK__SECRETS", format!("[\"{SECRET}\"]"))
            .env("TTI_CONNECTOR__ADMIN__LISTEN", "127.0.0.1:0")
            .env("TTI_CONNECTOR__SPOOL__DIRECTORY", dir.path().join("spool"))
            .env("TTI_CONNECTOR__AZURE__CA_FILE", &world.emulator.ready().ca_file)
            .env(
                "TTI_CONNECTOR__AZURE__IOT_HUB__CONNECTION_STRING",
                world.hub(0).connection_string("iothubowner").expect("a policy"),
            )
            .env("TTI_CONNECTOR__AZURE__AMQP_PORT", "5671")
            .stdin(Stdio::piped())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let pid = connector.id().expect("it runs");
        // Its namespace is not there at once.
        until_other_namespace(pid).await;
        for (name, net) in LINKS {
            shell(&format!(
                "ip link add {name}0 type veth peer name {name}1 netns {pid}; \
                 ip addr add {net}.1/24 dev {name}0; ip link set {name}0 up; \
                 nsenter -t {pid} -n sh -ec 'ip link set lo up; ip addr add {net}.2/24 dev {name}1; \
                 ip link set {name}1 up'"
            ))
            .await;
        }
        let target = world.emulator.ready().hubs[0].amqp_port;
        let relay = async |net: &str| {
            let address: SocketAddr = format!("{net}.1:5671").parse().expect("an address");
            Relay::on(address, target).await
        };
        let hubs = [relay(LINKS[0].1).await, relay(LINKS[1].1).await];
        let mut go = connector.stdin.take().expect("a pipe");
        go.write_all(b"go\n").await.expect("it waits");
        let poster = Poster::to_url(format!("http://{WEBHOOK}/webhook"));
        Self { world, hubs, hosts, connector, poster, sent: 0, _dir: dir }
    }

    /// Posts until it is taken.
    async fn post(&mut self) {
        self.sent += 1;
        let message = uplink("office", "meter", self.sent);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let posted = self.poster.request(&message).bearer_auth(SECRET).send().await;
            if posted.is_ok_and(|answer| answer.status() == 202) {
                return;
            }
            assert!(Instant::now() < deadline, "the webhook takes nothing");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// All that was sent, in order, at most `doubled` of it twice.
    async fn all_arrived(&self, doubled: usize) {
        let mut arrivals = self.world.hub(0).arrivals();
        let counters = |events: Vec<Event>| events.iter().map(frame_counter).collect::<Vec<_>>();
        let arrived = async {
            loop {
                let counters = counters(self.world.hub(0).all_events());
                if counters.contains(&u64::from(self.sent)) {
                    return counters;
                }
                arrivals.changed().await.expect("the hub lives");
            }
        };
        let counters = tokio::time::timeout(NOTICED, arrived).await.expect("all arrive in time");
        let mut once = counters.clone();
        once.dedup();
        assert_eq!(once, (1..=u64::from(self.sent)).collect::<Vec<_>>());
        assert!(counters.len() - once.len() <= doubled, "{counters:?}");
    }

    /// Packets on a link vanish in both directions, or pass again: they are sent to a station that is not there.
    async fn vanish(&self, (name, net): (&str, &str), on: bool) {
        let pid = self.connector.id().expect("it runs");
        let change = |dev: &str, peer: &str| match on {
            true => format!("ip neigh replace {peer} lladdr 02:00:00:00:00:99 dev {dev} nud permanent"),
            false => format!("ip neigh del {peer} dev {dev}"),
        };
        let (here, there) = (format!("{name}0"), format!("{name}1"));
        let (ours, theirs) = (format!("{net}.1"), format!("{net}.2"));
        shell(&format!("{}; nsenter -t {pid} -n {}", change(&here, &theirs), change(&there, &ours))).await;
    }
}

fn point(hosts: &std::path::Path, address: &str) {
    // In place, for it is mounted elsewhere too.
    std::fs::write(hosts, format!("{address} localhost\n")).expect("written");
}

async fn until_other_namespace(pid: u32) {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let ours = of("self");
    until("a namespace of its own", || of(&pid.to_string()).is_some_and(|theirs| Some(theirs) != ours)).await;
}

async fn inner() {
    let mut stand = Stand::new().await;
    stand.post().await;
    stand.all_arrived(0).await;
    let before = stand.hubs[0].accepted();

    // The name moves; the live connection goes on, and its successor is at the new address.
    point(&stand.hosts, "10.88.2.1");
    stand.post().await;
    stand.all_arrived(0).await;
    assert_eq!(stand.hubs[1].accepted(), 0);
    let cut = Instant::now();
    stand.hubs[0].cut();
    stand.post().await;
    stand.all_arrived(1).await;
    println!("the name moved, the old address cut us: delivered at the new one after {:?}", cut.elapsed());
    assert_eq!((stand.hubs[0].accepted(), stand.hubs[1].accepted()), (before, 1));

    if std::env::var_os("TTI_NETNS").is_none() {
        println!("the real time-outs of vanishing packets are left out; TTI_NETNS=1 waits for them");
    } else {
        vanishing(&mut stand).await;
    }
    stand.connector.kill().await.expect("it ends");
}

async fn vanishing(stand: &mut Stand) {
    // Under load, and the name moves at the same time: failover as it should not be.
    let dark = Instant::now();
    point(&stand.hosts, "10.88.1.1");
    stand.vanish(LINKS[1], true).await;
    let before = stand.hubs[0].accepted();
    while stand.hubs[0].accepted() == before {
        stand.post().await;
        assert!(dark.elapsed() < NOTICED, "not noticed within a minute");
        sleep(Duration::from_millis(100)).await;
    }
    println!("packets vanished under load: back at the new address after {:?}", dark.elapsed());
    stand.all_arrived(1).await;
    println!("all {} messages arrived after {:?}", stand.sent, dark.elapsed());

    // Nothing to send, so only the hub's silence tells.
    stand.vanish(LINKS[1], false).await;
    let dark = Instant::now();
    point(&stand.hosts, "10.88.2.1");
    stand.vanish(LINKS[0], true).await;
    let before = stand.hubs[1].accepted();
    while stand.hubs[1].accepted() == before {
        assert!(dark.elapsed() < NOTICED, "not noticed within a minute");
        sleep(Duration::from_millis(100)).await;
    }
    println!("packets vanished, nothing to send: back at the new address after {:?}", dark.elapsed());
    stand.post().await;
    stand.all_arrived(1).await;
}
