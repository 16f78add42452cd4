//! What must be asked to resolve one end device, from configuration alone. Pure.

use super::ResolveError;
use super::claims::ClaimKey;
use super::hub_id_rule::{DevEui, HubIdRule};
use super::routes::{Route, Routes, Target};
use crate::azure::{Identity, hub_id};
use crate::model::{EndDevice, ParkReason};

/// Where to ask, under which id, and what is thereby claimed.
#[derive(Debug)]
pub(super) struct Plan<'r> {
    pub(super) route: &'r Route,
    /// The device's id at its hub; with DPS its registration id, in lower case.
    pub(super) hub_id: String,
    pub(super) claim: ClaimKey,
    /// The DevEUI, if it goes into the hub id.
    pub(super) dev_eui: Option<DevEui>,
}

impl<'r> Plan<'r> {
    /// # Errors
    /// The device can't be resolved with this configuration: always `Park`.
    pub(super) fn new(
        routes: &'r Routes,
        rule: &HubIdRule,
        device: &EndDevice,
        dev_eui: Option<&str>,
    ) -> Result<Self, ResolveError> {
        let application = device.application_id();
        let route = routes.of(application).ok_or_else(|| ResolveError::Park {
            reason: ParkReason::NotConfigured,
            detail: format!(
                "application {application} has no hub: set azure.iot_hub.connection_string or azure.dps, \
                 for all or in azure.applications.{application}"
            ),
        })?;
        let invalid = |detail| ResolveError::Park { reason: ParkReason::InvalidHubId, detail };
        let hub_id = rule.apply(device, dev_eui).map_err(|missing| invalid(missing.to_string()))?;
        let dev_eui = dev_eui.filter(|_| rule.needs_dev_eui()).and_then(DevEui::parse);
        let refused = |kind: &str, id: &str, problem: hub_id::InvalidId| {
            invalid(format!("the {kind} {id:?} {problem}; change devices.hub_id"))
        };
        match &route.target {
            Target::Dps(scope) => {
                let hub_id = hub_id.to_ascii_lowercase();
                hub_id::check_registration_id(&hub_id)
                    .map_err(|problem| refused("registration id", &hub_id, problem))?;
                let claim = ClaimKey::registration(scope, &hub_id);
                Ok(Self { route, hub_id, claim, dev_eui })
            }
            Target::Hub(hub) => {
                hub_id::check_device_id(&hub_id)
                    .map_err(|problem| refused("hub device id", &hub_id, problem))?;
                match &hub.identity {
                    Identity::Device { id } if **id != hub_id => Err(ResolveError::Park {
                        reason: ParkReason::NotConfigured,
                        detail: format!(
                            "the connection string of application {application} is for hub device {id} alone, \
                             and devices.hub_id gives {hub_id}; use a policy's connection string, or DPS"
                        ),
                    }),
                    Identity::Device { .. } | Identity::Policy { .. } => {
                        let claim = ClaimKey::hub_device(&hub.address(routes.amqp_port()), &hub_id);
                        Ok(Self { route, hub_id, claim, dev_eui })
                    }
                }
            }
        }
    }
}
