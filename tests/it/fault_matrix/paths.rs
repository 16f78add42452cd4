//! The four paths between hub and radio: one probe for each, and how often its downlink came.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tti_connector::emulator::things_stack::Delivery;

use crate::way_back::kit::Stage;

/// In the order of the probes.
pub(super) const NAMES: [&str; 4] = ["telemetry", "C2D", "method", "twin"];
/// How long a caller waits for the answer of a method.
const CALL: Duration = Duration::from_secs(5);

/// FPorts that tell the paths' downlinks apart.
const OF_C2D: u64 = 1;
const OF_METHOD: u64 = 2;
const OF_TWIN: u64 = 3;

/// What is asked of one device over its paths.
pub(super) struct Probes {
    device: String,
    /// Tells these from others of the same device, in payloads.
    tag: String,
    /// Telemetry is fine once so many messages have arrived.
    telemetry: usize,
}

impl Probes {
    /// Telemetry counts from now.
    pub(super) fn of(stage: &Stage, device: &str, when: &str) -> Self {
        let telemetry =
            stage.told("uplink_message").iter().filter(|delivery| is_of(delivery, device)).count();
        stage.hello(device);
        Self { device: device.to_owned(), tag: format!("{device}/{when}"), telemetry: telemetry + 1 }
    }

    /// Uses all paths at once; when each went through, if it did so in time.
    pub(super) async fn all(self, stage: &Stage, deadline: Instant) -> [Option<Instant>; 4] {
        let (telemetry, c2d, method, twin) = tokio::join!(
            timeout_at(deadline, self.telemetry(stage)),
            timeout_at(deadline, self.c2d(stage)),
            timeout_at(deadline, self.method(stage)),
            timeout_at(deadline, self.twin(stage)),
        );
        [telemetry.ok(), c2d.ok(), method.ok(), twin.ok()]
    }

    async fn telemetry(&self, stage: &Stage) -> Instant {
        stage.until(|| (stage.telemetry(&self.device).len() >= self.telemetry).then(Instant::now)).await
    }

    async fn c2d(&self, stage: &Stage) -> Instant {
        let body = STANDARD.encode(&self.tag);
        stage.send(&self.device, &self.tag, &[("Port", &OF_C2D.to_string())], &body);
        stage.until(|| stage.hub().cloud_queue(&self.device).is_empty().then(Instant::now)).await
    }

    /// Calls until there is an answer; each call has a payload of its own.
    async fn method(&self, stage: &Stage) -> Instant {
        for attempt in 0.. {
            stage.until(|| stage.hub().takes_methods(&self.device).then_some(())).await;
            let payload = STANDARD.encode(format!("{}/{attempt}", self.tag));
            let wish = json!({ "port": OF_METHOD, "payload": payload });
            let answer = stage.hub().invoke_method(&self.device, "downlink", &wish, CALL).await;
            if let Ok(answer) = answer {
                assert_eq!(answer.status, 200, "{}: {}", self.tag, answer.json());
                break;
            }
        }
        Instant::now()
    }

    async fn twin(&self, stage: &Stage) -> Instant {
        let hex: String = self.tag.bytes().map(|byte| format!("{byte:02x}")).collect();
        let raw = json!({ "fPort": OF_TWIN, "framePayload": hex, "confirmed": false, "operation": "push" });
        stage.desire(&self.device, &json!({ "rawDownlink": raw }));
        let told = || {
            let twin = stage.hub().twin(&self.device)?;
            let told = twin.reported.properties.get("rawDownlink")?;
            (told["value"] == raw).then(Instant::now)
        };
        stage.until(told).await
    }
}

/// Whether a message to the webhook is about a device.
pub(super) fn is_of(delivery: &Delivery, device: &str) -> bool {
    delivery.device.device_id == device
}

/// What was asked for and did not come exactly once.
pub(super) fn miscounted(stage: &Stage, devices: &[String], times: &[&str]) -> Vec<String> {
    let pushes: Vec<(String, u64, String)> = stage
        .stack()
        .pushes()
        .into_iter()
        .map(|push| {
            let device = push.device.device_id.clone();
            let downlink: Value = json!(push.downlink);
            let payload = downlink["frm_payload"].as_str().and_then(|text| STANDARD.decode(text).ok());
            let payload = String::from_utf8(payload.unwrap_or_default()).unwrap_or_default();
            (device, downlink["f_port"].as_u64().unwrap_or(0), payload)
        })
        .collect();
    let mut wrong = Vec::new();
    for device in devices {
        for when in times {
            let tag = format!("{device}/{when}");
            for (port, name) in [(OF_C2D, NAMES[1]), (OF_TWIN, NAMES[3])] {
                let count =
                    pushes.iter().filter(|push| **push == (device.clone(), port, tag.clone())).count();
                if count != 1 {
                    wrong.push(format!("{name} of {tag} gave {count} downlinks"));
                }
            }
            let calls: Vec<_> = pushes
                .iter()
                .filter(|(whose, port, payload)| {
                    whose == device && *port == OF_METHOD && payload.starts_with(&format!("{tag}/"))
                })
                .collect();
            let distinct: std::collections::BTreeSet<_> = calls.iter().collect();
            if calls.is_empty() || distinct.len() != calls.len() {
                wrong.push(format!("{} of {tag} gave {calls:?}", NAMES[2]));
            }
        }
    }
    wrong
}
