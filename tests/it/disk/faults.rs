//! The whole connector on a disk that fails: 503 with the reason, nothing accepted is lost, and it recovers by itself.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::process::Child;
use tti_connector::emulator::CloudMessage;
use tti_connector::emulator::things_stack::{DeviceName, ThingsStack, Uplink, Webhook};

use super::{Disk, shim};
use crate::crash::up;
use crate::messages::{DEADLINE, uplink};
use crate::world::{Poster, World, frame_counter, free_port};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EROFS: i32 = 30;
const DEVICE: &str = "valve";

/// A connector under the shim, between a hub and a Things Stack.
pub(super) struct Sick {
    world: World,
    poster: Poster,
    ready: String,
    child: Child,
    sent: u32,
}

impl Sick {
    pub(super) async fn start(
        environment: &[(&'static str, std::path::PathBuf)],
        spool: Option<&Path>,
        world: World,
    ) -> Self {
        let (port, admin) = (free_port(), free_port());
        let stack = world.emulator.things_stack().unwrap();
        let webhook = Webhook::new(format!("http://127.0.0.1:{port}/webhook").parse().unwrap());
        stack.set_webhook(Some(webhook)).unwrap();
        let mut command = world.connector(port);
        command
            .env("TTI_CONNECTOR__ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
            .env("TTI_CONNECTOR__THINGS_STACK__BASE_URL", stack.url())
            .env("TTI_CONNECTOR__THINGS_STACK__APPLICATIONS__HOUSE__API_KEY", stack.api_key())
            .env("TTI_CONNECTOR__UPLINK__RETRY_INITIAL", "50ms")
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(spool) = spool {
            command.env("TTI_CONNECTOR__SPOOL__DIRECTORY", spool);
        }
        let child = command.spawn().unwrap();
        up(port).await;
        stack.uplink(&name(), &Uplink::default()).unwrap();
        world.arrived(1).await;
        let poster = Poster::to_url(format!("http://127.0.0.1:{port}/webhook"));
        Self { world, poster, ready: format!("http://127.0.0.1:{admin}/ready"), child, sent: 0 }
    }

    fn stack(&self) -> &ThingsStack {
        self.world.emulator.things_stack().unwrap()
    }

    async fn ready(&self) -> (u16, String) {
        let tls = tti_connector::net::tls::client_config(None).unwrap();
        let client =
            reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).no_proxy().build().unwrap();
        let answer = client.get(&self.ready).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn until_ready(&self) {
        let ready = async {
            while self.ready().await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("ready again, by itself");
    }

    /// The next uplink is accepted.
    pub(super) async fn accepts(&mut self) {
        self.sent += 1;
        assert_eq!(self.poster.post(&uplink("house", "meter", self.sent)).await, 202);
    }

    /// The next uplink is refused, with when to come back; readiness says why.
    pub(super) async fn refuses(&self) {
        let answer = self.poster.request(&uplink("house", "meter", self.sent + 1)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 503);
        assert!(answer.headers().contains_key(RETRY_AFTER));
        let (status, why) = self.ready().await;
        assert_eq!(status, 503);
        assert!(why.contains("spool.directory"), "{why}");
    }

    fn command(&self, number: usize) {
        let hubs = self.world.emulator.hubs();
        let hub = hubs.iter().find(|hub| hub.device(DEVICE).is_some()).unwrap();
        let message = CloudMessage {
            message_id: Some(format!("message-{number}")),
            properties: vec![("Port".to_owned(), "10".to_owned())],
            ..CloudMessage::new("AQ==")
        };
        hub.send_cloud_message(DEVICE, message).unwrap();
    }

    fn waiting(&self) -> usize {
        self.world.emulator.hubs().iter().map(|hub| hub.cloud_queue(DEVICE).len()).sum()
    }

    async fn pushed(&self, count: usize) {
        let pushed = async {
            while self.stack().pushes().len() < count || self.waiting() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, pushed).await.expect("the downlinks are queued");
        assert_eq!(self.stack().pushes().len(), count, "each once");
    }

    /// Every uplink that was accepted came, once and in order. Gives what the connector said.
    pub(super) async fn end(mut self) -> String {
        let counters = async {
            loop {
                let total = self.world.total();
                let events = self.world.arrived(total).await;
                let counters: Vec<u64> =
                    events.iter().filter(|event| event.device_id == "meter").map(frame_counter).collect();
                if counters.len() as u32 >= self.sent {
                    break counters;
                }
                self.world.arrived(total + 1).await;
            }
        };
        let counters = tokio::time::timeout(DEADLINE, counters).await.expect("all arrive");
        assert_eq!(counters, (1..=u64::from(self.sent)).collect::<Vec<_>>());
        self.child.start_kill().unwrap();
        let mut said = String::new();
        BufReader::new(self.child.stderr.take().unwrap()).read_to_string(&mut said).await.unwrap();
        said
    }
}

fn name() -> DeviceName {
    DeviceName::new("house", DEVICE).unwrap()
}

async fn survives(faults: &[(&str, i32, &str)]) {
    let shim = match shim() {
        Ok(shim) => shim,
        Err(why) => return println!("skipped: {why}"),
    };
    let world = World::new(1).await;
    let disk = Disk::new(world.dir.path());
    let mut sick = Sick::start(&disk.environment(shim), None, world).await;
    for (turn, (calls, errno, _)) in faults.iter().enumerate() {
        sick.accepts().await;
        disk.fail(calls, *errno);
        sick.refuses().await;
        // Comes back from the hub, since no row of the ledger says that it was pushed.
        sick.command(turn);
        sick.refuses().await;
        assert_eq!((sick.stack().pushes().len(), sick.waiting()), (turn, 1), "{calls} {errno}");
        disk.heal();
        sick.until_ready().await;
        sick.accepts().await;
        sick.pushed(turn + 1).await;
    }
    let folder = disk.folder.display().to_string();
    let said = sick.end().await;
    for (.., remedy) in faults {
        let line = said.lines().find(|line| line.contains(&folder) && line.contains(remedy));
        assert!(line.is_some(), "no line names {folder} and {remedy:?}:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_answered_503_and_nothing_is_lost_or_doubled() {
    survives(&[("write", ENOSPC, "free space")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_never_trusted_and_the_files_opened_anew() {
    survives(&[("sync", EIO, "check that the disk is well"), ("write", EIO, "check that the disk is well")])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_read_only_is_answered_503_until_it_is_not() {
    survives(&[("all", EROFS, "writable")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_free_inode_does_not_matter_once_it_runs() {
    let shim = match shim() {
        Ok(shim) => shim,
        Err(why) => return println!("skipped: {why}"),
    };
    let world = World::new(1).await;
    let disk = Disk::new(world.dir.path());
    let mut sick = Sick::start(&disk.environment(shim), None, world).await;
    disk.fail("create", ENOSPC);
    sick.accepts().await;
    assert_eq!(sick.ready().await.0, 200);
    // A failed sync besides: the recovery needs no new file either.
    disk.fail("sync", EIO);
    sick.refuses().await;
    disk.fail("create", ENOSPC);
    sick.until_ready().await;
    sick.accepts().await;
    sick.end().await;
}
