//! How a connection begins: raw AMQP, SASL mechanisms, and what is neither.

use std::time::Duration;

use fe2o3_amqp::Session;
use fe2o3_amqp::connection::OpenError;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp_types::messaging::Outcome;
use fe2o3_amqp_types::sasl::SaslCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tti_connector::emulator::AmqpOptions;

use super::kit::{Cbs, HOST, Rig, data, message, send, telemetry, within};
use super::raw::sasl_frame;

fn plain(user: &str, password: String) -> SaslProfile {
    SaslProfile::Plain { username: user.to_owned(), password }
}

#[tokio::test]
async fn anonymous_clients_go_on_to_cbs() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut connection = rig.connect_sasl(SaslProfile::Anonymous).await.unwrap();
    let mut session = within(Session::begin(&mut connection)).await.unwrap();
    let mut cbs = Cbs::attach(&mut session).await;
    assert_eq!(cbs.put(&rig.device_token("dev", 60)).await.0, 200);
}

#[tokio::test]
async fn a_plain_token_opens_the_door_without_cbs() {
    let rig = Rig::start().await;
    rig.device("dev");
    let users = [
        ("dev@sas.hub", rig.device_token("dev", 60)),
        ("device@sas.root.hub", rig.policy_token("device", 60)),
    ];
    for (user, password) in users {
        let mut connection = rig.connect_sasl(plain(user, password)).await.unwrap();
        let mut session = within(Session::begin(&mut connection)).await.unwrap();
        let mut sender = telemetry(&mut session, "dev").await;
        assert!(matches!(send(&mut sender, message(data("x"))).await.unwrap(), Outcome::Accepted(_)));
    }
    let scopes: Vec<bool> =
        rig.events_of("dev").iter().map(|event| event.auth_method.contains(r#""scope":"hub""#)).collect();
    assert_eq!(scopes, [false, true]);
}

#[tokio::test]
async fn a_wrong_plain_token_or_name_is_refused() {
    let rig = Rig::start().await;
    rig.device("dev");
    rig.device("other");
    let forged = super::kit::token(&format!("{HOST}/devices/dev"), "d3Jvbmc=", rig.now_s() + 60, None);
    for profile in [plain("dev@sas.hub", forged), plain("dev@sas.hub", rig.device_token("other", 60))] {
        let error = rig.connect_sasl(profile).await.unwrap_err();
        assert!(matches!(error, OpenError::SaslError { code: SaslCode::Auth, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_plain_connection_ends_with_its_token() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut connection = rig.connect_sasl(plain("dev@sas.hub", rig.device_token("dev", 60))).await.unwrap();
    rig.clock.advance(60_000);
    let ended = format!("{:?}", within(connection.on_close()).await.unwrap_err());
    assert!(ended.contains("UnauthorizedAccess"), "{ended}");
}

#[tokio::test]
async fn mssbcbs_is_taken_as_anonymous_and_unknown_mechanisms_are_refused() {
    let rig = Rig::start().await;
    for (mechanism, code) in [("MSSBCBS", 0), ("EXTERNAL", 0), ("SCRAM-SHA-256", 1)] {
        let mut tcp = rig.tcp().await;
        tcp.write_all(b"AMQP\x03\x01\x00\x00").await.unwrap();
        let mut header = [0; 8];
        within(tcp.read_exact(&mut header)).await.unwrap();
        assert_eq!(&header, b"AMQP\x03\x01\x00\x00");
        let mechanisms = within(sasl_frame(&mut tcp)).await;
        let text = String::from_utf8_lossy(&mechanisms).into_owned();
        for name in ["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"] {
            assert!(text.contains(name), "{text}");
        }
        // sasl-init: a list of the mechanism (symbol) alone.
        let mut init = vec![0, 0x53, 0x41, 0xc0];
        init.extend([u8::try_from(mechanism.len()).unwrap() + 3, 1, 0xa3]);
        init.push(u8::try_from(mechanism.len()).unwrap());
        init.extend(mechanism.as_bytes());
        let mut frame = u32::try_from(init.len() + 8).unwrap().to_be_bytes().to_vec();
        frame.extend([2, 1, 0, 0]);
        frame.extend(init);
        tcp.write_all(&frame).await.unwrap();
        let outcome = within(sasl_frame(&mut tcp)).await;
        // sasl-outcome: its list's first field is the code, as ubyte.
        let at = outcome.iter().position(|byte| *byte == 0x50).unwrap();
        assert_eq!(outcome[at + 1], code, "{mechanism}");
    }
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_told_what_we_speak() {
    let rig = Rig::start().await;
    for hello in [*b"AMQP\x02\x01\x00\x00", *b"GET / HT", *b"AMQP\x00\x00\x09\x01"] {
        let mut tcp = rig.tcp().await;
        tcp.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        within(tcp.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"AMQP\x03\x01\x00\x00");
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_let_go() {
    let options = AmqpOptions { handshake_timeout: Duration::from_millis(50), ..AmqpOptions::default() };
    let rig = Rig::with(options).await;
    for hello in [&b""[..], b"AMQP", b"AMQP\x00\x01\x00\x00", b"AMQP\x03\x01\x00\x00"] {
        let mut tcp = rig.tcp().await;
        tcp.write_all(hello).await.unwrap();
        within(tcp.read_to_end(&mut Vec::new())).await.unwrap();
    }
}
