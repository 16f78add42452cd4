//! A data uplink (`uplink_message`) with what telemetry is made of, borrowed from its body. Decides nothing about Azure.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::de::MapAccess;
use serde_json::value::RawValue;

use super::application_up::{self, Details};
use super::envelope::{Envelope, EnvelopeError};
use super::gateways::{self, Reception};
use super::tolerant::{Scalar, skip};

/// 2015-01-01, when LoRaWAN 1.0 came out: no network server received anything before it. In milliseconds since 1970.
pub(super) const FIRST_LORAWAN_MS: i64 = 1_420_070_400_000;
/// A network server's clock may be ahead of ours by this much, and no more, to be believed.
const MAX_AHEAD_MS: i64 = 24 * 3600 * 1000;

/// An uplink, read in one pass. `envelope.kind` says whether it is one at all.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Uplink<'a> {
    /// Kind, device and frame.
    pub envelope: Envelope<'a>,
    /// `uplink_message.frm_payload`, base64 as received; absent when the payload is empty.
    pub frm_payload: Option<Cow<'a, str>>,
    /// `uplink_message.decoded_payload`, byte for byte; absent without a formatter, or when it failed.
    pub decoded_payload: Option<&'a RawValue>,
    application_server_time: Option<Cow<'a, str>>,
    rx_metadata: Option<&'a RawValue>,
}

impl<'a> Uplink<'a> {
    /// Reads an uplink. Other kinds read well too and have nothing in them.
    ///
    /// # Errors
    /// As [`Envelope::parse`], and `frm_payload` of a wrong type.
    pub fn parse(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (envelope, more) = application_up::read::<More<'a>>(body)?;
        Ok(Self {
            envelope,
            frm_payload: more.frm_payload,
            decoded_payload: more.decoded_payload,
            application_server_time: more.application_server_time,
            rx_metadata: more.rx_metadata,
        })
    }

    /// When the network server received it, else when the application server did, else `our_receipt_ms`.
    ///
    /// Milliseconds since 1970 UTC, cut off, not rounded, so that no time lies later than it was. A time is passed
    /// over if it can't be read, lies before LoRaWAN (0001-01-01 is The Things Stack's zero, seen in simulated
    /// uplinks) or more than a day after our receipt; there is no such bound to the past, because a message may be
    /// replayed from an archive.
    pub fn received_ms(&self, our_receipt_ms: i64) -> i64 {
        // A machine that lost its own time must not overrule the network's.
        let latest = if our_receipt_ms >= FIRST_LORAWAN_MS {
            our_receipt_ms.saturating_add(MAX_AHEAD_MS)
        } else {
            i64::MAX
        };
        [&self.envelope.received_at, &self.application_server_time]
            .into_iter()
            .flatten()
            .filter_map(|text| text.parse::<Timestamp>().ok())
            .map(Timestamp::as_millisecond)
            .find(|ms| (FIRST_LORAWAN_MS..=latest).contains(ms))
            .unwrap_or(our_receipt_ms)
    }

    /// The gateway that heard it best: highest SNR, then highest RSSI, then the first.
    ///
    /// SNR comes first because it is what decides over a LoRa frame, and by what The Things Stack's own network
    /// server chooses the gateway for a downlink; RSSI says little once noise is part of it.
    /// `None` when no gateway reports a signal.
    pub fn best_gateway(&self) -> Option<Reception<'a>> {
        gateways::best(self.rx_metadata?).map(|(_, reception)| reception)
    }
}

#[derive(Default)]
struct More<'a> {
    frm_payload: Option<Cow<'a, str>>,
    decoded_payload: Option<&'a RawValue>,
    application_server_time: Option<Cow<'a, str>>,
    rx_metadata: Option<&'a RawValue>,
}

impl<'de> Details<'de> for More<'de> {
    fn top_level<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "received_at" => self.application_server_time = map.next_value::<Scalar<'_>>()?.text_or_none(),
            _ => skip(map)?,
        }
        Ok(())
    }

    fn uplink<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "frm_payload" => {
                self.frm_payload = map.next_value::<Scalar<'_>>()?.text("uplink_message.frm_payload")?;
            }
            "decoded_payload" => self.decoded_payload = map.next_value()?,
            "rx_metadata" => self.rx_metadata = map.next_value()?,
            _ => skip(map)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-01T12:00:00Z.
    const NOW_MS: i64 = 1_772_366_400_000;

    fn received(network_server: &str, application_server: &str, our_receipt_ms: i64) -> i64 {
        let body = format!(
            r#"{{"received_at":{application_server},"uplink_message":{{"received_at":{network_server}}}}}"#
        );
        Uplink::parse(body.as_bytes()).expect("valid").received_ms(our_receipt_ms)
    }

    #[test]
    fn the_network_servers_time_comes_first_and_is_cut_to_milliseconds() {
        for (text, ms_after) in [
            (r#""2026-03-01T11:59:59Z""#, -1000),
            (r#""2026-03-01T11:59:59.5Z""#, -500),
            (r#""2026-03-01T11:59:59.001999Z""#, -999),
            (r#""2026-03-01T11:59:59.999999999Z""#, -1),
            (r#""2026-03-01T13:59:59.25+02:00""#, -750),
            (r#""2026-03-02T12:00:00Z""#, MAX_AHEAD_MS),
        ] {
            assert_eq!(received(text, r#""2026-03-01T11:00:00Z""#, NOW_MS), NOW_MS + ms_after, "{text}");
        }
    }

    #[test]
    fn a_time_that_can_not_be_is_passed_over() {
        for text in [
            "null",
            r#""""#,
            r#""0001-01-01T00:00:00Z""#,
            r#""1970-01-01T00:00:00Z""#,
            r#""2026-03-02T12:00:00.001Z""#,
            r#""yesterday""#,
            r#""2026-02-30T00:00:00Z""#,
            "1772366400",
            r#"{"seconds":1}"#,
        ] {
            assert_eq!(received(text, r#""2026-03-01T11:00:00Z""#, NOW_MS), NOW_MS - 3_600_000, "{text}");
            assert_eq!(received(text, text, NOW_MS), NOW_MS, "{text}");
        }
    }

    #[test]
    fn a_machine_without_a_clock_believes_the_network() {
        assert_eq!(received(r#""2026-03-01T12:00:00Z""#, "null", 5000), NOW_MS);
        assert_eq!(received("null", "null", 5000), 5000);
    }
}
