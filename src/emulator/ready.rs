//! What a client must know to use a running emulator: hosts, ports, keys. Written to `ready.json`.

use std::path::Path;

use serde::Serialize;

use super::amqp::EVENT_HUB_NAME;
use super::error::EmulatorError;
use super::files;
use super::hub::Hub;

/// The file's name in the emulator's folder.
pub(super) const FILE: &str = "ready.json";

/// Everything a client needs. Serializes with the field names of `ready.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// The hubs, the first being `localhost`.
    pub hubs: Vec<ReadyHub>,
    /// Port of HTTPS and WebSocket at every hub's host.
    pub https_port: u16,
    /// Absolute path of the CA certificate, PEM.
    pub ca_file: String,
    /// Id scope of DPS.
    pub id_scope: String,
    /// The enrollment group's symmetric key, base64.
    pub group_enrollment_key: String,
    /// DPS as `host:port`.
    pub dps_endpoint: String,
    /// Where to post uplinks, if a connector runs in the same process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<String>,
    /// The emulated Things Stack, such as `http://localhost:1885`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub things_stack_url: Option<String>,
    /// Its API key with all rights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub things_stack_api_key: Option<String>,
    /// Where it sends its messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub things_stack_webhook: Option<String>,
}

/// One hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyHub {
    /// Host name or address. It needs no DNS.
    pub host_name: String,
    /// Port of AMQP over TLS.
    pub amqp_port: u16,
    /// Connection string of the policy `iothubowner`, as the Azure portal shows it: without port.
    pub service_connection_string: String,
    /// Connection string of the Event Hub-compatible endpoint, with the port. azure-eventhub for Python goes to 5671
    /// all the same; for another port it needs `custom_endpoint_address` too.
    pub event_hub_connection_string: String,
    /// Name of the Event Hub.
    pub event_hub_name: String,
}

impl ReadyHub {
    /// Describes a hub.
    pub(super) fn new(hub: &Hub, amqp_port: u16) -> Self {
        let (host, policy) = (hub.host(), "iothubowner");
        let key = hub.policy_key(policy).unwrap_or_default();
        let event_hub_name = EVENT_HUB_NAME.to_owned();
        Self {
            host_name: host.to_owned(),
            amqp_port,
            service_connection_string: hub.connection_string(policy).unwrap_or_default(),
            event_hub_connection_string: format!(
                "Endpoint=sb://{host}:{amqp_port}/;SharedAccessKeyName={policy};SharedAccessKey={key};\
                 EntityPath={event_hub_name}"
            ),
            event_hub_name,
        }
    }
}

impl Ready {
    /// Writes `ready.json` to a folder, for the owner's eyes only, whole or not at all.
    ///
    /// # Errors
    /// `File` if the folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), EmulatorError> {
        files::write_json(&dir.join(FILE), self)
    }
}
