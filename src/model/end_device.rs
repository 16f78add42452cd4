//! Who an end device is at The Things Stack: tenant, application and device id together.
//!
//! A device id is unique only within its application (The Things Stack's id constraints), so no
//! part of the connector keys anything by the device id alone.

use std::fmt;
use std::sync::Arc;

/// Longest tenant, application id or device id taken, in bytes. The Things Stack allows 36 for
/// ids and 253 for a domain; beyond this an id can only be an attack on memory.
const MAX_PART_BYTES: usize = 256;
const SEPARATOR: char = '\u{1f}';

/// One end device. Cheap to clone; compares and hashes by all three parts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndDevice {
    key: Arc<str>,
    application_at: u16,
    device_at: u16,
}

/// Why three strings are not an end device's identity. The text names the part.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEndDevice {
    /// The part is absent or empty; a field mask may have stripped it.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The part is longer than any id of The Things Stack.
    #[error("{0} is longer than {MAX_PART_BYTES} bytes")]
    TooLong(&'static str),
    /// The part holds a control character.
    #[error("{0} holds a control character")]
    ControlCharacter(&'static str),
}

impl EndDevice {
    /// Joins the three parts. `tenant` is the host in `X-Tts-Domain` and may be empty; the ids may not.
    ///
    /// # Errors
    /// Names the first part that is empty, too long or holds a control character.
    pub fn new(tenant: &str, application_id: &str, device_id: &str) -> Result<Self, InvalidEndDevice> {
        for (name, part) in [("tenant", tenant), ("application_id", application_id), ("device_id", device_id)]
        {
            if part.is_empty() && name != "tenant" {
                return Err(InvalidEndDevice::Empty(name));
            }
            if part.len() > MAX_PART_BYTES {
                return Err(InvalidEndDevice::TooLong(name));
            }
            if part.chars().any(char::is_control) {
                return Err(InvalidEndDevice::ControlCharacter(name));
            }
        }
        let at = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        Ok(Self {
            key: format!("{tenant}{SEPARATOR}{application_id}{SEPARATOR}{device_id}").into(),
            application_at: at(tenant.len() + 1),
            device_at: at(tenant.len() + application_id.len() + 2),
        })
    }

    /// Reads back what [`EndDevice::key`] gave. `None` if it is no such text.
    pub fn from_key(key: &str) -> Option<Self> {
        let mut parts = key.split(SEPARATOR);
        let device = Self::new(parts.next()?, parts.next()?, parts.next()?).ok()?;
        parts.next().is_none().then_some(device)
    }

    /// The three parts as one text, for storage. Not for people: use `Display`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The host of The Things Stack's tenant, empty when the webhook did not say.
    pub fn tenant(&self) -> &str {
        &self.key[..usize::from(self.application_at) - 1]
    }

    /// The application's id.
    pub fn application_id(&self) -> &str {
        &self.key[usize::from(self.application_at)..usize::from(self.device_at) - 1]
    }

    /// The device's id, unique only within its application.
    pub fn device_id(&self) -> &str {
        &self.key[usize::from(self.device_at)..]
    }

    /// Whether both are one end device, seen with and without its tenant, or twice alike. The webhook does not always
    /// say the tenant.
    pub fn is_same(&self, other: &Self) -> bool {
        self.application_id() == other.application_id()
            && self.device_id() == other.device_id()
            && (self.tenant() == other.tenant() || self.tenant().is_empty() || other.tenant().is_empty())
    }
}

/// `application/device`, with `tenant/` before it when known.
impl fmt::Display for EndDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.tenant().is_empty() {
            write!(f, "{}/", self.tenant())?;
        }
        write!(f, "{}/{}", self.application_id(), self.device_id())
    }
}

impl fmt::Debug for EndDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndDevice({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_survive_the_key() {
        for (tenant, application, device) in [("", "app", "dev"), ("t.eu1.cloud", "a-b", "é/ü")] {
            let device_of = EndDevice::new(tenant, application, device).expect("valid");
            let back = EndDevice::from_key(device_of.key()).expect("own key");
            assert_eq!(
                (back.tenant(), back.application_id(), back.device_id()),
                (tenant, application, device)
            );
        }
    }

    #[test]
    fn refuses_what_could_be_confused() {
        assert_eq!(EndDevice::new("", "", "d"), Err(InvalidEndDevice::Empty("application_id")));
        assert_eq!(
            EndDevice::new("", "a\u{1f}b", "d"),
            Err(InvalidEndDevice::ControlCharacter("application_id"))
        );
        assert_eq!(EndDevice::new("", "a", &"x".repeat(257)), Err(InvalidEndDevice::TooLong("device_id")));
        assert_eq!(EndDevice::from_key("a\u{1f}b"), None);
    }
}
