//! Fuzz targets: rows of the directory on disk, the rule for hub ids, and what DPS answers.

use super::hub_id_rule::HubIdRule;
use super::store::Record;
use super::{Endpoint, dps};
use crate::model::EndDevice;

/// See there.
pub(crate) fn dps_answer(data: &[u8]) {
    dps::fuzzing::answer(data);
}

/// A row says the same when written again.
pub(crate) fn row(json: &[u8]) {
    if let Some(record) = Record::from_json(json) {
        _ = record.owner();
        assert_eq!(Record::from_json(&record.to_json()), Some(record));
    }
}

/// What the configuration says of ids and endpoints.
pub(crate) fn settings(text: &str) {
    if let Ok(rule) = HubIdRule::parse(text) {
        assert_eq!(HubIdRule::parse(&rule.to_string()).as_ref(), Ok(&rule));
        let one = EndDevice::new("t", "application", "one").expect("good ids");
        let two = EndDevice::new("t", "application", "two").expect("good ids");
        let id = |device, eui| rule.apply(device, Some(eui)).expect("it has a DevEUI");
        assert_ne!(id(&one, "0000000000000001"), id(&two, "0000000000000002"), "two devices, one id");
    }
    if let Ok(endpoint) = Endpoint::parse(text) {
        assert_eq!(Endpoint::parse(endpoint.authority()), Ok(endpoint));
    }
}
