//! A device's own key, derived from the key of its DPS enrollment group. Knows no HTTP.

use super::{SigningKey, hmac_sha256};

/// HMAC-SHA256 of the lower-cased registration id under the group's key, as DPS computes it.
///
/// The result signs for DPS and, once the device is assigned, for its hub.
pub fn derive_device_key(group: &SigningKey, registration_id: &str) -> SigningKey {
    SigningKey::from_bytes(&hmac_sha256(group, &[registration_id.to_ascii_lowercase().as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Azure's manual; also recomputed by hand.
    const GROUP: &str =
        "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
    const DEVICE: &str = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=";

    #[test]
    fn derives_the_known_key_whatever_the_case() {
        let group = SigningKey::from_base64(GROUP).expect("base64");
        let expected = SigningKey::from_base64(DEVICE).expect("base64");
        for id in ["sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "SN-007-888-ABC-mac-a1-b2-c3-d4-e5-F6"] {
            assert!(derive_device_key(&group, id) == expected, "{id}");
        }
        assert!(derive_device_key(&group, "sn-007") != expected);
    }
}
