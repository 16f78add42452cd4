//! What comes from the hub for a device, and how it is answered. Knows no wire format and no LoRaWAN.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::azure::{CloudMessage, Desired, HubDevice, MethodReply, MethodRequest, Settlement};
use crate::model::ParkReason;

/// Which of the hub's ways to a device are wanted. None of them: only telemetry, as before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Links {
    /// Cloud-to-device messages.
    pub c2d: bool,
    /// Direct methods.
    pub methods: bool,
    /// The twin: desired properties come as events, reported ones can be sent.
    pub twin: bool,
}

impl Links {
    /// No link but telemetry's.
    pub const NONE: Self = Self { c2d: false, methods: false, twin: false };

    /// Whether any is wanted.
    pub const fn any(self) -> bool {
        self.c2d || self.methods || self.twin
    }
}

/// Something came from the hub.
#[derive(Debug)]
pub enum DeviceEvent {
    /// A cloud-to-device message. The device's next one comes once this is answered (see
    /// `IotHubOptions::c2d_credit`).
    CloudMessage {
        /// Whose.
        device: Arc<HubDevice>,
        /// The message.
        message: CloudMessage,
        /// The hub holds it for us until then (one minute from receipt), and hands it out anew afterwards.
        locked_until: Instant,
        /// The answer. Dropped without one, the lock just runs out, which the hub does not count.
        settle: oneshot::Sender<Settlement>,
    },
    /// A direct method is called; the caller waits, by default for 30 s.
    Method {
        /// Whose.
        device: Arc<HubDevice>,
        /// The call.
        request: MethodRequest,
        /// The answer. Dropped without one, the caller runs into its time-out.
        reply: oneshot::Sender<MethodReply>,
    },
    /// Desired properties: all of them after each (re)attach, then what changes, versions only ever rising.
    Desired {
        /// Whose.
        device: Arc<HubDevice>,
        /// The properties.
        desired: Desired,
    },
    /// The hub refuses the device: it was deleted, disabled or moved, or its key is wrong. Its links are given up
    /// until it is kept open anew.
    Lost {
        /// Whose.
        device: Arc<HubDevice>,
        /// Under which reason its messages would be parked.
        reason: ParkReason,
        /// What the hub said.
        detail: String,
    },
}
