//! `devices.hub_id`: which id an end device has at Azure. Knows no hub and no DPS.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::azure::hub_id::MAX_ID_CHARS;
use crate::model::EndDevice;

/// The parsed rule. `device_id` and `dev_eui` are short for `{device_id}` and `{dev_eui}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubIdRule {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    DeviceId,
    ApplicationId,
    Tenant,
    DevEui,
}

/// Why a text is no rule. Names the cure.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidHubIdRule {
    /// A word without braces that is neither `device_id` nor `dev_eui`, or a template that names no device.
    #[error(
        "`{0}` gives every end device the same id; use `device_id`, `dev_eui`, or a template that holds \
         {{device_id}} or {{dev_eui}}"
    )]
    NamesNoDevice(String),
    /// `{…}` with another word.
    #[error(
        "{{{0}}} is unknown; a template may hold {{device_id}}, {{application_id}}, {{dev_eui}}, {{tenant}}"
    )]
    UnknownPlaceholder(String),
    /// `{` without `}`, or the other way round.
    #[error("a brace has no partner")]
    Brace,
    /// The fixed text alone is longer than any id may be.
    #[error("its fixed text is longer than the 128 characters of an id")]
    TooLong,
}

/// A LoRaWAN device's 64-bit identifier, small enough to keep for every device.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct DevEui(u64);

impl DevEui {
    /// Reads 16 hexadecimal digits of either case.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

/// Upper case, as The Things Stack writes it.
impl fmt::Display for DevEui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for DevEui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevEui({self})")
    }
}

/// The end device has no DevEUI, and the rule needs one: an ABP or simulated device.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the message carries no DevEUI of 16 digits, which `devices.hub_id` needs; give the end device one, or use `device_id`"
)]
pub struct MissingDevEui;

impl HubIdRule {
    /// Reads `devices.hub_id`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidHubIdRule> {
        let pieces = match text {
            "device_id" => vec![Piece::DeviceId],
            "dev_eui" => vec![Piece::DevEui],
            template => pieces_of(template)?,
        };
        let fixed: usize =
            pieces.iter().map(|piece| if let Piece::Literal(text) = piece { text.len() } else { 0 }).sum();
        if fixed > MAX_ID_CHARS {
            return Err(InvalidHubIdRule::TooLong);
        }
        if !pieces.iter().any(|piece| matches!(piece, Piece::DeviceId | Piece::DevEui)) {
            return Err(InvalidHubIdRule::NamesNoDevice(text.to_owned()));
        }
        Ok(Self { text: text.to_owned(), pieces })
    }

    /// The id of an end device. The DevEUI is written in upper case, as The Things Stack writes it. Whether
    /// Azure takes the id is not checked here.
    ///
    /// # Errors
    /// The rule needs a DevEUI, and there is none.
    pub fn apply(&self, device: &EndDevice, dev_eui: Option<&str>) -> Result<String, MissingDevEui> {
        let mut id = String::with_capacity(32);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => id.push_str(text),
                Piece::DeviceId => id.push_str(device.device_id()),
                Piece::ApplicationId => id.push_str(device.application_id()),
                Piece::Tenant => id.push_str(device.tenant()),
                Piece::DevEui => {
                    let dev_eui = dev_eui.and_then(DevEui::parse).ok_or(MissingDevEui)?;
                    id.push_str(&dev_eui.to_string());
                }
            }
        }
        Ok(id)
    }

    /// Whether the DevEUI goes into the id.
    pub fn needs_dev_eui(&self) -> bool {
        self.pieces.contains(&Piece::DevEui)
    }
}

/// The text that [`HubIdRule::parse`] read.
impl fmt::Display for HubIdRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn pieces_of(template: &str) -> Result<Vec<Piece>, InvalidHubIdRule> {
    let mut pieces = Vec::new();
    let literal = |text: &str| match text {
        "" => Ok(None),
        text if text.contains('}') => Err(InvalidHubIdRule::Brace),
        text => Ok(Some(Piece::Literal(text.to_owned()))),
    };
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(InvalidHubIdRule::Brace)?;
        pieces.extend(literal(before)?);
        pieces.push(match name {
            "device_id" => Piece::DeviceId,
            "application_id" => Piece::ApplicationId,
            "tenant" => Piece::Tenant,
            "dev_eui" => Piece::DevEui,
            unknown => return Err(InvalidHubIdRule::UnknownPlaceholder(unknown.to_owned())),
        });
        rest = after;
    }
    pieces.extend(literal(rest)?);
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(rule: &str, dev_eui: Option<&str>) -> Result<String, MissingDevEui> {
        let device = EndDevice::new("tenant.eu1", "app", "dev-1").expect("valid");
        HubIdRule::parse(rule).expect(rule).apply(&device, dev_eui)
    }

    #[test]
    fn names_an_end_device() {
        let dev_eui = Some("70b3d57ed0000001");
        assert_eq!(apply("device_id", None).as_deref(), Ok("dev-1"));
        assert_eq!(apply("dev_eui", dev_eui).as_deref(), Ok("70B3D57ED0000001"));
        assert_eq!(apply("{application_id}-{device_id}", None).as_deref(), Ok("app-dev-1"));
        assert_eq!(
            apply("x:{tenant}:{dev_eui}:y", dev_eui).as_deref(),
            Ok("x:tenant.eu1:70B3D57ED0000001:y")
        );
    }

    #[test]
    fn a_missing_dev_eui_is_said() {
        assert_eq!(apply("dev_eui", None), Err(MissingDevEui));
        for bad in ["", "70b3d57ed000001", "70b3d57ed000000g", "+0b3d57ed0000001"] {
            assert_eq!(apply("{device_id}-{dev_eui}", Some(bad)), Err(MissingDevEui), "{bad}");
        }
    }

    #[test]
    fn refuses_rules_that_can_not_work() {
        let problem = |rule: &str| HubIdRule::parse(rule).expect_err(rule);
        assert_eq!(problem("sensor"), InvalidHubIdRule::NamesNoDevice("sensor".to_owned()));
        assert_eq!(problem(""), InvalidHubIdRule::NamesNoDevice(String::new()));
        assert!(matches!(problem("{application_id}"), InvalidHubIdRule::NamesNoDevice(_)));
        assert_eq!(problem("{deveui}"), InvalidHubIdRule::UnknownPlaceholder("deveui".to_owned()));
        assert_eq!(problem("{device_id"), InvalidHubIdRule::Brace);
        assert_eq!(problem("{device_id}}"), InvalidHubIdRule::Brace);
        assert_eq!(problem(&format!("{}{{device_id}}", "x".repeat(129))), InvalidHubIdRule::TooLong);
        assert!(problem("{deveui}").to_string().contains("{deveui} is unknown"));
    }
}
