//! What gateways say about an uplink (`rx_metadata`): the best of them, and how to make it shorter. Knows no payload.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::application_up::utf8;
use super::envelope::EnvelopeError;
use super::tolerant::{Fields, Key, Object, Scalar, skip};

/// How one gateway heard an uplink.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reception<'a> {
    /// `gateway_ids.gateway_id`; `packetbroker` when it belongs to another network.
    pub gateway_id: Option<Cow<'a, str>>,
    /// Received signal strength in dBm: `rssi`, else `channel_rssi`.
    pub rssi: Option<f64>,
    /// Signal-to-noise ratio in dB. 0 is not written on the wire, so beside an RSSI an absent one is 0.
    pub snr: Option<f64>,
}

/// What to leave out of a message that is too long, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// `uplink_token` of each gateway: of use to the network server alone, and long with Packet Broker.
    UplinkTokens,
    /// All gateways but the best, and its token.
    AllButBest,
    /// All of `rx_metadata`.
    AllGateways,
}

impl Trim {
    /// The steps, in the order to try them.
    pub const STEPS: [Self; 3] = [Self::UplinkTokens, Self::AllButBest, Self::AllGateways];
}

/// The gateway with the highest SNR, then RSSI, and its place in the list. `None` if none reports a signal,
/// or `rx_metadata` is no list of objects: radio data must not fail an uplink.
pub(super) fn best(rx_metadata: &RawValue) -> Option<(usize, Reception<'_>)> {
    serde_json::from_str::<Best<'_>>(rx_metadata.get()).ok()?.0
}

/// The message `body` with less gateway metadata; all else byte for byte, apart from space between top-level parts.
///
/// # Errors
/// The body is no message of The Things Stack.
pub fn trim_gateways(body: &[u8], trim: Trim) -> Result<Vec<u8>, EnvelopeError> {
    let mut message: Entries<'_> = serde_json::from_str(utf8(body)?)?;
    message.replace("uplink_message", |uplink| {
        let Ok(mut uplink) = serde_json::from_str::<Entries<'_>>(uplink.get()) else { return Ok(None) };
        match trim {
            Trim::AllGateways => uplink.0.retain(|(key, _)| key != "rx_metadata"),
            Trim::UplinkTokens | Trim::AllButBest => uplink.replace("rx_metadata", |gateways| {
                let keep = (trim == Trim::AllButBest).then(|| best(gateways).map_or(0, |(at, _)| at));
                without_tokens(gateways, keep)
            })?,
        }
        serde_json::value::to_raw_value(&uplink).map(Some)
    })?;
    Ok(serde_json::to_vec(&message)?)
}

/// The list without tokens; of it only number `keep`, if given. `None` leaves it as it is: it is no list of objects.
fn without_tokens(gateways: &RawValue, keep: Option<usize>) -> serde_json::Result<Option<Box<RawValue>>> {
    let Ok(gateways) = serde_json::from_str::<Vec<Entries<'_>>>(gateways.get()) else { return Ok(None) };
    let kept: Vec<Entries<'_>> = gateways
        .into_iter()
        .enumerate()
        .filter(|(at, _)| keep.is_none_or(|keep| keep == *at))
        .map(|(_, mut gateway)| {
            gateway.0.retain(|(key, _)| key != "uplink_token");
            gateway
        })
        .collect();
    serde_json::value::to_raw_value(&kept).map(Some)
}

/// An object's entries in their order, values unread.
struct Entries<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl Entries<'_> {
    /// Puts a new value in each place of `key` for which `new` gives one.
    fn replace(
        &mut self,
        key: &str,
        new: impl Fn(&RawValue) -> serde_json::Result<Option<Box<RawValue>>>,
    ) -> serde_json::Result<()> {
        for (_, value) in self.0.iter_mut().filter(|(name, _)| name == key) {
            if let Some(new) = new(value)? {
                *value = Cow::Owned(new);
            }
        }
        Ok(())
    }
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for EntriesVisitor<'a> {
    type Value = Entries<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            entries.push((key, Cow::Borrowed(value)));
        }
        Ok(Entries(entries))
    }
}

struct Best<'a>(Option<(usize, Reception<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Best<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BestVisitor(PhantomData))
    }
}

struct BestVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for BestVisitor<'a> {
    type Value = Best<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of gateways")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut best: Option<(usize, Reception<'a>)> = None;
        for at in 0.. {
            let mut heard = Heard::default();
            if seq.next_element_seed(Object(&mut heard))?.is_none() {
                break;
            }
            let Some(reception) = heard.reception() else { continue };
            if best.as_ref().is_none_or(|(_, best)| reception.strength() > best.strength()) {
                best = Some((at, reception));
            }
        }
        Ok(Best(best))
    }
}

