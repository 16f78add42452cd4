//! What a hub of each price tier can do, and how much of it. Pure data.
//!
//! The figures are Azure's, as its pages on quotas, throttling and prices give them.

use std::time::Duration;

/// The tier of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// Everything, without limits.
    #[default]
    Standard,
    /// Telemetry and registry only: no cloud-to-device messages, no direct methods, no twins. Without limits.
    Basic,
    /// The free one: as S1, but 8,000 messages a day, counted by 0.5 KB.
    F1,
    /// Basic, the smallest.
    B1,
    /// Basic, the middle one.
    B2,
    /// Basic, the largest.
    B3,
    /// Standard, the smallest.
    S1,
    /// Standard, the middle one.
    S2,
    /// Standard, the largest.
    S3,
}

/// What a hub counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// A telemetry message.
    Telemetry,
    /// A device that was on no link of the connection gets its first.
    Connect,
    /// A cloud-to-device message that a service sends.
    CloudMessage,
    /// Direct methods, by blocks of [`METHOD_BLOCK`].
    Method,
    TwinRead,
    TwinUpdate,
    /// One call of the registry.
    Registry,
    Query,
}

/// Methods are limited by bytes a second; this is the unit of our count.
pub(super) const METHOD_BLOCK: usize = 4 * 1024;

/// Tiers differ by size alone where limits are concerned.
#[derive(Clone, Copy)]
enum Size {
    Small,
    Middle,
    Large,
}

impl Tier {
    /// All of them.
    pub const ALL: [Self; 9] =
        [Self::Standard, Self::Basic, Self::F1, Self::B1, Self::B2, Self::B3, Self::S1, Self::S2, Self::S3];

    /// Its name on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Basic => "basic",
            Self::F1 => "f1",
            Self::B1 => "b1",
            Self::B2 => "b2",
            Self::B3 => "b3",
            Self::S1 => "s1",
            Self::S2 => "s2",
            Self::S3 => "s3",
        }
    }

    /// Reads back [`Tier::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == text)
    }

    /// Whether it has no cloud-to-device messages, direct methods and twins.
    pub const fn is_basic(self) -> bool {
        match self {
            Self::Basic | Self::B1 | Self::B2 | Self::B3 => true,
            Self::Standard | Self::F1 | Self::S1 | Self::S2 | Self::S3 => false,
        }
    }

    const fn size(self) -> Option<Size> {
        match self {
            Self::Standard | Self::Basic => None,
            Self::F1 | Self::B1 | Self::S1 => Some(Size::Small),
            Self::B2 | Self::S2 => Some(Size::Middle),
            Self::B3 | Self::S3 => Some(Size::Large),
        }
    }

    /// How many of these a hub of so many units takes a second. `None`: without limit.
    pub(super) fn per_second(self, operation: Operation, units: u32) -> Option<f64> {
        let size = self.size()?;
        let units = f64::from(self.units(units));
        let minute = |small: f64, large: f64| match size {
            Size::Small | Size::Middle => small / 60.0 * units,
            Size::Large => large / 60.0 * units,
        };
        Some(match operation {
            Operation::Telemetry | Operation::Connect => match size {
                Size::Small => (12.0 * units).max(100.0),
                Size::Middle => 120.0 * units,
                Size::Large => 6000.0 * units,
            },
            Operation::CloudMessage | Operation::Registry => minute(100.0, 5000.0),
            Operation::Query => minute(20.0, 1000.0),
            // 160 KB, 480 KB and 24 MB a second.
            Operation::Method => match size {
                Size::Small => 40.0 * units,
                Size::Middle => 120.0 * units,
                Size::Large => 6144.0 * units,
            },
            Operation::TwinRead => match size {
                Size::Small => 100.0,
                Size::Middle => (10.0 * units).max(100.0),
                Size::Large => 500.0 * units,
            },
            Operation::TwinUpdate => match size {
                Size::Small => 50.0,
                Size::Middle => (5.0 * units).max(50.0),
                Size::Large => 250.0 * units,
            },
        })
    }

    /// Messages a day of a hub of so many units. `None`: without limit.
    pub(super) fn per_day(self, units: u32) -> Option<u64> {
        let units = u64::from(self.units(units));
        Some(match (self, self.size()?) {
            (Self::F1, _) => 8_000,
            (_, Size::Small) => 400_000 * units,
            (_, Size::Middle) => 6_000_000 * units,
            (_, Size::Large) => 300_000_000 * units,
        })
    }

    /// A message of more bytes than this counts as several.
    pub(super) const fn meter_bytes(self) -> usize {
        match self {
            Self::F1 => 512,
            Self::Standard
            | Self::Basic
            | Self::B1
            | Self::B2
            | Self::B3
            | Self::S1
            | Self::S2
            | Self::S3 => 4096,
        }
    }

    /// The free tier has one unit, whatever is asked for.
    fn units(self, units: u32) -> u32 {
        if self == Self::F1 { 1 } else { units.max(1) }
    }
}

/// A hub's tier, and how it treats those who want more than it gives.
#[derive(Clone, Debug, PartialEq)]
pub struct TierSettings {
    /// The tier.
    pub tier: Tier,
    /// Units bought, from 1. The free tier always has one.
    pub units: u32,
    /// All rates are so many times the real ones: a clock that runs faster, or slower below 1.
    pub speed: f64,
    /// Bursts pass that take no more than is allowed in this time.
    pub burst: Duration,
    /// Beyond a burst, requests are delayed by this at most; then they are refused. Connects are never delayed.
    pub max_delay: Duration,
    /// Messages a day instead of the tier's.
    pub daily_messages: Option<u64>,
    /// A device loses its telemetry link after so many throttled messages in a row. `None`: never.
    pub cut_after: Option<u32>,
}

impl TierSettings {
    /// Azure's figures, bursts of three seconds' worth, a second of delay, nobody cut off.
    pub const fn new(tier: Tier, units: u32) -> Self {
        Self {
            tier,
            units,
            speed: 1.0,
            burst: Duration::from_secs(3),
            max_delay: Duration::from_secs(1),
            daily_messages: None,
            cut_after: None,
        }
    }
}

impl Default for TierSettings {
    fn default() -> Self {
        Self::new(Tier::default(), 1)
    }
}
