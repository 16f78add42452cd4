//! Reads the connection strings that Azure's portal shows. Opens no connection.

use std::fmt;
use std::sync::Arc;

use super::{Credential, HubAddress, SigningKey, hub_id};

/// Longest connection string read, in bytes; real ones have some 200.
const MAX_BYTES: usize = 4096;

/// A hub by one of its policies, or by one device's own key. `Debug` leaves the key out.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// Host name or IPv4 address, without port.
    pub host: Arc<str>,
    /// Port of AMQP over TLS, when the host name carries one: emulators do, Azure does not.
    pub port: Option<u16>,
    /// Whose key it is.
    pub identity: Identity,
    /// The shared access key.
    pub key: SigningKey,
}

/// Whose key a connection string holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A hub policy's: speaks for every device of the hub. Whether the policy has the right
    /// `DeviceConnect` only the hub can tell.
    Policy {
        /// `SharedAccessKeyName`.
        name: Arc<str>,
    },
    /// One device's.
    Device {
        /// `DeviceId`.
        id: Arc<str>,
    },
}

/// What is wrong with a connection string. Names the part, never its key.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConnectionStringError {
    /// A part that must be there is absent or empty.
    #[error("{0} is missing; a connection string reads HostName=…;SharedAccessKeyName=…;SharedAccessKey=…")]
    Missing(&'static str),
    /// Neither a policy nor a device is named.
    #[error("it names neither SharedAccessKeyName (a hub policy) nor DeviceId (one device)")]
    NoIdentity,
    /// A policy and a device are named.
    #[error("it names both SharedAccessKeyName and DeviceId; leave one out")]
    TwoIdentities,
    /// A part is there but can't be used.
    #[error("{part} {problem}")]
    Invalid {
        /// The part's name.
        part: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A way to connect that is not supported.
    #[error("{0} is not supported; use a connection string with SharedAccessKey")]
    Unsupported(&'static str),
    /// A piece between two `;` has no `=`, or the whole is too long.
    #[error("it is not a list of Name=value parts separated by `;`")]
    Malformed,
}

impl ConnectionString {
    /// Reads `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…` (a hub policy) or
    /// `HostName=…;DeviceId=…;SharedAccessKey=…` (one device). Names are compared without case, their order is
    /// free, unknown ones are passed over.
    ///
    /// # Errors
    /// The first problem, by the part's name.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        let parts = Parts::split(text)?;
        for name in ["x509", "UseTpm"] {
            if parts.get(name).is_some_and(|value| !value.eq_ignore_ascii_case("false")) {
                return Err(ConnectionStringError::Unsupported(name));
            }
        }
        for name in ["GatewayHostName", "ModuleId", "SharedAccessSignature"] {
            if parts.get(name).is_some() {
                return Err(ConnectionStringError::Unsupported(name));
            }
        }
        let (host, port) = host_and_port(parts.required("HostName")?)?;
        let identity = match (parts.get("SharedAccessKeyName"), parts.get("DeviceId")) {
            (Some(name), None) => Identity::Policy { name: name.into() },
            (None, Some(id)) => {
                hub_id::check_device_id(id).map_err(|problem| ConnectionStringError::Invalid {
                    part: "DeviceId",
                    problem: problem.to_string(),
                })?;
                Identity::Device { id: id.into() }
            }
            (Some(_), Some(_)) => return Err(ConnectionStringError::TwoIdentities),
            (None, None) => return Err(ConnectionStringError::NoIdentity),
        };
        let key = SigningKey::from_base64(parts.required("SharedAccessKey")?)
            .ok_or_else(|| invalid("SharedAccessKey", "is not base64"))?;
        Ok(Self { host, port, identity, key })
    }

    /// Where its hub listens: the port in the string, else `default_port`.
    pub fn address(&self, default_port: u16) -> HubAddress {
        HubAddress { host: Arc::clone(&self.host), port: self.port.unwrap_or(default_port) }
    }

    /// How to authenticate with it.
    pub fn credential(&self) -> Credential {
        match &self.identity {
            Identity::Policy { name } => Credential::Policy { name: Arc::clone(name), key: self.key.clone() },
            Identity::Device { .. } => Credential::Device { key: self.key.clone() },
        }
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionString")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The named values, as written. Values may hold `=`: base64 ends in it.
struct Parts<'t>(Vec<(&'t str, &'t str)>);

impl<'t> Parts<'t> {
    fn split(text: &'t str) -> Result<Self, ConnectionStringError> {
        if text.len() > MAX_BYTES {
            return Err(ConnectionStringError::Malformed);
        }
        text.split(';')
            .map(str::trim)
            .filter(|piece| !piece.is_empty())
            .map(|piece| {
                let (name, value) = piece.split_once('=').ok_or(ConnectionStringError::Malformed)?;
                Ok((name.trim(), value.trim()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn get(&self, name: &str) -> Option<&'t str> {
        self.0
            .iter()
            .find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty())
            .map(|&(_, value)| value)
    }

    fn required(&self, name: &'static str) -> Result<&'t str, ConnectionStringError> {
        self.get(name).ok_or(ConnectionStringError::Missing(name))
    }
}

fn host_and_port(text: &str) -> Result<(Arc<str>, Option<u16>), ConnectionStringError> {
    super::hub_device::split_host_and_port(text)
        .ok_or_else(|| invalid("HostName", "is no host name, nor host name:port"))
}

fn invalid(part: &'static str, problem: &str) -> ConnectionStringError {
    ConnectionStringError::Invalid { part, problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    #[test]
    fn reads_a_policy_and_a_device() {
        let policy = format!("HostName=h.azure-devices.net;SharedAccessKeyName=device;SharedAccessKey={KEY}");
        let read = ConnectionString::parse(&policy).expect("valid");
        assert_eq!((&*read.host, read.port), ("h.azure-devices.net", None));
        assert_eq!(read.identity, Identity::Policy { name: "device".into() });
        assert_eq!(read.key.as_bytes(), b"0123456789abcdef0123456789abcdef");
        assert_eq!(read.address(5671).to_string(), "h.azure-devices.net:5671");

        let device = format!(" deviceid=Sensor=1 ; SHAREDACCESSKEY={KEY};Other=x=y;HostName=localhost:5672;");
        let read = ConnectionString::parse(&device).expect("valid");
        assert_eq!(read.identity, Identity::Device { id: "Sensor=1".into() });
        assert_eq!(read.address(5671).to_string(), "localhost:5672");
        assert!(matches!(read.credential(), Credential::Device { .. }));
    }

    #[test]
    fn says_which_part_is_wrong_and_never_shows_the_key() {
        let cases = [
            ("", "HostName is missing"),
            ("HostName=h;SharedAccessKeyName=p", "SharedAccessKey is missing"),
            ("HostName=h;SharedAccessKey=KEY", "names neither"),
            ("HostName=h;DeviceId=d;SharedAccessKeyName=p;SharedAccessKey=KEY", "names both"),
            ("HostName=h;SharedAccessKeyName=p;SharedAccessKey=KEY!", "SharedAccessKey is not base64"),
            ("HostName=h:99999;SharedAccessKeyName=p;SharedAccessKey=KEY", "HostName is no host name"),
            ("HostName=https://h/;SharedAccessKeyName=p;SharedAccessKey=KEY", "HostName is no host name"),
            ("HostName=h;DeviceId=a/b;SharedAccessKey=KEY", "DeviceId holds '/'"),
            ("HostName=h;DeviceId=d;x509=true", "x509 is not supported"),
            ("HostName=h;DeviceId=d;UseTpm=true", "UseTpm is not supported"),
            (
                "HostName=h;DeviceId=d;SharedAccessKey=KEY;GatewayHostName=g",
                "GatewayHostName is not supported",
            ),
            ("KEY", "is not a list"),
        ];
        for (text, expected) in cases {
            let error =
                ConnectionString::parse(&text.replace("KEY", "c2VjcmV0")).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("c2VjcmV0"), "{error}");
        }
        let read = ConnectionString::parse("HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0").expect("valid");
        assert!(!format!("{read:?}").contains("c2VjcmV0"));
    }
}
