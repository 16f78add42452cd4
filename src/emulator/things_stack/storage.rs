//! The Storage Integration: keeps the latest uplinks of each application, whether the webhook got them or not.
//!
//! Knows no HTTP. In memory only, as the webhook's log.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::name::DeviceName;
use super::refusal::{Code, EMULATOR, Refusal};

/// Uplinks kept of one application if nothing else is said.
const KEPT: usize = 10_000;
/// Most that can be asked for.
const MAX_KEPT: usize = 1_000_000;
/// Applications at most; of a further one nothing is kept.
const MAX_APPLICATIONS: usize = 1_000;
/// Bytes of all that is kept; beyond it an application's oldest make room for its newest.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// How much is kept, for all applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Whether applications have the integration; without it the API answers 404.
    pub enabled: bool,
    /// The latest uplinks of each application.
    pub keep: usize,
}

impl Default for Storage {
    fn default() -> Self {
        Self { enabled: true, keep: KEPT }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) after: Option<Timestamp>,
    pub(super) before: Option<Timestamp>,
    pub(super) limit: Option<usize>,
    pub(super) newest_first: bool,
}

#[derive(Debug)]
struct Kept {
    device_id: String,
    received_at: Timestamp,
    /// The message as JSON.
    row: String,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    settings: Storage,
    applications: HashMap<String, VecDeque<Kept>>,
    bytes: usize,
}

impl Shelves {
    /// Changes how much is kept, at once.
    pub(super) fn set(&mut self, settings: Storage) -> Result<(), Refusal> {
        if settings.keep > MAX_KEPT {
            let message = format!("at most {MAX_KEPT} uplinks of an application can be kept");
            return Err(Refusal::invalid((EMULATOR, "invalid_storage"), message));
        }
        self.settings = settings;
        for shelf in self.applications.values_mut() {
            while shelf.len() > settings.keep {
                drop_oldest(shelf, &mut self.bytes);
            }
        }
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.applications.clear();
        self.bytes = 0;
    }

    /// Keeps an uplink.
    pub(super) fn keep(&mut self, device: &DeviceName, message: &Value) {
        let room = self.applications.len() < MAX_APPLICATIONS;
        if !self.settings.enabled || !(room || self.applications.contains_key(&device.application_id)) {
            return;
        }
        let received_at = message["received_at"].as_str().and_then(|text| text.parse().ok());
        let Some(received_at) = received_at else { return };
        let kept = Kept { device_id: device.device_id.clone(), received_at, row: message.to_string() };
        let shelf = self.applications.entry(device.application_id.clone()).or_default();
        self.bytes += kept.row.len();
        shelf.push_back(kept);
        while shelf.len() > self.settings.keep || (self.bytes > MAX_BYTES && !shelf.is_empty()) {
            drop_oldest(shelf, &mut self.bytes);
        }
    }

    /// The rows as the API streams them: one JSON object a line, an empty line behind each.
    pub(super) fn rows(
        &self,
        application_id: &str,
        device_id: Option<&str>,
        query: &Query,
    ) -> Result<String, Refusal> {
        if !self.settings.enabled {
            let name = ("pkg/applicationserver/io/packages", "association_not_found");
            return Err(Refusal::new(Code::NotFound, name, "the storage integration is not enabled"));
        }
        let Some(shelf) = self.applications.get(application_id) else { return Ok(String::new()) };
        let wanted = |kept: &&Kept| {
            device_id.is_none_or(|id| id == kept.device_id)
                && query.after.is_none_or(|after| kept.received_at > after)
                && query.before.is_none_or(|before| kept.received_at < before)
        };
        let limit = query.limit.unwrap_or(usize::MAX);
        let mut text = String::new();
        let mut add = |kept: &Kept| {
            text.push_str("{\"result\":");
            text.push_str(&kept.row);
            text.push_str("}\n\n");
        };
        if query.newest_first {
            shelf.iter().rev().filter(wanted).take(limit).for_each(&mut add);
        } else {
            shelf.iter().filter(wanted).take(limit).for_each(&mut add);
        }
        Ok(text)
    }
}

