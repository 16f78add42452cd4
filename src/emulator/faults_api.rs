//! Faults of a hub by plain HTTP: `POST`, `GET` and `DELETE /emulator/hubs/{host}/faults`.
//!
//! Beside [`super::hub_control`], which checks the way here and finds the hub.

use std::time::Duration;

use hyper::{Method, StatusCode};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::json;

use super::faults::{ActiveFault, Fault, FaultError};
use super::hub::Hub;
use super::reply::{self, HubRefusal, Reply};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    delay: Time,
    #[serde(default)]
    duration: Time,
    #[serde(default)]
    reason: String,
}

/// `"2s"`, `"500ms"`, `"1m 30s"`, or a number of seconds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(f64),
    Text(String),
}

impl Default for Time {
    fn default() -> Self {
        Self::Seconds(0.0)
    }
}

/// Does what is asked of a hub's faults.
///
/// # Errors
/// A refusal that says what the request must be.
pub(super) fn answer(hub: &Hub, method: &Method, body: &[u8]) -> Result<Reply, HubRefusal> {
    match method.as_str() {
        "POST" => {
            let id = hub.inject(fault(body)?).map_err(refused)?;
            Ok(reply::json(StatusCode::ACCEPTED, &json!({ "id": id })))
        }
        "GET" => {
            let faults: Vec<_> = hub.active_faults().iter().map(shown).collect();
            Ok(reply::json(StatusCode::OK, &json!({ "faults": faults })))
        }
        "DELETE" => {
            hub.end_faults();
            Ok(reply::empty(StatusCode::NO_CONTENT))
        }
        _ => Err(HubRefusal::wrong_method("POST, GET, DELETE")),
    }
}

fn fault(body: &[u8]) -> Result<Fault, HubRefusal> {
    let asked: Asked = serde_json::from_slice(body)
        .map_err(|error| HubRefusal::bad(format!("the body is no fault: {error}")))?;
    Ok(Fault {
        kind: asked.kind.parse().map_err(|error| HubRefusal::bad(format!("type: {error}")))?,
        device: asked.device,
        delay: duration("delay", &asked.delay)?,
        duration: duration("duration", &asked.duration)?,
        reason: asked.reason,
    })
}

fn duration(name: &str, time: &Time) -> Result<Duration, HubRefusal> {
    let duration = match time {
        Time::Seconds(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        Time::Text(text) => {
            text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok())
        }
    };
    duration.ok_or_else(|| {
        HubRefusal::bad(format!("{name} must be like \"2s\" or \"500ms\", or a number of seconds"))
    })
}

fn refused(error: FaultError) -> HubRefusal {
    let text = error.to_string();
    match error {
        FaultError::TooMany(_) => HubRefusal::new(StatusCode::TOO_MANY_REQUESTS, "TooManyFaults", text),
        FaultError::Delay
        | FaultError::Duration
        | FaultError::Reason
        | FaultError::Device
        | FaultError::WholeHub
        | FaultError::OneDevice
        | FaultError::AtOnce => HubRefusal::bad(text),
    }
}

fn shown(active: &ActiveFault) -> serde_json::Value {
    let ActiveFault { id, fault, begins_in, ends_in } = active;
    json!({
        "id": id,
        "type": fault.kind.as_str(),
        "device": fault.device,
        "reason": fault.reason,
        "beginsInSeconds": begins_in.as_secs_f64(),
        "endsInSeconds": ends_in.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::FaultKind;

    #[test]
    fn a_fault_is_read_with_its_times_in_either_form() {
        let body = br#"{"type":"KillTcp","device":"a","delay":"500ms","duration":5,"reason":"boom"}"#;
        let expected = Fault::new(FaultKind::KillTcp)
            .of("a")
            .after(Duration::from_millis(500))
            .lasting(Duration::from_secs(5))
            .because("boom");
        assert_eq!(fault(body).map_err(|refusal| refusal.message().to_owned()), Ok(expected));
        for wrong in [
            r#"{"type":"Kill"}"#,
            r#"{"type":"KillTcp","delay":-1}"#,
            r#"{"type":"KillTcp","delay":"-1s"}"#,
            r#"{"type":"KillTcp","delay":"soon"}"#,
            r#"{"type":"KillTcp","count":1}"#,
            "",
        ] {
            assert!(fault(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
