//! Direct methods and desired properties, joined as the dispatcher needs them.

use std::sync::Arc;

use super::ports::{Commands, Hubs, Network, Outbox, Store};
use super::{DesiredFlow, Methods};
use crate::azure::{Desired, HubDevice, MethodReply, MethodRequest};
use crate::model::EndDevice;

/// Both flows.
#[derive(Debug)]
pub struct MethodsAndDesired<N, S, O, H> {
    /// Answers methods.
    pub methods: Methods<N, S, O>,
    /// Acts on desired properties.
    pub desired: DesiredFlow<N, S, O, H>,
}

impl<N: Network, S: Store, O: Outbox, H: Hubs> Commands for MethodsAndDesired<N, S, O, H> {
    async fn answer(
        &self,
        device: &EndDevice,
        hub_device: &Arc<HubDevice>,
        request: MethodRequest,
    ) -> MethodReply {
        self.methods.answer(device, hub_device, request).await
    }

    fn desired(&self, device: &EndDevice, hub_device: &Arc<HubDevice>, desired: Desired) {
        self.desired.handle(device, hub_device, desired);
    }
}
