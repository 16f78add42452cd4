//! One entry as it lies on disk: a small JSON object under the entry's id.
//!
//! Knows no store. A row that can't be read is kept: a newer version may have written it.

use serde::{Deserialize, Serialize};

use super::super::{End, EntryId, NewEntry, Source};
use super::book::Entry;
use super::stage::Stage;
use crate::model::EndDevice;
use crate::things_stack::Operation;

/// Of [`Row`]; only a change that an older version would misread raises it.
const VERSION: u32 = 1;

/// An entry's JSON. A put-back entry is `pushing` here: a restart looks once more.
#[derive(Serialize, Deserialize)]
struct Row {
    v: u32,
    device: String,
    source: String,
    correlation: String,
    f_port: u8,
    confirmed: bool,
    replace: bool,
    /// Counts entries, so that a replace ends only older ones.
    order: u64,
    begun_ms: i64,
    stage: String,
    /// Of `failed` and `rejected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// An entry read back.
pub(super) struct Kept {
    pub(super) new: NewEntry,
    pub(super) stage: Stage,
    pub(super) order: u64,
    pub(super) begun_ms: i64,
}

pub(super) fn write(entry: &Entry) -> Vec<u8> {
    let (stage, reason) = match &entry.stage {
        Stage::PutBack | Stage::Pushing => ("pushing", None),
        Stage::Queued => ("queued", None),
        Stage::Sent => ("sent", None),
        Stage::Ended(End::Acknowledged) => ("ended:ack", None),
        Stage::Ended(End::Sent) => ("ended:sent", None),
        Stage::Ended(End::Failed(reason)) => ("ended:failed", Some(reason.clone())),
        Stage::Ended(End::Rejected(reason)) => ("ended:rejected", Some(reason.clone())),
        Stage::Ended(End::Expired) => ("ended:expired", None),
        Stage::Ended(End::Replaced) => ("ended:replaced", None),
    };
    let row = Row {
        v: VERSION,
        device: entry.device.key().to_owned(),
        source: entry.source.as_str().to_owned(),
        correlation: entry.correlation.to_string(),
        f_port: entry.f_port,
        confirmed: entry.confirmed,
        replace: entry.operation == Operation::Replace,
        order: entry.order,
        begun_ms: entry.begun_ms,
        stage: stage.to_owned(),
        reason,
    };
    serde_json::to_vec(&row).expect("a struct of texts and numbers is always JSON")
}

/// Reads back [`write`]. `None` if this version can't.
pub(super) fn read(id: EntryId, json: &[u8]) -> Option<Kept> {
    let row: Row = serde_json::from_slice(json).ok().filter(|row: &Row| row.v == VERSION)?;
    let reason = || row.reason.clone().unwrap_or_default();
    let stage = match row.stage.as_str() {
        "pushing" => Stage::Pushing,
        "queued" => Stage::Queued,
        "sent" => Stage::Sent,
        "ended:ack" => Stage::Ended(End::Acknowledged),
        "ended:sent" => Stage::Ended(End::Sent),
        "ended:failed" => Stage::Ended(End::Failed(reason())),
        "ended:rejected" => Stage::Ended(End::Rejected(reason())),
        "ended:expired" => Stage::Ended(End::Expired),
        "ended:replaced" => Stage::Ended(End::Replaced),
        _ => return None,
    };
    let new = NewEntry {
        id,
        device: EndDevice::from_key(&row.device)?,
        source: Source::parse(&row.source)?,
        correlation: row.correlation,
        f_port: row.f_port,
        confirmed: row.confirmed,
        operation: if row.replace { Operation::Replace } else { Operation::Push },
    };
    Some(Kept { new, stage, order: row.order, begun_ms: row.begun_ms })
}
