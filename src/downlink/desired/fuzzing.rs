//! Fuzz targets: desired properties in any order, and the row that remembers them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::pending::Owner;
use super::plan::Plan;
use super::state::{State, hash};
use super::{ack, inbox::Inbox};
use crate::azure::{Credential, Desired, DesiredScope, HubAddress, HubDevice, SigningKey};
use crate::downlink::fuzzing::{checked, rules};
use crate::downlink::merge::apply;
use crate::downlink::translate;
use crate::iot_hub;
use crate::model::EndDevice;

/// A row is read as it was written.
pub(in crate::downlink) fn row(json: &[u8]) {
    if let Some(state) = State::read(json) {
        assert_eq!(State::read(&state.write()), Some(state));
    }
}

/// One answer or change of the twin a line, as the hub sends them; those that begin with a blank come while the worker
/// is busy. What is known afterwards is what the hub holds, and every acknowledgement is a patch that the hub takes.
pub(crate) fn desired(data: &[u8]) -> Vec<Map<String, Value>> {
    let device = EndDevice::new("", "application", "device").expect("good ids");
    let hub_device = HubDevice {
        hub: HubAddress { host: "hub.example".into(), port: 5671 },
        device_id: "device".into(),
        credential: Credential::Device { key: SigningKey::from_bytes(b"key") },
        model_id: None,
        provisioned: false,
    };
    let owner = Owner { device: &device, hub_device: &hub_device };
    let (mut plan, mut inbox, mut patches) = (Plan::default(), Inbox::default(), Vec::new());
    let mut hub: Option<(u64, Map<String, Value>)> = None;
    for line in data.split(|byte| *byte == b'\n') {
        // No hub holds a null.
        let holds_null = |desired: &Desired| {
            matches!(desired.scope, DesiredScope::Whole { .. })
                && whole(&desired.properties) != desired.properties
        };
        let Some(desired) = iot_hub::fuzzing::desired(line).filter(|desired| !holds_null(desired)) else {
            continue;
        };
        for (name, value) in &desired.properties {
            assert_eq!(hash(value).len(), 32);
            if let Some(request) = translate::desired_property(name, value, rules()[0]) {
                checked(request);
            }
        }
        follow(&mut hub, &desired);
        inbox.put(desired);
        if line.starts_with(b" ") {
            continue;
        }
        while let Some(desired) = inbox.take() {
            plan.take(&owner, rules()[0], desired);
        }
        let acks: BTreeMap<_, _> = std::mem::take(&mut plan.acks);
        patches.push(ack::patch(&acks, &plan.state));
        plan.told(acks);
        assert_eq!(State::read(&plan.state.write()).as_ref(), Some(&plan.state));
        if let Some((version, properties)) = &hub {
            assert_eq!(plan.state.version, *version);
            for (name, value) in properties.iter().filter(|(_, value)| value.is_object()) {
                assert_eq!(&plan.state.patched(name, Value::Object(Map::new())), value, "{name}");
            }
        }
    }
    patches
}

/// What the hub itself holds after this; unknown before it told the whole.
fn follow(hub: &mut Option<(u64, Map<String, Value>)>, desired: &Desired) {
    match (&desired.scope, &mut *hub) {
        (DesiredScope::Whole { .. }, _) => *hub = Some((desired.version, desired.properties.clone())),
        (DesiredScope::Patch, Some((version, properties))) if desired.version > *version => {
            *version = desired.version;
            apply(properties, desired.properties.clone(), false);
        }
        (DesiredScope::Patch, _) => {}
    }
}

/// As a hub would hold it.
fn whole(properties: &Map<String, Value>) -> Map<String, Value> {
    let mut whole = Map::new();
    apply(&mut whole, properties.clone(), false);
    whole
}
