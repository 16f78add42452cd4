//! The demo as a newcomer sees it: the real binary, and nothing but the lines it prints.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

use std::process::Stdio;

use reqwest::{Client, Response};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::messages::DEADLINE;

struct Demo {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    client: Client,
}

impl Demo {
    /// Runs it on free ports; gives what it says before the first message.
    async fn start(dir: &std::path::Path) -> (Self, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tti-connector"));
        command.arg("demo").arg("--dir").arg(dir).env_clear().kill_on_drop(true);
        for option in ["--webhook-port", "--amqp-port", "--https-port", "--things-stack-port"] {
            command.args([option, "0"]);
        }
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let tls = tti_connector::net::tls::client_config_with(rustls::RootCertStore::empty()).unwrap();
        let client =
            Client::builder().tls_backend_preconfigured(tls.as_ref().clone()).no_proxy().build().unwrap();
        let mut demo = Self { process, lines, client };
        let mut greeting = String::new();
        while !greeting.contains("Stop with Ctrl-C") {
            greeting += &(demo.line().await + "\n");
        }
        (demo, greeting)
    }

    async fn line(&mut self) -> String {
        timeout(DEADLINE, self.lines.next_line()).await.unwrap().unwrap().expect("the demo still runs")
    }

    /// The first line from now on that begins so.
    async fn until(&mut self, start: &str) -> String {
        loop {
            let line = self.line().await;
            if line.starts_with(start) {
                return line;
            }
        }
    }

    async fn post(&self, url: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.post(url).header("Content-Type", "application/json").body(body);
        timeout(DEADLINE, request.send()).await.unwrap().unwrap()
    }
}

/// The URL in the text that holds `part`, without quotes.
fn url(text: &str, part: &str) -> String {
    let mut words = text.split_whitespace().map(|word| word.trim_matches('\''));
    words.find(|word| word.starts_with("http") && word.contains(part)).unwrap().to_owned()
}

#[tokio::test]
async fn a_newcomer_sees_a_downlink_with_nothing_but_curl() {
    let dir = tempfile::tempdir().unwrap();
    let (mut demo, greeting) = Demo::start(dir.path()).await;
    let (webhook, uplink) = (url(&greeting, "/webhook"), url(&greeting, "/uplink"));
    let message = url(&greeting, "/messages?Port=10&Confirmed=true");

    let early = demo.post(&message, "AQI=").await;
    assert_eq!(early.status(), 404, "nobody knows the device yet");
    assert!(early.text().await.unwrap().contains("first uplink"));

    // Posted by hand it has no tenant, unlike what the emulated Things Stack posts.
    let example = std::fs::read(dir.path().join("uplink_message.json")).unwrap();
    assert_eq!(demo.post(&webhook, example).await.status(), 202);
    demo.until("Telemetry from device cellar-climate-01 (application vineyard").await;
    let sent = demo.post(&format!("{message}&message-id=open-7"), "AQI=").await;
    assert_eq!(sent.status(), 202);
    for (state, uplinks) in [("is queued", 0), ("was sent", 1), ("was acknowledged", 1)] {
        for _ in 0..uplinks {
            assert_eq!(demo.post(&uplink, "").await.status(), 204);
        }
        let line = demo.until("Downlink open-7 to device cellar-climate-01 (application vineyard)").await;
        assert!(line.contains(state), "{line} is not {state}");
    }
    demo.process.kill().await.unwrap();
}
