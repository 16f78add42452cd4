//! Who an end device is at The Things Stack: application and device id, EUIs, address, correlation ids.
//!
//! Knows no state and no HTTP.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The Things Stack's limit for ids.
const MAX_ID_CHARS: usize = 36;
/// Crockford's base 32, of which ULIDs are made.
const ULID_ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// An end device's name: unique within an application only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceName {
    /// The application's id.
    pub application_id: String,
    /// The device's id.
    pub device_id: String,
}

impl DeviceName {
    /// `None` if one of them is no id of The Things Stack: 3 to 36 characters `a-z`, `0-9` and single `-` between.
    pub fn new(application_id: &str, device_id: &str) -> Option<Self> {
        (is_id(application_id) && is_id(device_id))
            .then(|| Self { application_id: application_id.to_owned(), device_id: device_id.to_owned() })
    }
}

impl fmt::Display for DeviceName {
    /// The Things Stack's unique id, `application.device`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.application_id, self.device_id)
    }
}

/// Whether a text can be an id.
pub(super) fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=MAX_ID_CHARS).contains(&text.len())
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
        // The expression asks for three characters beside the hyphens.
        && text.bytes().filter(|byte| plain(*byte)).count() >= 3
}

/// What the radio knows a device by. 16 upper-case hexadecimal digits each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Euis {
    pub(super) dev_eui: String,
    pub(super) join_eui: String,
}

impl Euis {
    /// Always the same ones for one name.
    pub(super) fn of(name: &DeviceName) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self {
            dev_eui: format!("70B3D57ED0{:06X}", hasher.finish() & 0xFF_FFFF),
            join_eui: "70B3D57ED0000000".to_owned(),
        }
    }
}

/// `end_device_ids` as The Things Stack writes them; a device that never joined has no address.
pub(super) fn end_device_ids(name: &DeviceName, euis: &Euis, dev_addr: Option<&str>) -> Value {
    let mut ids = json!({
        "device_id": name.device_id,
        "application_ids": { "application_id": name.application_id },
        "dev_eui": euis.dev_eui,
        "join_eui": euis.join_eui,
    });
    if let Some(dev_addr) = dev_addr {
        ids["dev_addr"] = json!(dev_addr);
    }
    ids
}

/// A new correlation id: `prefix:` and a ULID.
pub(super) fn correlation_id(prefix: &str) -> String {
    let mut id = format!("{prefix}:01");
    id.extend((0..24).map(|_| char::from(ULID_ALPHABET[fastrand::usize(..ULID_ALPHABET.len())])));
    id
}

#[cfg(test)]
mod tests {
    use super::is_id;

    #[test]
    fn ids_are_what_the_things_stack_takes() {
        for id in ["abc", "cellar-climate-01", "a-b-c", &"a".repeat(36)] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", "ab", "a-b", "-abc", "abc-", "a--bc", "Abc", "ab c", "äbc", &"a".repeat(37)] {
            assert!(!is_id(id), "{id}");
        }
    }
}
