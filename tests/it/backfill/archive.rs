//! A connector whose Things Stack is a scripted Storage Integration, and a hub to look at.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde_json::{Value, json};
use tti_connector::app::Connector;
use tti_connector::config::Config;

use super::kit::{counter, on};
use crate::messages::DEADLINE;
use crate::things_stack::server::{Reply, Request, Server, answer};
use crate::way_back::kit::{APPLICATION, application};
use crate::world::{Poster, World};

/// What it answers instead of rows.
pub(super) type Instead = Option<(u16, &'static str)>;

#[derive(Default)]
struct Shelf {
    /// Lines, with the time by which they are ordered.
    lines: Vec<(Timestamp, String)>,
    instead: Instead,
}

pub(super) struct Archive {
    pub(super) server: Server,
    pub(super) world: World,
    pub(super) connector: Connector,
    poster: Poster,
    shelf: Arc<Mutex<Shelf>>,
}

impl Archive {
    pub(super) async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let shelf: Arc<Mutex<Shelf>> = Arc::default();
        let of = Arc::clone(&shelf);
        let server = Server::start(move |request| serve(&of.lock().unwrap(), request)).await;
        let world = World::new(1).await;
        let mut config = world.config_with_policy();
        config.things_stack.base_url = Some(server.url());
        config.things_stack.applications = [(APPLICATION.to_owned(), application("NNSXS.KEY"))].into();
        on(&mut config);
        change(&mut config);
        let connector = Connector::start(config).await.unwrap();
        world.hub(0).create_device("valve", None).unwrap();
        let poster = Poster::to(&connector);
        Self { server, world, connector, poster, shelf }
    }

    /// Stores a row.
    pub(super) fn store(&self, row: &Value) {
        let at: Timestamp = row["received_at"].as_str().unwrap().parse().unwrap();
        self.line(at, json!({ "result": row }).to_string());
    }

    /// Stores any line.
    pub(super) fn line(&self, at: Timestamp, line: String) {
        let mut shelf = self.shelf.lock().unwrap();
        shelf.lines.push((at, line));
        shelf.lines.sort_by_key(|(at, _)| *at);
    }

    pub(super) fn instead(&self, instead: Instead) {
        self.shelf.lock().unwrap().instead = instead;
    }

    /// Posts an uplink to the webhook.
    pub(super) async fn post(&self, row: &Value) {
        assert_eq!(self.poster.post(row).await, 202);
    }

    /// Waits for so many messages at the hub; gives their counters.
    pub(super) async fn arrived(&self, count: usize) -> Vec<(u64, bool)> {
        self.world.arrived(count).await.iter().map(counter).collect()
    }

    /// Requests for stored uplinks so far.
    pub(super) fn asked(&self) -> Vec<Request> {
        self.server.requests().into_iter().filter(|request| request.target.contains("/packages/")).collect()
    }

    pub(super) async fn until_asked(&self, count: usize) {
        tokio::time::timeout(DEADLINE, self.server.heard(count)).await.unwrap();
    }

    pub(super) async fn end(self) {
        self.connector.stop().await;
    }
}

fn serve(shelf: &Shelf, request: &Request) -> Reply {
    if let Some((status, headers)) = shelf.instead {
        return Reply::Answer(status, headers, r#"{"code":7,"message":"as told"}"#.to_owned());
    }
    let parameter = |name: &str| {
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap()
    };
    assert_eq!(parameter("order"), "received_at");
    assert_eq!(request.header("accept"), Some("text/event-stream"));
    assert_eq!(request.header("authorization"), Some("Bearer NNSXS.KEY"));
    let (after, limit): (Timestamp, usize) =
        (parameter("after").parse().unwrap(), parameter("limit").parse().unwrap());
    let lines = shelf.lines.iter().filter(|(at, _)| *at > after).take(limit);
    answer(200, lines.map(|(_, line)| format!("{line}\n\n")).collect::<String>())
}

/// An uplink of the valve, received some seconds before now.
pub(super) fn row(f_cnt: u32, seconds_ago: i64) -> Value {
    let at = Timestamp::from_millisecond(start_ms() - seconds_ago * 1000).unwrap();
    json!({
        "end_device_ids": { "device_id": "valve", "application_ids": { "application_id": APPLICATION } },
        "received_at": format!("{:.9}", at + jiff::SignedDuration::from_millis(40)),
        "uplink_message": {
            "session_key_id": "AYk3l2bXw1c4e7mVbJQx0A==",
            "f_port": 2,
            "f_cnt": f_cnt,
            "frm_payload": "AWcA5w==",
            "received_at": format!("{at:.9}"),
        },
    })
}

/// The same moment in a whole test run, so that a row has one time.
fn start_ms() -> i64 {
    static START: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *START.get_or_init(|| Timestamp::now().as_millisecond())
}
