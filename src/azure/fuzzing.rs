//! Fuzz target: connection strings, and tokens signed with what they hold.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{ConnectionString, HubAddress, Identity, SigningKey, hub_id, sas};
use crate::model::fuzzing::head_and_body;

/// What is read says the same when written again, and neither it nor an error shows the key.
pub(crate) fn connection_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(address) = HubAddress::parse(text, 5671) {
        assert_eq!(HubAddress::parse(&address.to_string(), 1), Some(address));
    }
    _ = hub_id::check_registration_id(text);
    match ConnectionString::parse(text) {
        Ok(read) => {
            let key = STANDARD.encode(read.key.as_bytes());
            let port = read.port.map_or_else(String::new, |port| format!(":{port}"));
            let identity = match &read.identity {
                Identity::Policy { name } => format!("SharedAccessKeyName={name}"),
                Identity::Device { id } => {
                    assert_eq!(hub_id::check_device_id(id), Ok(()));
                    format!("DeviceId={id}")
                }
            };
            let again = format!("HostName={}{port};{identity};SharedAccessKey={key}", read.host);
            assert_eq!(ConnectionString::parse(&again), Ok(read.clone()));
            assert!(
                identity.contains(&key) || read.host.contains(&key) || !format!("{read:?}").contains(&key)
            );
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.chars().count() <= 300, "{shown}");
            for key in text.split(';').filter_map(|part| part.trim().strip_prefix("SharedAccessKey=")) {
                // A short one may be part of any sentence.
                assert!(key.len() < 24 || !shown.contains(key.trim()), "{shown}");
            }
        }
    }
}

/// A token and what it was made of.
pub(crate) struct Signed {
    pub(crate) resource: String,
    pub(crate) policy: Option<String>,
    pub(crate) expiry_s: u64,
    /// Base64.
    pub(crate) key: String,
    pub(crate) token: String,
}

/// Signs for the resource, policy and expiry in the first three lines with the key behind them.
pub(crate) fn signed(data: &[u8]) -> Option<Signed> {
    let (lines, key) = head_and_body(data);
    let [resource, policy, expiry] = lines[..] else { return None };
    let policy = Some(policy.to_owned()).filter(|policy| !policy.is_empty());
    let (resource, expiry_s) = (resource.to_owned(), expiry.parse().ok()?);
    let token = sas::sign(&resource, &SigningKey::from_bytes(key), expiry_s, policy.as_deref());
    Some(Signed { resource, policy, expiry_s, key: STANDARD.encode(key), token })
}
