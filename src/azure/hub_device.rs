//! A device as IoT Hub knows it: at which hub, under which id, with which key.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Where a hub listens for AMQP over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubAddress {
    /// Host name or IP address, without port. It is the TLS server name and stands in every SAS resource.
    pub host: Arc<str>,
    /// TCP port of AMQP over TLS, 5671 at Azure.
    pub port: u16,
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl HubAddress {
    /// Reads `host` or `host:port`, as connection strings and DPS write it. `None` if it is neither.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = split_host_and_port(text)?;
        Some(Self { host, port: port.unwrap_or(default_port) })
    }
}

/// `host` or `host:port`; the host a DNS name or an IPv4 address.
pub(super) fn split_host_and_port(text: &str) -> Option<(Arc<str>, Option<u16>)> {
    /// Longest DNS name.
    const MAX_HOST_BYTES: usize = 253;

    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|&port| port != 0)?)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (host.len() <= MAX_HOST_BYTES && host.split('.').all(label)).then(|| (host.into(), port))
}

/// A shared access key, base64-decoded, ready to sign. Never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SigningKey(Arc<[u8]>);

impl SigningKey {
    /// Decodes the base64 text that Azure shows. `None` if it is not base64 or empty.
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        (!bytes.is_empty()).then(|| Self(bytes.into()))
    }

    /// Takes raw key bytes, as HMAC gives them.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The raw key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

/// What proves to the hub that we may speak for a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A hub policy (`SharedAccessKeyName`): one token opens a whole connection.
    Policy {
        /// The policy's name, `skn` in the token.
        name: Arc<str>,
        /// The policy's key.
        key: SigningKey,
    },
    /// The device's own key, from its connection string or derived from the enrollment group's.
    Device {
        /// The device's key.
        key: SigningKey,
    },
}

/// A device at its hub. Everything needed to open its links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubDevice {
    /// Its hub.
    pub hub: HubAddress,
    /// Its id there, case-sensitive, up to 128 characters.
    pub device_id: Arc<str>,
    /// How to authenticate.
    pub credential: Credential,
    /// DTDL model id announced on its telemetry link (`com.microsoft:model-id`), if any.
    pub model_id: Option<Arc<str>>,
    /// True if DPS assigned it, so that a lost device can be looked up again.
    pub provisioned: bool,
}