fn drop_oldest(shelf: &mut VecDeque<Kept>, bytes: &mut usize) {
    if let Some(oldest) = shelf.pop_front() {
        *bytes -= oldest.row.len();
    }
}

impl Query {
    /// Reads `after`, `before`, `limit` and `order`; what else there may be is ignored.
    ///
    /// # Errors
    /// 400, naming the parameter.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut parsed = Self { after: None, before: None, limit: None, newest_first: false };
        let invalid = |name: &str| {
            let message = format!("the parameter `{name}` can't be read");
            Refusal::invalid(("pkg/applicationserver/io/packages/storage", "invalid_query"), message)
        };
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "after" => parsed.after = Some(value.parse().map_err(|_| invalid(&name))?),
                "before" => parsed.before = Some(value.parse().map_err(|_| invalid(&name))?),
                "limit" => parsed.limit = Some(value.parse().map_err(|_| invalid(&name))?),
                "order" => match &*value {
                    "received_at" => parsed.newest_first = false,
                    "-received_at" => parsed.newest_first = true,
                    _ => return Err(invalid(&name)),
                },
                _ => {}
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shelves(keep: usize) -> Shelves {
        let mut shelves = Shelves::default();
        shelves.set(Storage { enabled: true, keep }).expect("sound");
        for second in 0..5 {
            let id = if second % 2 == 0 { "even-1" } else { "odd-1" };
            let name = DeviceName::new("greenhouse", id).expect("valid");
            shelves
                .keep(&name, &json!({ "received_at": format!("2026-01-01T00:00:0{second}Z"), "n": second }));
        }
        shelves
    }

    fn numbers(shelves: &Shelves, device: Option<&str>, query: &str) -> Vec<i64> {
        let query = Query::parse(Some(query)).expect("sound");
        let text = shelves.rows("greenhouse", device, &query).expect("enabled");
        let rows = text.lines().filter(|line| !line.is_empty());
        let number = |row: &str| serde_json::from_str::<Value>(row).expect("JSON")["result"]["n"].as_i64();
        rows.map(|row| number(row).expect("a number")).collect()
    }

    #[test]
    fn rows_are_those_kept_of_application_and_device_in_the_order_asked_for() {
        let shelves = shelves(4);
        assert_eq!(numbers(&shelves, None, ""), [1, 2, 3, 4], "the oldest made room");
        assert_eq!(numbers(&shelves, None, "after=2026-01-01T00:00:02Z&limit=1"), [3]);
        assert_eq!(numbers(&shelves, None, "order=-received_at&before=2026-01-01T00:00:03Z"), [2, 1]);
        assert_eq!(numbers(&shelves, Some("odd-1"), "order=received_at"), [1, 3]);
        assert_eq!(shelves.rows("other", None, &Query::parse(None).expect("sound")).expect("enabled"), "");
        for wrong in ["after=yesterday", "limit=x", "order=f_cnt"] {
            assert_eq!(Query::parse(Some(wrong)).expect_err(wrong).status(), 400);
        }
    }

    #[test]
    fn an_application_without_the_integration_is_answered_404() {
        let mut shelves = shelves(4);
        shelves.set(Storage { enabled: false, keep: 2 }).expect("sound");
        let refusal =
            shelves.rows("greenhouse", None, &Query::parse(None).expect("sound")).expect_err("none");
        assert_eq!(refusal.status(), 404);
        shelves.set(Storage { enabled: true, keep: 2 }).expect("sound");
        assert_eq!(numbers(&shelves, None, ""), [3, 4]);
        assert!(shelves.set(Storage { enabled: true, keep: MAX_KEPT + 1 }).is_err());
        shelves.clear();
        assert_eq!(numbers(&shelves, None, ""), Vec::<i64>::new());
    }
}
