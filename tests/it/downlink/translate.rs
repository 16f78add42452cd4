//! What the cloud sends, read as downlinks: every property and field, every value that is refused and why.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod central;
mod desired;
mod message;
mod method;
mod rules;
mod strangers;

use serde_json::Value;
use tti_connector::config;
use tti_connector::downlink::translate::Rules;
use tti_connector::things_stack::Payload;

/// An application `app` with commands of its own, beside general ones; a port of its own only for `ported`.
fn rules() -> Rules {
    let command = |port: Option<u8>, payload: Option<&str>| config::Command {
        port,
        payload: payload.map(str::to_owned),
        ..config::Command::default()
    };
    let mut downlink = config::Downlink::default();
    let valve = config::Command {
        confirmed: Some(true),
        priority: Some("high".to_owned()),
        queue: Some("push".to_owned()),
        ..command(Some(10), Some(r#"{"open":true}"#))
    };
    downlink.methods.insert("valve".to_owned(), valve);
    downlink.methods.insert("interval".to_owned(), command(Some(11), Some("15")));
    downlink.methods.insert("portless".to_owned(), command(None, None));
    downlink.properties.insert("setpoint".to_owned(), command(Some(20), None));
    downlink.properties.insert("portless".to_owned(), command(None, None));
    downlink.properties.insert("decodedPayload".to_owned(), command(Some(21), None));
    let mut app = config::DownlinkApplication::default();
    app.methods.insert("interval".to_owned(), command(Some(30), None));
    app.methods.insert("Interval".to_owned(), command(Some(31), None));
    downlink.applications.insert("app".to_owned(), app);
    let ported = config::DownlinkApplication { port: Some(40), ..config::DownlinkApplication::default() };
    downlink.applications.insert("ported".to_owned(), ported);
    Rules::new(&downlink).unwrap()
}

fn decoded(value: Value) -> Payload {
    Payload::Decoded(value.as_object().unwrap().clone())
}

fn deep(levels: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
}
