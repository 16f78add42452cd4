//! Where an application's telemetry goes: its own hub or DPS, else the one for all.
//!
//! Knows no clients; the rules have made sure that at most one of the two is configured.

use super::sections::{Azure, Dps, Transport};
use crate::model::Secret;

/// IoT Hub's limit for devices on one WebSocket connection.
const MAX_DEVICES_PER_WEBSOCKET: usize = 500;

/// How an application's devices reach Azure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// One hub by connection string.
    Hub {
        /// A policy's or a device's.
        connection_string: &'a Secret,
    },
    /// The hub that DPS assigns.
    Dps {
        /// The instance's id scope.
        id_scope: &'a str,
        /// The enrollment group's key, base64.
        group_enrollment_key: &'a Secret,
        /// Host, `host:port` or `https://…`; Azure's global endpoint when `None`.
        endpoint: Option<&'a str>,
    },
}

impl Dps {
    /// True if any field is set: then an application has DPS of its own.
    fn is_given(&self) -> bool {
        self.id_scope.is_some() || self.group_enrollment_key.is_some() || self.endpoint.is_some()
    }
}

impl Azure {
    /// The route of an application. `None` if it is not configured: it has no section, and there is no hub or DPS for
    /// all. A field that its DPS section leaves out is taken from `azure.dps`.
    pub fn route(&self, application: &str) -> Option<Route<'_>> {
        let own = self.applications.get(application);
        if let Some(connection_string) = own.and_then(|own| own.iot_hub.connection_string.as_ref()) {
            return Some(Route::Hub { connection_string });
        }
        let own_dps = own.map(|own| &own.dps).filter(|dps| dps.is_given());
        if own_dps.is_none()
            && let Some(connection_string) = &self.iot_hub.connection_string
        {
            return Some(Route::Hub { connection_string });
        }
        let id_scope = own_dps.and_then(|dps| dps.id_scope.as_deref()).or(self.dps.id_scope.as_deref())?;
        let group_enrollment_key = own_dps
            .and_then(|dps| dps.group_enrollment_key.as_ref())
            .or(self.dps.group_enrollment_key.as_ref())?;
        let endpoint = own_dps.and_then(|dps| dps.endpoint.as_deref()).or(self.dps.endpoint.as_deref());
        Some(Route::Dps { id_scope, group_enrollment_key, endpoint })
    }

    /// The route of applications that have no section of their own.
    pub fn route_for_others(&self) -> Option<Route<'_>> {
        // No application has an empty id.
        self.route("")
    }

    /// The DTDL model id of an application's devices.
    pub fn model_id_of(&self, application: &str) -> Option<&str> {
        let own = self.applications.get(application).and_then(|own| own.model_id.as_deref());
        own.or(self.model_id.as_deref())
    }

    /// Devices on one connection at most: what is configured, but never more than the transport allows.
    pub fn devices_per_connection(&self) -> usize {
        match self.transport {
            Transport::Amqp => self.max_devices_per_connection,
            Transport::AmqpWs => self.max_devices_per_connection.min(MAX_DEVICES_PER_WEBSOCKET),
        }
    }
}
