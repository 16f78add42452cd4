//! An emulator with a Things Stack on a free port, a webhook receiver, and a client.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tti_connector::emulator::things_stack::{DeviceName, ThingsStack, Webhook};
use tti_connector::emulator::{Emulator, Options};
use tti_connector::model::Secret;

use super::receiver::Receiver;
use crate::messages::DEADLINE;

pub(super) const APP: &str = "greenhouse";
pub(super) const DEV: &str = "valve-7";

pub(super) struct World {
    pub(super) dir: TempDir,
    pub(super) emulator: Emulator,
    pub(super) receiver: Receiver,
    pub(super) client: Client,
}

pub(super) fn options(dir: &TempDir) -> Options {
    Options { amqp_port: 0, https_port: 0, things_stack_port: Some(0), ..Options::new(dir.path()) }
}

/// Answer of a call: status and JSON, null if there is none.
pub(super) async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

pub(super) fn device() -> DeviceName {
    DeviceName::new(APP, DEV).unwrap()
}

impl World {
    /// An open registry, with the webhook's downlink key.
    pub(super) async fn new() -> Self {
        Self::with(|options| options).await
    }

    /// Devices must be made and must join.
    pub(super) async fn strict() -> Self {
        Self::with(|options| Options { things_stack_open: false, ..options }).await
    }

    pub(super) async fn with(change: impl FnOnce(Options) -> Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let emulator = Emulator::start(change(options(&dir))).await.unwrap();
        let client = Client::builder()
            .tls_backend_preconfigured(
                tti_connector::net::tls::client_config_with(rustls::RootCertStore::empty())
                    .unwrap()
                    .as_ref()
                    .clone(),
            )
            .no_proxy()
            .timeout(DEADLINE)
            .build()
            .unwrap();
        let world = Self { dir, emulator, receiver: Receiver::start().await, client };
        world.stack().set_webhook(Some(world.webhook())).unwrap();
        world
    }

    pub(super) fn webhook(&self) -> Webhook {
        let downlink_api_key = Some(Secret::new(self.stack().api_key()));
        Webhook { downlink_api_key, ..Webhook::new(self.receiver.url.clone()) }
    }

    pub(super) fn stack(&self) -> &Arc<ThingsStack> {
        self.emulator.things_stack().unwrap()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.stack().url())
    }

    /// A call with the full key; a body makes it JSON.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.client.request(method, self.url(path)).bearer_auth(self.stack().api_key());
        if let Some(body) = body {
            request = request.json(&body);
        }
        read(request.send().await.unwrap()).await
    }

    pub(super) async fn push(&self, downlinks: Value) -> (u16, Value) {
        let path = format!("/api/v3/as/applications/{APP}/devices/{DEV}/down/push");
        self.call(Method::POST, &path, Some(json!({ "downlinks": downlinks }))).await
    }

    pub(super) async fn replace(&self, downlinks: Value) -> (u16, Value) {
        let path = format!("/api/v3/as/applications/{APP}/devices/{DEV}/down/replace");
        self.call(Method::POST, &path, Some(json!({ "downlinks": downlinks }))).await
    }

    /// The queue, as the API lists it.
    pub(super) async fn list(&self) -> Vec<Value> {
        let path = format!("/api/v3/as/applications/{APP}/devices/{DEV}/down");
        let (status, body) = self.call(Method::GET, &path, None).await;
        assert_eq!(status, 200);
        body["downlinks"].as_array().cloned().unwrap_or_default()
    }

    /// A control of the device.
    pub(super) async fn control(&self, method: Method, what: &str, body: Value) -> (u16, Value) {
        let path = format!("/emulator/applications/{APP}/devices/{DEV}/{what}");
        self.call(method, &path, Some(body)).await
    }

    /// An uplink by the control.
    pub(super) async fn uplink(&self, body: Value) {
        assert_eq!(self.control(Method::POST, "uplink", body).await.0, 204);
    }
}

/// A confirmed downlink on port 10 with one correlation id.
pub(super) fn confirmed(id: &str) -> Value {
    json!({ "f_port": 10, "frm_payload": "AQI=", "confirmed": true, "correlation_ids": [id] })
}

/// An unconfirmed one.
pub(super) fn plain(id: &str) -> Value {
    json!({ "f_port": 10, "frm_payload": "AQI=", "priority": "NORMAL", "correlation_ids": [id] })
}

/// A short time for what must not take long.
pub(super) const SHORT: Duration = Duration::from_millis(200);

/// The first correlation id of a queued downlink: the sender's.
pub(super) fn first_id(downlink: &Value) -> &str {
    downlink["correlation_ids"][0].as_str().unwrap()
}
