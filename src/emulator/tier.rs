//! What a hub of each price tier can do. Pure data.

/// The tier of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// Everything.
    #[default]
    Standard,
    /// Telemetry and registry only: no cloud-to-device messages, no direct methods, no twins.
    Basic,
}
