//! The hub's certificate is renewed, expires, or comes from another CA, while the connector runs.

use std::path::PathBuf;
use std::time::Duration;

use tti_connector::app::Connector;
use tti_connector::azure::{ConnectionString, HubAddress, HubDevice, Telemetry};
use tti_connector::emulator::Renewal;
use tti_connector::iot_hub::{IotHub, IotHubOptions};
use tti_connector::net::tls::client_config;

use super::relay::{Relay, until};
use crate::messages::uplink;
use crate::world::{Poster, World};

/// A connector whose only way to its hub is a relay, and whose CA file is a copy of its own.
struct Stand {
    world: World,
    relay: Relay,
    ca_file: PathBuf,
    connector: Connector,
    poster: Poster,
    sent: u32,
}

impl Stand {
    async fn new() -> Self {
        let world = World::new(1).await;
        world.hub(0).create_device("meter", None).expect("a new device");
        let relay = Relay::to_port(world.emulator.ready().hubs[0].amqp_port).await;
        let ca_file = world.dir.path().join("trusted.pem");
        std::fs::copy(&world.emulator.ready().ca_file, &ca_file).expect("a copy");
        let mut config = world.config_with_policy();
        config.azure.amqp_port = relay.port();
        config.azure.ca_file = Some(ca_file.clone());
        let connector = Connector::start(config).await.expect("the connector starts");
        let poster = Poster::to(&connector);
        Self { world, relay, ca_file, connector, poster, sent: 0 }
    }

    /// The CA file becomes the emulator's present one.
    fn trust(&self) {
        std::fs::copy(&self.world.emulator.ready().ca_file, &self.ca_file).expect("a copy");
    }

    async fn post(&mut self) {
        self.sent += 1;
        assert_eq!(self.poster.post(&uplink("office", "meter", self.sent)).await, 202);
    }

    async fn all_arrived(&self) {
        until("all is settled", || self.connector.spool().stats().pending == 0).await;
        assert_eq!(self.world.arrived(self.sent as usize).await.len(), self.sent as usize, "none is doubled");
    }

    /// The hub's certificate changes, and every connection is lost.
    fn renew(&self, how: Renewal) {
        self.world.emulator.renew_certificate(how).expect("a new certificate");
        self.relay.cut();
    }

    /// Waits until the connector has tried again, in vain, twice.
    async fn refused(&self) {
        let before = self.relay.accepted();
        until("two connects", || self.relay.accepted() >= before + 2).await;
        assert_eq!(self.connector.spool().stats().pending, 1);
    }

    /// What somebody with this CA file is told.
    async fn error(&self) -> String {
        let tls = client_config(Some(&self.ca_file)).expect("TLS");
        let hub =
            IotHub::new(IotHubOptions { connect_timeout: Duration::from_secs(5), ..IotHubOptions::new(tls) });
        let string = self.world.hub(0).connection_string("iothubowner").expect("a policy");
        let device = HubDevice {
            hub: HubAddress { host: "localhost".into(), port: self.relay.port() },
            device_id: "meter".into(),
            credential: ConnectionString::parse(&string).expect("a connection string").credential(),
            model_id: None,
            provisioned: false,
        };
        let message = Telemetry {
            body: "{}".into(),
            message_id: "0".to_owned(),
            correlation_id: None,
            properties: Vec::new(),
        };
        let error = hub.send(&device.into(), &message).await.expect_err("refused").to_string();
        hub.close().await;
        error
    }

    async fn end(self) {
        self.connector.stop().await;
        self.world.emulator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_of_the_same_ca_is_taken_at_the_next_connect() {
    let mut stand = Stand::new().await;
    stand.post().await;
    stand.all_arrived().await;
    stand.renew(Renewal::Leaf);
    stand.post().await;
    stand.all_arrived().await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_a_ca_that_is_unknown_until_its_file_is_there_without_a_restart() {
    let mut stand = Stand::new().await;
    stand.post().await;
    stand.all_arrived().await;
    stand.renew(Renewal::Ca);
    stand.post().await;
    stand.refused().await;
    let error = stand.error().await;
    for part in ["localhost", "its CA is unknown", "azure.ca_file"] {
        assert!(error.contains(part), "{error}");
    }
    // A file in the middle of being written changes nothing.
    std::fs::write(&stand.ca_file, "-----BEGIN CERTIFICATE-----\n").expect("written");
    stand.refused().await;
    stand.trust();
    stand.all_arrived().await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_while_the_hubs_certificate_is_expired() {
    let mut stand = Stand::new().await;
    stand.post().await;
    stand.all_arrived().await;
    stand.renew(Renewal::Expired);
    stand.post().await;
    stand.refused().await;
    let error = stand.error().await;
    for part in ["localhost", "expired", "renew it", "clock"] {
        assert!(error.contains(part), "{error}");
    }
    stand.renew(Renewal::Leaf);
    stand.all_arrived().await;
    stand.end().await;
}
