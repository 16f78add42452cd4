//! The section `[backfill]` as plain values. `config.example.toml` explains it to operators.

use std::time::Duration;

/// `[backfill]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// Fetched uplinks a second that go to the hubs, of all applications together.
    pub rate: u32,
    /// Uplinks older than this are not fetched; so long it is remembered what was received.
    pub window: Duration,
    /// Time after a gap, or a start, before anything is fetched.
    pub delay: Duration,
}

impl Default for Backfill {
    fn default() -> Self {
        Self {
            rate: 20,
            // The Things Stack Sandbox keeps no more.
            window: Duration::from_secs(24 * 3600),
            delay: Duration::from_secs(120),
        }
    }
}
