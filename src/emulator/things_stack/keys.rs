//! API keys and what each may do. Knows no HTTP.

use std::collections::HashMap;

use super::refusal::{Code, RIGHTS, Refusal};

/// Keys at most; tests make a handful.
const MAX_KEYS: usize = 1_000;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Read the downlink queue.
    TrafficRead,
    /// Push and replace downlinks.
    DownWrite,
    /// Simulate uplinks.
    UpWrite,
    /// Read the device at the Network Server.
    DevicesRead,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::TrafficRead, Self::DownWrite, Self::UpWrite, Self::DevicesRead];

    fn as_str(self) -> &'static str {
        match self {
            Self::TrafficRead => "RIGHT_APPLICATION_TRAFFIC_READ",
            Self::DownWrite => "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE",
            Self::UpWrite => "RIGHT_APPLICATION_TRAFFIC_UP_WRITE",
            Self::DevicesRead => "RIGHT_APPLICATION_DEVICES_READ",
        }
    }
}

/// All keys. Each is for every application.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<String, Vec<Right>>);

impl Keys {
    /// Adds a key; beyond the limit it is not kept, and worth nothing.
    pub(super) fn add(&mut self, key: String, rights: Vec<Right>) {
        if self.0.len() < MAX_KEYS {
            self.0.insert(key, rights);
        }
    }

    /// Checks the value of an `Authorization` header.
    pub(super) fn check(&self, authorization: Option<&str>, needed: &[Right]) -> Result<(), Refusal> {
        let bearer = authorization.and_then(|value| {
            let (scheme, key) = value.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        let Some(key) = bearer else {
            return Err(Refusal::new(Code::Unauthenticated, (RIGHTS, "unauthenticated"), "unauthenticated"));
        };
        let Some(rights) = self.0.get(key) else {
            let message = "no rights for application";
            return Err(Refusal::new(Code::PermissionDenied, (RIGHTS, "no_application_rights"), message));
        };
        let missing: Vec<_> =
            needed.iter().filter(|right| !rights.contains(right)).map(|right| right.as_str()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let name = (RIGHTS, "insufficient_application_rights");
        let refusal = Refusal::new(Code::PermissionDenied, name, "insufficient rights for application");
        Err(refusal.with("missing", missing.join(",")))
    }
}

/// A new key: `NNSXS.` with an id of 39 and a secret of 52 letters and digits.
pub(super) fn random() -> String {
    let text = |count: usize| {
        (0..count).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())])).collect::<String>()
    };
    format!("NNSXS.{}.{}", text(39), text(52))
}
