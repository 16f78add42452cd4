//! Which ids IoT Hub and DPS take. Knows nothing of where an id comes from.

/// Longest device id and longest registration id, in characters; all of them are ASCII.
pub const MAX_ID_CHARS: usize = 128;

/// What a hub's device id may hold beside ASCII letters and digits. `+` and `#` are in older pages of Azure's
/// manual, but its SDKs do not support them.
const DEVICE_ID_EXTRA: &str = "-.%_*?!(),:=@$'";
const REGISTRATION_ID_EXTRA: &str = "-._:";

/// Why an id is refused. The text completes "the id … ".
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidId {
    /// No character at all.
    #[error("is empty")]
    Empty,
    /// The number of characters it has.
    #[error("has {0} characters, more than 128")]
    TooLong(usize),
    /// The first character that is not taken.
    #[error("holds {0:?}, which Azure does not take in this id")]
    Character(char),
    /// A registration id's last character.
    #[error("ends in {0:?}; a registration id ends in a letter, a digit or `-`")]
    LastCharacter(char),
}

/// Checks a device id of IoT Hub: case-sensitive, 1 to 128 characters.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_device_id(id: &str) -> Result<(), InvalidId> {
    check(id, DEVICE_ID_EXTRA)
}

/// Checks a registration id of DPS: case-insensitive, 1 to 128 characters, last one a letter, a digit or `-`.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_registration_id(id: &str) -> Result<(), InvalidId> {
    check(id, REGISTRATION_ID_EXTRA)?;
    match id.chars().next_back() {
        Some(last) if !last.is_ascii_alphanumeric() && last != '-' => Err(InvalidId::LastCharacter(last)),
        _ => Ok(()),
    }
}

fn check(id: &str, extra: &str) -> Result<(), InvalidId> {
    if id.is_empty() {
        return Err(InvalidId::Empty);
    }
    if let Some(bad) = id.chars().find(|&c| !c.is_ascii_alphanumeric() && !extra.contains(c)) {
        return Err(InvalidId::Character(bad));
    }
    if id.len() > MAX_ID_CHARS {
        return Err(InvalidId::TooLong(id.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_iot_hub_takes() {
        for id in ["a", "Sensor-1", "a.b%c_d*e?f!g(h),i:j=k@l$m'n", &"x".repeat(128)] {
            assert_eq!(check_device_id(id), Ok(()), "{id}");
        }
        assert_eq!(check_device_id(""), Err(InvalidId::Empty));
        assert_eq!(check_device_id(&"x".repeat(129)), Err(InvalidId::TooLong(129)));
        for bad in ['+', '#', '/', ' ', 'é', '\\', '"'] {
            assert_eq!(check_device_id(&format!("a{bad}b")), Err(InvalidId::Character(bad)));
        }
    }

    #[test]
    fn takes_what_dps_takes() {
        for id in ["a", "sn-007", "a.b_c:d", "a-", &"x".repeat(128)] {
            assert_eq!(check_registration_id(id), Ok(()), "{id}");
        }
        assert_eq!(check_registration_id("a."), Err(InvalidId::LastCharacter('.')));
        assert_eq!(check_registration_id("a:"), Err(InvalidId::LastCharacter(':')));
        assert_eq!(check_registration_id("a@b"), Err(InvalidId::Character('@')));
        assert_eq!(check_registration_id(""), Err(InvalidId::Empty));
    }
}
