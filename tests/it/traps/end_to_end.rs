//! Traps that only show when everything runs together.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tti_connector::app::Connector;

use crate::world::{DEADLINE, Poster, World, uplink};

#[tokio::test(flavor = "multi_thread")]
async fn trap_10_and_19_one_uplink_is_one_telemetry_message_whatever_comes_beside_it() {
    let world = World::new(1).await;
    let connector = Connector::start(world.config()).await.expect("the connector starts");
    let poster = Poster::to(&connector);
    let message = uplink("office", "room-1", 5);
    let mut normalized = message.clone();
    let fields = normalized.as_object_mut().expect("an object");
    let mut inner = fields.remove("uplink_message").expect("there");
    inner["normalized_payload"] = serde_json::json!({"air": {"temperature": 20.5}});
    fields.insert("uplink_normalized".to_owned(), inner);
    for body in [&normalized, &normalized, &message, &message] {
        assert_eq!(poster.post(body).await, 202);
    }
    assert_eq!(poster.post_and_wait(&uplink("office", "room-1", 6)).await.0, 200);
    assert_eq!(world.total(), 2, "one for each uplink");
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_20_the_answer_does_not_wait_for_dps() {
    let world = World::new(1).await;
    world.emulator.dps().set_work(Duration::from_secs(3600));
    let mut config = world.config();
    config.shutdown.grace = Duration::from_secs(4);
    let connector = Connector::start(config).await.expect("the connector starts");
    assert_eq!(Poster::to(&connector).post(&uplink("office", "room-1", 1)).await, 202);
    assert_eq!(connector.spool().stats().pending, 1);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_21_a_url_in_a_request_is_never_called() {
    let world = World::new(1).await;
    let bait = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/down/push", bait.local_addr().expect("an address"));
    let connector = Connector::start(world.config()).await.expect("the connector starts");
    let mut post = Poster::to(&connector).request(&uplink("office", "room-1", 1)).header("prefer", "wait=30");
    for name in ["X-Downlink-Push", "X-Downlink-Replace"] {
        post = post.header(name, &url);
    }
    let answer = post.header("X-Downlink-Apikey", "NNSXS.BAIT").send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    connector.stop().await;
    // All is over: whoever had called would be in the queue by now.
    let called = tokio::time::timeout(Duration::ZERO, bait.accept()).await;
    assert!(called.is_err(), "the URL was called");
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_26_no_secret_and_no_payload_reaches_the_log() {
    let world = World::new(1).await;
    let ready = world.emulator.ready();
    let secret = "planted-webhook-secret";
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tti-connector"))
        .arg("run")
        .current_dir(world.dir.path())
        .env("TTI_CONNECTOR__WEBHOOK__LISTEN", format!("127.0.0.1:{port}"))
        .env("TTI_CONNECTOR__WEBHOOK__SECRETS", format!("[\"{secret}\"]"))
        .env("TTI_CONNECTOR__ADMIN__LISTEN", "127.0.0.1:0")
        .env("TTI_CONNECTOR__SPOOL__DIRECTORY", world.dir.path().join("spool"))
        .env("TTI_CONNECTOR__AZURE__AMQP_PORT", ready.hubs[0].amqp_port.to_string())
        .env("TTI_CONNECTOR__AZURE__CA_FILE", &ready.ca_file)
        .env("TTI_CONNECTOR__AZURE__DPS__ENDPOINT", &ready.dps_endpoint)
        .env("TTI_CONNECTOR__AZURE__DPS__ID_SCOPE", &ready.id_scope)
        .env("TTI_CONNECTOR__AZURE__DPS__GROUP_ENROLLMENT_KEY", &ready.group_enrollment_key)
        .env("TTI_CONNECTOR__LOG__LEVEL", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the connector starts");
    // Read while it runs: at level trace the pipe fills.
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let reading = tokio::spawn(async move {
        let (mut out_text, mut err_text) = (String::new(), String::new());
        let read = tokio::join!(out.read_to_string(&mut out_text), err.read_to_string(&mut err_text));
        read.0.and(read.1).expect("UTF-8");
        out_text + &err_text
    });
    let poster = Poster::to_url(format!("http://127.0.0.1:{port}/webhook"));
    let post = |device: &str, key: &str| {
        poster.request(&uplink("office", device, 1)).header("x-api-key", key).header("prefer", "wait=30")
    };
    let answered = async {
        loop {
            if let Ok(answer) = post("room-1", secret).send().await {
                return answer.status().as_u16();
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::time::timeout(DEADLINE, answered).await.expect("in time"), 200);
    assert_eq!(
        post("room-1", "planted-wrong-secret").send().await.expect("an answer").status().as_u16(),
        401
    );
    // A device that gets parked is logged, too.
    world.emulator.dps().set_enabled("barred", false);
    assert_eq!(post("barred", secret).send().await.expect("an answer").status().as_u16(), 424);
    let id = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs").success());
    assert!(child.wait().await.expect("it ends").success(), "SIGTERM is a clean end");

    let log = reading.await.expect("read");
    assert!(log.contains("The connector has stopped."), "{log}");
    assert!(log.contains("barred"), "the parked device is named");
    let device_key = "SharedAccessSignature";
    for planted in
        [secret, "planted-wrong-secret", &ready.group_enrollment_key, device_key, "AWcA5w==", "sig="]
    {
        let line = log.lines().find(|line| line.contains(planted));
        assert_eq!(line, None, "{planted} is in the log");
    }
}