impl Reception<'_> {
    fn strength(&self) -> (f64, f64) {
        (self.snr.unwrap_or(f64::MIN), self.rssi.unwrap_or(f64::MIN))
    }
}

#[derive(Default)]
struct Heard<'a> {
    gateway: GatewayIds<'a>,
    rssi: Option<f64>,
    channel_rssi: Option<f64>,
    snr: Option<f64>,
}

impl<'a> Heard<'a> {
    fn reception(self) -> Option<Reception<'a>> {
        let rssi = self.rssi.or(self.channel_rssi);
        let snr = self.snr.or(rssi.map(|_| 0.0));
        snr.is_some().then_some(Reception { gateway_id: self.gateway.0, rssi, snr })
    }
}

impl<'de> Fields<'de> for Heard<'de> {
    const NAME: &'static str = "rx_metadata[]";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "gateway_ids" => {
                map.next_value_seed(Object(&mut self.gateway))?;
            }
            "rssi" => self.rssi = map.next_value::<Scalar<'_>>()?.measurement(),
            "channel_rssi" => self.channel_rssi = map.next_value::<Scalar<'_>>()?.measurement(),
            "snr" => self.snr = map.next_value::<Scalar<'_>>()?.measurement(),
            _ => skip(map)?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct GatewayIds<'a>(Option<Cow<'a, str>>);

impl<'de> Fields<'de> for GatewayIds<'de> {
    const NAME: &'static str = "gateway_ids";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "gateway_id" => {
                self.0 = map.next_value::<Scalar<'_>>()?.text_or_none();
                Ok(())
            }
            _ => skip(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best_of(json: &str) -> Option<(usize, String)> {
        let raw = RawValue::from_string(json.to_owned()).expect("JSON");
        best(&raw).map(|(at, r)| (at, format!("{:?} {:?} {:?}", r.gateway_id, r.rssi, r.snr)))
    }

    #[test]
    fn the_best_gateway_has_the_highest_snr_then_rssi() {
        let heard = r#"[{"gateway_ids":{"gateway_id":"near"},"rssi":-60,"snr":-2.5},
            {"gateway_ids":{"gateway_id":"quiet"},"rssi":-101,"snr":7.25},
            {"gateway_ids":{"gateway_id":"roof"},"rssi":-99,"snr":7.25}]"#;
        assert_eq!(best_of(heard), Some((2, r#"Some("roof") Some(-99.0) Some(7.25)"#.to_owned())));
    }

    #[test]
    fn an_absent_snr_is_zero_beside_an_rssi_and_no_signal_is_no_gateway() {
        let heard =
            r#"[{"snr":-3},{"channel_rssi":-80},{"gateway_ids":null},{"rssi":"NaN","snr":"Infinity"}]"#;
        assert_eq!(best_of(heard), Some((1, "None Some(-80.0) Some(0.0)".to_owned())));
        assert_eq!(best_of("[{}]"), None);
        assert_eq!(best_of("[3]"), None);
        assert_eq!(best_of("{}"), None);
    }

    #[test]
    fn trims_step_by_step_and_leaves_the_rest_as_it_was() {
        let body = br#"{"b":1.50,"uplink_message":{"rx_metadata":[{"rssi":-9,"uplink_token":"dG9r","snr":1},
            {"rssi":-8e0,"snr":2,"uplink_token":"dG9r"}],"f_port":1},"a":"\u00e9"}"#;
        let steps = Trim::STEPS
            .map(|trim| String::from_utf8(trim_gateways(body, trim).expect("valid")).expect("UTF-8"));
        assert_eq!(
            steps,
            [
                r#"{"b":1.50,"uplink_message":{"rx_metadata":[{"rssi":-9,"snr":1},{"rssi":-8e0,"snr":2}],"f_port":1},"a":"\u00e9"}"#,
                r#"{"b":1.50,"uplink_message":{"rx_metadata":[{"rssi":-8e0,"snr":2}],"f_port":1},"a":"\u00e9"}"#,
                r#"{"b":1.50,"uplink_message":{"f_port":1},"a":"\u00e9"}"#,
            ]
        );
    }

    #[test]
    fn what_is_no_list_of_gateways_stays_until_the_last_step() {
        for odd in ["null", "[1]", "{}", "\"x\""] {
            let body = format!(r#"{{"uplink_message":{{"rx_metadata":{odd}}}}}"#);
            assert_eq!(trim_gateways(body.as_bytes(), Trim::AllButBest).expect("valid"), body.as_bytes());
            let bare = trim_gateways(body.as_bytes(), Trim::AllGateways).expect("valid");
            assert_eq!(bare, br#"{"uplink_message":{}}"#);
        }
    }
}
