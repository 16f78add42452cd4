//! The rates that a configuration gives for one hub: by its tier, or as somebody says.

use super::sections::Config;
use crate::azure::Allowance;

/// Of what a tier allows, in percent: others ask the hub, too, and a hub counts by a clock of its own.
const PART: u32 = 95;
/// Devices attached a second without a tier: what the smallest hub takes.
const ATTACHES: u32 = 100;
/// Twin reports a second without a tier: a fifth of what the smallest hub takes.
const REPORTS: u32 = 10;

impl Config {
    /// What each hub's tier allows, if it is given.
    pub fn allowance(&self) -> Option<Allowance> {
        self.azure.tier.map(|tier| tier.allows(self.azure.units))
    }

    /// Telemetry messages a second for one hub; `None`: learnt.
    pub fn send_rate(&self) -> Option<u32> {
        self.allowance().map(|allows| most_of(allows.sends))
    }

    /// Devices that may connect to one hub a second, whatever for; `None`: learnt.
    pub fn connect_rate(&self) -> Option<u32> {
        self.allowance().map(|allows| most_of(allows.connects))
    }

    /// Devices attached a second at one hub for their downlinks.
    pub fn attach_rate(&self) -> u32 {
        self.azure.attach_rate.or(self.connect_rate()).unwrap_or(ATTACHES)
    }

    /// Twin reports a second at one hub. Services update twins, too: half is left to them.
    pub fn report_rate(&self) -> u32 {
        let allowed = self.allowance().and_then(|allows| allows.twin_updates);
        self.twin.max_rate.or(allowed.map(|updates| updates / 2)).unwrap_or(REPORTS).max(1)
    }
}

fn most_of(rate: u32) -> u32 {
    (rate / 100 * PART + rate % 100 * PART / 100).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::Tier;

    #[test]
    fn the_tier_gives_the_rates_unless_somebody_says_otherwise() {
        let mut config = Config::default();
        let rates = |config: &Config| {
            (config.send_rate(), config.connect_rate(), config.attach_rate(), config.report_rate())
        };
        assert_eq!(rates(&config), (None, None, 100, 10));
        (config.azure.tier, config.azure.units) = (Some(Tier::S2), 3);
        assert_eq!(rates(&config), (Some(342), Some(342), 342, 25));
        (config.azure.attach_rate, config.twin.max_rate) = (Some(7), Some(3));
        assert_eq!(rates(&config), (Some(342), Some(342), 7, 3));
        (config.azure.tier, config.twin.max_rate) = (Some(Tier::B3), None);
        assert_eq!(rates(&config), (Some(17_100), Some(17_100), 7, 10));
    }
}
