//! Desired properties: each change one downlink, acknowledged, whatever fails or crashes in between.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acknowledged;
mod changes;
mod crash;
mod trouble;

use std::sync::Arc;

use serde_json::Value;
use tti_connector::azure::{Desired, DesiredScope};
use tti_connector::downlink::{DesiredFlow, DesiredParts, Ledger};
use tti_connector::model::Clock;
use tti_connector::things_stack::{DownlinkState, Payload};

use super::stage::{EXPIRY, Stage, device, event, hub_device, rules, until};

/// One life of the connector.
struct Life {
    stage: Stage,
    ledger: Ledger<Stage, Stage>,
    flow: DesiredFlow<Stage, Stage, Stage, Stage>,
}

impl Life {
    async fn on(stage: Stage) -> Self {
        let ledger = stage.ledger().await;
        let flow = DesiredFlow::new(DesiredParts {
            network: stage.clone(),
            ledger: ledger.clone(),
            store: stage.clone(),
            hubs: stage.clone(),
            rules: rules(),
            expiry: EXPIRY,
            clock: Clock::system(),
            observer: Arc::new(stage.clone()),
        });
        Self { stage, ledger, flow }
    }

    async fn new() -> Self {
        Self::on(Stage::new()).await
    }

    /// Ends in order and starts anew.
    async fn restart(self) -> Self {
        self.flow.stop().await;
        Self::on(self.stage.again()).await
    }

    fn patch(&self, version: u64, properties: Value) {
        self.patch_of("d", version, properties);
    }

    fn patch_of(&self, id: &str, version: u64, properties: Value) {
        let properties = properties.as_object().unwrap().clone();
        let desired = Desired { version, properties, scope: DesiredScope::Patch };
        self.flow.handle(&device(id), &hub_device(id), desired);
    }

    /// All properties, as the hub tells them after an attach: with what it has reported.
    fn whole(&self, version: u64, properties: Value) {
        let properties = properties.as_object().unwrap().clone();
        let reported = self.stage.now().reported.get("d").cloned().unwrap_or_default();
        let desired = Desired { version, properties, scope: DesiredScope::Whole { reported } };
        self.flow.handle(&device("d"), &hub_device("d"), desired);
    }

    /// So many downlinks are queued, and all of them told.
    async fn queued(&self, count: usize) {
        until("queued and told", || {
            let inner = self.stage.now();
            assert!(inner.pushed.len() <= count, "{} downlinks instead of {count}", inner.pushed.len());
            inner.pushed.len() == count && inner.reports_taken > 0
        })
        .await;
    }

    async fn told(&self, name: &str, code: u64) {
        until("told", || self.reported(name)["ac"] == code).await;
    }

    async fn idle(&self) {
        until("idle", || self.flow.busy() == 0).await;
    }

    fn reported(&self, name: &str) -> Value {
        let inner = self.stage.now();
        inner.reported.get("d").and_then(|reported| reported.get(name)).cloned().unwrap_or_default()
    }

    fn payloads(&self) -> Vec<Value> {
        let pushed = self.stage.now().pushed.clone();
        let fields = |payload| match payload {
            Payload::Decoded(fields) => Value::Object(fields),
            Payload::Raw(bytes) => Value::from(bytes),
        };
        pushed.into_iter().map(|(_, _, downlink)| fields(downlink.payload)).collect()
    }

    /// Lets this happen to each downlink that was pushed.
    async fn witness(&self, state: DownlinkState) {
        let pushed = self.stage.now().pushed.clone();
        for (device, _, downlink) in pushed {
            self.ledger.witness(&device, &event(&downlink, state)).await.unwrap();
        }
    }
}
