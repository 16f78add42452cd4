//! The parties of the AMQP targets: a hub with one device, and the connector's client for it. Knows no bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use tokio::io::{DuplexStream, copy_bidirectional};
use tokio::sync::mpsc;

use crate::azure::{Credential, HubAddress, HubDevice, SigningKey, Telemetry, sas};
use crate::emulator::fuzzing::{DEVICE, KEY, NOW_MS};
use crate::iot_hub::{IotHub, IotHubOptions, Links};
use crate::model::Clock;
use crate::net::tls::client_config_with;

pub(super) use crate::emulator::fuzzing::{DEVICE as NAME, hub};

/// After `NOW_MS`, at which the hub's clock stands.
const EXPIRY_S: u64 = 1_900_000_000;

static TLS: LazyLock<Arc<ClientConfig>> =
    LazyLock::new(|| client_config_with(RootCertStore::empty()).expect("its own versions"));

/// A token with which one may do all at the hub's HTTPS side.
pub(super) fn owner_token() -> String {
    sas::sign("hub.example", &key(), EXPIRY_S, Some("iothubowner"))
}

fn key() -> SigningKey {
    SigningKey::from_base64(KEY).expect("base64")
}

/// The connector's device at the hub, by its own key or by the policy's.
pub(super) fn device(by_policy: bool) -> Arc<HubDevice> {
    let credential = if by_policy {
        Credential::Policy { name: "iothubowner".into(), key: key() }
    } else {
        Credential::Device { key: key() }
    };
    Arc::new(HubDevice {
        hub: HubAddress { host: "hub.example".into(), port: 5671 },
        device_id: DEVICE.into(),
        credential,
        model_id: None,
        provisioned: false,
    })
}

/// Everything that a device may use.
pub(super) const ALL: Links = Links { c2d: true, methods: true, twin: true };

/// A client whose connections are what `open` gives.
pub(super) fn client(
    open: impl Fn() -> DuplexStream + Send + Sync + 'static,
) -> (IotHub, mpsc::Receiver<crate::iot_hub::DeviceEvent>) {
    let mut options = IotHubOptions::new(Arc::clone(&TLS));
    options.clock = Clock::manual(NOW_MS);
    let (wires, mut taken) = mpsc::unbounded_channel();
    options.wires = Some(wires);
    tokio::spawn(async move {
        while let Some(mut near) = taken.recv().await {
            let mut far = open();
            tokio::spawn(async move { _ = copy_bidirectional(&mut near, &mut far).await });
        }
    });
    options.send_timeout = Duration::from_secs(10);
    options.connect_timeout = Duration::from_secs(10);
    IotHub::with_events(options)
}

/// One message to send.
pub(super) fn telemetry() -> Telemetry {
    let properties: BTreeMap<_, _> = [("ApplicationId", "application"), ("DeviceId", "device")].into();
    Telemetry {
        body: b"{\"Port\":1}".as_slice().into(),
        message_id: "0123456789abcdef0123456789abcdef".to_owned(),
        correlation_id: None,
        properties: properties.into_iter().map(|(name, value)| (name, value.to_owned())).collect(),
    }
}
