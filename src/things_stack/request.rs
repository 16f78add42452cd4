//! What requests to The Things Stack's API hold: the body that queues downlinks, the query for stored uplinks. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};

use super::downlink::{ClassBC, Downlink, GatewayAntenna, Payload};
use super::storage::StoredQuery;

/// `{"downlinks":[…]}`; none empties the queue when it replaces.
pub(super) fn downlinks(downlinks: &[&Downlink]) -> String {
    let body = Body { downlinks: downlinks.iter().map(|downlink| Item::of(downlink)).collect() };
    serde_json::to_string(&body).expect("texts, numbers and maps with text keys are JSON")
}

/// The address of a page of stored uplinks, oldest first.
pub(super) fn stored(path: &str, query: &StoredQuery<'_>) -> String {
    let StoredQuery { after, limit, .. } = query;
    // Digits, letters, `-`, `:` and `.` only, so nothing needs encoding.
    format!("{path}?order=received_at&limit={limit}&after={after:.9}")
}

#[derive(Serialize)]
struct Body<'a> {
    downlinks: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    f_port: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    frm_payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoded_payload: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "is_false")]
    confirmed: bool,
    /// Always written: an absent one is `LOWEST`.
    priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class_b_c: Option<BroadcastTo<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    correlation_ids: &'a [String],
}

#[derive(Serialize)]
struct BroadcastTo<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gateways: Vec<Gateway<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absolute_time: Option<&'a str>,
}

#[derive(Serialize)]
struct Gateway<'a> {
    gateway_ids: GatewayIds<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    antenna_index: u32,
    #[serde(skip_serializing_if = "is_zero")]
    group_index: u32,
}

#[derive(Serialize)]
struct GatewayIds<'a> {
    gateway_id: &'a str,
}

impl<'a> Item<'a> {
    fn of(downlink: &'a Downlink) -> Self {
        let (frm_payload, decoded_payload) = match &downlink.payload {
            Payload::Raw(bytes) => (Some(STANDARD.encode(bytes)), None),
            Payload::Decoded(fields) => (None, Some(fields)),
        };
        Self {
            f_port: downlink.f_port,
            frm_payload,
            decoded_payload,
            confirmed: downlink.confirmed,
            priority: downlink.priority.as_str(),
            class_b_c: downlink.class_b_c.as_ref().map(BroadcastTo::of),
            correlation_ids: &downlink.correlation_ids,
        }
    }
}

impl<'a> BroadcastTo<'a> {
    fn of(class_b_c: &'a ClassBC) -> Self {
        Self {
            gateways: class_b_c.gateways.iter().map(Gateway::of).collect(),
            absolute_time: class_b_c.absolute_time.as_deref(),
        }
    }
}

impl<'a> Gateway<'a> {
    fn of(antenna: &'a GatewayAntenna) -> Self {
        Self {
            gateway_ids: GatewayIds { gateway_id: &antenna.gateway_id },
            antenna_index: antenna.antenna_index,
            group_index: antenna.group_index,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
