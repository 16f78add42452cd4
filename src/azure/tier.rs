//! What a hub of each price tier allows, as far as a connector has to keep to it. Pure data.
//!
//! The figures are those of Azure's pages on quotas, throttling and prices.

/// The tier of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The free one.
    F1,
    /// Basic: telemetry only. The smallest.
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

/// What a hub allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Telemetry messages a second.
    pub sends: u32,
    /// Devices that connect a second.
    pub connects: u32,
    /// Twin updates a second, of devices and services together. None in the basic tiers.
    pub twin_updates: Option<u32>,
    /// Messages a day; all of them, to and from devices, twin reads and updates too.
    pub daily_messages: u64,
    /// A message counts as one for each of so many bytes begun.
    pub meter_bytes: u32,
}

impl Tier {
    /// All of them with the names used in the configuration.
    pub const ALL: [(&'static str, Self); 7] = [
        ("f1", Self::F1),
        ("b1", Self::B1),
        ("b2", Self::B2),
        ("b3", Self::B3),
        ("s1", Self::S1),
        ("s2", Self::S2),
        ("s3", Self::S3),
    ];

    /// As Azure writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F1 => "F1",
            Self::B1 => "B1",
            Self::B2 => "B2",
            Self::B3 => "B3",
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
        }
    }

    /// What a hub of so many units allows. The free tier has one unit, whatever is asked for.
    pub fn allows(self, units: u32) -> Allowance {
        let units = if self == Self::F1 { 1 } else { units.max(1) };
        let (sends, twin_updates, daily_each) = match self {
            Self::F1 => (100, 50, 8_000),
            Self::B1 | Self::S1 => ((12 * units).max(100), 50, 400_000),
            Self::B2 | Self::S2 => (120 * units, (5 * units).max(50), 6_000_000),
            Self::B3 | Self::S3 => (6000 * units, 250 * units, 300_000_000),
        };
        let is_basic = matches!(self, Self::B1 | Self::B2 | Self::B3);
        Allowance {
            sends,
            connects: sends,
            twin_updates: (!is_basic).then_some(twin_updates),
            daily_messages: daily_each * u64::from(units),
            meter_bytes: if self == Self::F1 { 512 } else { 4096 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_azure() {
        for (tier, units, sends, twin_updates, daily) in [
            (Tier::F1, 5, 100, Some(50), 8_000),
            (Tier::S1, 1, 100, Some(50), 400_000),
            (Tier::S1, 10, 120, Some(50), 4_000_000),
            (Tier::B1, 200, 2400, None, 80_000_000),
            (Tier::S2, 20, 2400, Some(100), 120_000_000),
            (Tier::B3, 1, 6000, None, 300_000_000),
            (Tier::S3, 10, 60_000, Some(2500), 3_000_000_000),
        ] {
            let allows = tier.allows(units);
            let figures = (allows.sends, allows.twin_updates, allows.daily_messages);
            assert_eq!(figures, (sends, twin_updates, daily), "{tier:?} x {units}");
            assert_eq!(allows.connects, sends);
        }
        assert_eq!((Tier::F1.allows(1).meter_bytes, Tier::S1.allows(1).meter_bytes), (512, 4096));
    }
}
