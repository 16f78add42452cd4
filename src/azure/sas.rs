//! Signs SAS tokens for hubs and for DPS. Knows no clock: the caller says when a token ends.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{SigningKey, hmac_sha256};

/// Everything but RFC 3986's unreserved characters is written `%XX`, upper case.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// `SharedAccessSignature sr=…&sig=…&se=…`, with `&skn=…` when a policy is named.
///
/// `resource` is plain text; it is percent-encoded once, and the signature covers the encoded form, since a
/// verifier signs what it reads. `expiry_s` is in seconds since 1970 UTC. `policy` is a hub policy's name, or
/// `registration` for DPS; a token signed with a device's own key has none.
pub fn sign(resource: &str, key: &SigningKey, expiry_s: u64, policy: Option<&str>) -> String {
    let resource = utf8_percent_encode(resource, RESERVED).to_string();
    let expiry = expiry_s.to_string();
    let signature =
        STANDARD.encode(hmac_sha256(key, &[resource.as_bytes(), b"\n".as_slice(), expiry.as_bytes()]));
    let signature = utf8_percent_encode(&signature, RESERVED);
    let token = format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}");
    match policy {
        Some(policy) => format!("{token}&skn={}", utf8_percent_encode(policy, RESERVED)),
        None => token,
    }
}

/// The resource of one device at a hub: `{host}/devices/{device_id}`, not yet encoded. `host` carries no port.
pub fn device_resource(host: &str, device_id: &str) -> String {
    format!("{host}/devices/{device_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens below were computed with another language's HMAC and percent-encoding.
    fn key() -> SigningKey {
        SigningKey::from_bytes(b"0123456789abcdef0123456789abcdef")
    }

    #[test]
    fn signs_the_known_device_token() {
        let resource = device_resource("hub-1.azure-devices.net", "Sensor (1)'a!*");
        assert_eq!(
            sign(&resource, &key(), 1_767_225_600, None),
            "SharedAccessSignature sr=hub-1.azure-devices.net%2Fdevices%2FSensor%20%281%29%27a%21%2A\
             &sig=UHlhi5%2FgQDQQgzQ%2Fwr5sGZHGHTETeddiCJP5L%2F%2Bv8PA%3D&se=1767225600"
        );
    }

    #[test]
    fn signs_the_known_policy_token() {
        assert_eq!(
            sign("hub-1.azure-devices.net", &key(), 1_767_225_600, Some("iothubowner")),
            "SharedAccessSignature sr=hub-1.azure-devices.net\
             &sig=chY5oUNkWfx5dnvyRszdxNyo30pDoJGIYoU2C%2FrTQcc%3D&se=1767225600&skn=iothubowner"
        );
    }

    #[test]
    fn signs_the_known_dps_token() {
        assert_eq!(
            sign("0ne00ABCDEF/registrations/sn-007", &key(), 1_767_225_600, Some("registration")),
            "SharedAccessSignature sr=0ne00ABCDEF%2Fregistrations%2Fsn-007\
             &sig=J1orhdSRqwmPYkMtHz3m5wGoIqCvE5s254Bws4KZiRk%3D&se=1767225600&skn=registration"
        );
    }
}
