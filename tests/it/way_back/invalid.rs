//! Cloud-to-device messages that can't become downlinks: each is rejected, and its sender reads why.

use tti_connector::config::{Command, Config};
use tti_connector::emulator::Fate;

use super::kit::Stage;

/// Properties, body, and what the reason must name: the property or body, and what is allowed.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, [&'a str; 2]);

const P: (&str, &str) = ("Port", "1");
const PORTS: &str = "a whole number from 1 to 223";
const PRIORITIES: &str = "one of Lowest, Low, BelowNormal, Normal, AboveNormal, High, Highest";
const GATEWAYS: &str = "gateway ids with commas between";
const TIME: &str = "RFC 3339";
const HEX: &str = "an even number of hexadecimal digits";
const BASE64: &str = "base64, standard or URL-safe, with or without padding";
const BODIES: &str = "a JSON object, base64 text, or what the property Encoding (hex, text or base64) says";
const PAYLOAD: &str = "downlink.methods.reset.payload";

/// Values of properties.
const VALUES: &[Case<'_>] = &[
    (&[], "AQ==", ["Port is missing", "downlink.port"]),
    (&[("Port", "")], "AQ==", ["Port", PORTS]),
    (&[("Port", "0")], "AQ==", ["Port is \"0\"", PORTS]),
    (&[("pORT", "224")], "AQ==", ["Port is \"224\"", PORTS]),
    (&[("Port", "-1")], "AQ==", ["Port", PORTS]),
    (&[("Port", "1.5")], "AQ==", ["Port", PORTS]),
    (&[("Port", "ten")], "AQ==", ["Port is \"ten\"", PORTS]),
    (&[("Port", "1"), ("port", "2")], "AQ==", ["Port and port", "send it once"]),
    (&[P, ("Confirmed", "maybe")], "AQ==", ["Confirmed is \"maybe\"", "true or false"]),
    (&[P, ("confirmed", "1")], "AQ==", ["Confirmed", "true or false"]),
    (
        &[P, ("Confirmed", "true"), ("CONFIRMED", "false")],
        "AQ==",
        ["Confirmed and CONFIRMED", "send it once"],
    ),
    (&[P, ("Priority", "urgent")], "AQ==", ["Priority is \"urgent\"", PRIORITIES]),
    (&[P, ("priority", "9")], "AQ==", ["Priority", PRIORITIES]),
    (&[P, ("Queue", "append")], "AQ==", ["Queue is \"append\"", "Push or Replace"]),
    (&[P, ("Queue", "")], "AQ==", ["Queue", "Push or Replace"]),
    (&[P, ("Encoding", "morse")], "AQ==", ["Encoding is \"morse\"", "hex, text or base64"]),
    (&[P, ("ClassBCGateways", "UPPER")], "AQ==", ["ClassBCGateways", GATEWAYS]),
    (&[P, ("ClassBCGateways", "roof,,mast")], "AQ==", ["ClassBCGateways", GATEWAYS]),
    (&[P, ("ClassBCGateways", "[{\"gateway\":1}]")], "AQ==", ["ClassBCGateways", GATEWAYS]),
    (&[P, ("ClassBCAbsoluteTime", "tomorrow")], "AQ==", ["ClassBCAbsoluteTime is \"tomorrow\"", TIME]),
    (&[P, ("classbcabsolutetime", "1900000000")], "AQ==", ["ClassBCAbsoluteTime", TIME]),
];

/// Bodies, and commands of IoT Central.
const BODY: &[Case<'_>] = &[
    (&[P], "not base64!", ["the body is no base64", BASE64]),
    (&[P], "AQ=A", ["the body is no base64", BASE64]),
    (&[P], "[1,2]", ["the body begins like a JSON array", BODIES]),
    (&[P], "{\"a\":", ["the body is broken JSON", BODIES]),
    (&[P], "{\"a\":1} {}", ["the body is broken JSON", BODIES]),
    (&[P], "@", ["the body is no base64", BASE64]),
    (&[P, ("Encoding", "hex")], "0x0g", ["the body is no hexadecimal", HEX]),
    (&[P, ("Encoding", "hex")], "abc", ["the body has an odd number of hexadecimal digits", HEX]),
    (&[P, ("Encoding", "base64")], "{}", ["the body is no base64", BASE64]),
    (&[("method-name", "")], "1", ["method-name", "the command's name"]),
    (&[("method-name", "unknown")], "1", ["Port is missing", "downlink.methods.unknown.port"]),
    (
        &[("method-name", "unknown"), P],
        "@",
        ["unknown came without payload", "downlink.methods.unknown.payload"],
    ),
    (&[("method-name", "reset")], "@", ["reset came without payload", PAYLOAD]),
    (&[("method-name", "reset")], "", ["reset came without payload", PAYLOAD]),
    (&[("method-name", "reset"), ("Port", "0")], "1", ["Port", PORTS]),
    (
        &[("method-name", "reset"), ("Method-Name", "other")],
        "1",
        ["method-name and Method-Name", "send it once"],
    ),
];

fn commands(config: &mut Config) {
    let reset = Command { port: Some(7), ..Command::default() };
    config.downlink.methods.insert("reset".to_owned(), reset);
}

/// Sends all, and a good one behind them; each of the bad must be told to the hub and to the sender.
async fn each_is_refused(cases: &[Case<'_>]) {
    let stage = Stage::with(commands).await;
    stage.meet("valve").await;
    for (number, (properties, body, _)) in cases.iter().enumerate() {
        stage.send("valve", &format!("bad-{number}"), properties, body);
    }
    stage.send("valve", "good", &[P], "AQ==");
    for (number, (properties, body, named)) in cases.iter().enumerate() {
        let (id, shown) = (format!("bad-{number}"), format!("{properties:?} {body}"));
        let letter = stage.dead("valve", &id).await;
        let told = letter.description.expect("a description");
        assert_eq!((letter.fate, letter.queued.delivery_count), (Fate::Rejected, 0), "{shown}");
        for part in named {
            assert!(told.contains(part), "{shown}: {told}");
        }
        let report = stage.reported(&id, &["rejected"]).await;
        assert_eq!(report["Reason"], told, "{shown}: the hub and the sender are told alike");
        assert_eq!((&report["Kind"], &report["Source"]), (&"downlink".into(), &"c2d".into()));
        assert_eq!((&report["DeviceID"], &report["ApplicationID"]), (&"valve".into(), &"house".into()));
    }
    stage.reported("good", &["queued"]).await;
    assert_eq!(stage.pushed().len(), 1, "of all these, one could be sent");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_invalid_property_is_rejected_and_its_sender_reads_what_is_allowed() {
    each_is_refused(VALUES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_invalid_body_and_command_is_rejected_and_its_sender_reads_what_is_allowed() {
    let (hex, base64) = ("00".repeat(256), "AAAA".repeat(86));
    let (deep, text) = (format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100)), "x".repeat(256));
    let mut cases = BODY.to_vec();
    let limit = "at most 255";
    cases.push((&[P, ("Encoding", "hex")], &hex, ["the body has 256 bytes", limit]));
    cases.push((&[P], &base64, ["the body has 258 bytes", limit]));
    cases.push((&[P, ("encoding", "TEXT")], &text, ["the body has 256 bytes", limit]));
    cases.push((&[P], &deep, ["the body is nested too deeply", "at most 64 levels"]));
    each_is_refused(&cases).await;
}
