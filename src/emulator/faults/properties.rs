//! A fault that a device asks for by the application properties of a telemetry message, as Microsoft's SDK tests do.

use std::time::Duration;

use super::fault::Fault;
use super::kind::FaultKind;

const TYPE: &str = "AzIoTHub_FaultOperationType";
const REASON: &str = "AzIoTHub_FaultOperationCloseReason";
const DELAY: &str = "AzIoTHub_FaultOperationDelayInSecs";
const DURATION: &str = "AzIoTHub_FaultOperationDurationInSecs";
/// Asked for by SDKs over MQTT; there is no MQTT here.
const OF_MQTT: &str = "ShutDownMqtt";

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Asked {
    /// A fault of the device that sent it.
    Fault(Fault),
    /// One that has no meaning over AMQP.
    NotHere,
}

/// The fault that application properties ask for; `None` if they ask for none.
///
/// # Errors
/// What is wrong with them, for the peer.
pub(in super::super) fn asked(
    properties: &[(String, String)],
    device: &str,
) -> Result<Option<Asked>, String> {
    let text = |name: &str| {
        let found = properties.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    };
    let Some(kind) = text(TYPE) else { return Ok(None) };
    if kind.eq_ignore_ascii_case(OF_MQTT) {
        return Ok(Some(Asked::NotHere));
    }
    let kind = kind.parse().ok().filter(|kind| FaultKind::OF_SDKS.contains(kind));
    let kind = kind.ok_or_else(|| format!("{TYPE}: there is no such fault"))?;
    let seconds = |name: &str| match text(name) {
        None | Some("") => Ok(Duration::ZERO),
        Some(number) => number
            .parse::<f64>()
            .ok()
            .and_then(|number| Duration::try_from_secs_f64(number).ok())
            .ok_or_else(|| format!("{name} must be a number of seconds")),
    };
    Ok(Some(Asked::Fault(Fault {
        kind,
        device: Some(device.to_owned()),
        delay: seconds(DELAY)?,
        duration: seconds(DURATION)?,
        reason: text(REASON).unwrap_or_default().to_owned(),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&str, &str)]) -> Result<Option<Asked>, String> {
        let properties: Vec<_> =
            properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        asked(&properties, "a")
    }

    #[test]
    fn the_properties_of_microsofts_tests_are_understood() {
        let fault = Fault::new(FaultKind::KillAmqpD2cLink)
            .of("a")
            .after(Duration::from_secs(2))
            .lasting(Duration::from_secs(5))
            .because("boom");
        let asked =
            of(&[("port", "1"), (TYPE, "KillAmqpD2CLink"), (REASON, "boom"), (DELAY, "2"), (DURATION, "5")]);
        assert_eq!(asked, Ok(Some(Asked::Fault(fault))));
        assert_eq!(of(&[(TYPE, "killtcp")]), Ok(Some(Asked::Fault(Fault::new(FaultKind::KillTcp).of("a")))));
        assert_eq!(of(&[(TYPE, "ShutDownMqtt")]), Ok(Some(Asked::NotHere)));
        assert_eq!(of(&[("other", "1"), (DELAY, "x")]), Ok(None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &[(TYPE, "Kill")][..],
            &[(TYPE, "HubDown")],
            &[(TYPE, "KillTcp"), (DELAY, "-1")],
            &[(TYPE, "KillTcp"), (DURATION, "NaN")],
            &[(TYPE, "KillTcp"), (DURATION, "soon")],
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
