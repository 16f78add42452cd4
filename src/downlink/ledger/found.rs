//! What the report of an event takes from its entry, and what it says beside the state. Pure.

use super::book::Entry;
use super::row::Kept;
use super::stage::cut;
use crate::downlink::{NewEntry, Source};
use crate::things_stack::{DownlinkEvent, DownlinkState, NamedDownlink, NamedPayload};

/// What The Things Stack itself says nothing about, and the sender did not mean.
const UNENCODED: &str = "the payload is empty: no downlink formatter made bytes of the JSON; give the end device one at \
    The Things Stack, or send bytes";

/// What a report needs of an entry.
pub(super) struct Found {
    pub(super) source: Source,
    pub(super) correlation: String,
    pub(super) f_port: u8,
    pub(super) confirmed: bool,
}

impl From<&Entry> for Found {
    fn from(entry: &Entry) -> Self {
        let Entry { source, f_port, confirmed, .. } = *entry;
        Self { source, correlation: entry.correlation.to_string(), f_port, confirmed }
    }
}

impl From<Kept> for Found {
    fn from(kept: Kept) -> Self {
        let NewEntry { source, correlation, f_port, confirmed, .. } = kept.new;
        Self { source, correlation, f_port, confirmed }
    }
}

/// What is to be said beside the state.
pub(super) fn reason(event: &DownlinkEvent, named: &NamedDownlink) -> Option<String> {
    if event.state == DownlinkState::Queued && named.payload == NamedPayload::Decoded {
        return Some(UNENCODED.to_owned());
    }
    event.error.as_deref().map(|error| cut(error).to_owned())
}
