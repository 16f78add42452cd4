//! What a request's headers offer for downlinks. Believes nothing.

use warp::http::HeaderMap;

use crate::things_stack::DownlinkOffer;

const X_DOWNLINK_APIKEY: &str = "x-downlink-apikey";
const X_DOWNLINK_PUSH: &str = "x-downlink-push";
const X_DOWNLINK_REPLACE: &str = "x-downlink-replace";

/// The offer, borrowed. `None` without a key, and when one of the headers comes twice or is no text: The Things Stack
/// sends each once, and of two readers one would take the first and another the last.
pub(super) fn read(headers: &HeaderMap) -> Option<DownlinkOffer<'_>> {
    let api_key = only(headers, X_DOWNLINK_APIKEY)??;
    Some(DownlinkOffer {
        api_key,
        push: only(headers, X_DOWNLINK_PUSH)?,
        replace: only(headers, X_DOWNLINK_REPLACE)?,
    })
}

/// `Some(None)` if it is absent, `None` if it can't be trusted.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Some(None) };
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok().map(|text| Some(text.trim()))
}
