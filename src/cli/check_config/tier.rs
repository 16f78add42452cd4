//! The lines of `check-config` about the tier of the hubs: how fast, and for how many devices a day's messages last.

use super::Lines;
use crate::config::Config;

const MINUTES_A_DAY: u64 = 24 * 60;

/// What the tier gives, or that there is none.
pub(super) fn put(config: &Config, lines: &mut Lines) {
    let (Some(tier), Some(allows)) = (config.azure.tier, config.allowance()) else {
        lines.put("tier", "none given, so the pace is learnt from the hubs' refusals");
        return;
    };
    let units = if allows == tier.allows(1) { String::new() } else { format!(" x {}", config.azure.units) };
    let sends = config.send_rate().unwrap_or(allows.sends);
    let ways = if allows.twin_updates.is_some() { "" } else { ", no downlinks" };
    lines.put(
        "tier",
        &format!(
            "{}{units}: {sends} messages a second to each hub, {} devices attached a second{ways}",
            tier.as_str(),
            config.attach_rate()
        ),
    );
    let daily = allows.daily_messages;
    lines.put(
        "",
        &format!(
            "{} messages a day of {} bytes each: enough for {} devices with an uplink each minute, or {} with one \
             each 15 minutes",
            grouped(daily),
            allows.meter_bytes,
            grouped(daily / MINUTES_A_DAY),
            grouped(daily * 15 / MINUTES_A_DAY)
        ),
    );
    lines.put("", "larger uplinks count as several; downlinks, twin reads and twin reports count, too");
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::Tier;

    fn said(tier: Option<Tier>, units: u32) -> String {
        let mut config = Config::default();
        (config.azure.tier, config.azure.units) = (tier, units);
        let mut lines = Lines(String::new());
        put(&config, &mut lines);
        lines.0
    }

    #[test]
    fn a_tier_is_told_in_devices() {
        assert!(said(None, 1).contains("learnt"));
        let free = said(Some(Tier::F1), 3);
        assert!(free.contains("F1: 95 messages a second"), "{free}");
        // Ten devices with an uplink each minute are too many for it.
        assert!(free.contains("8,000 messages a day of 512 bytes each: enough for 5 devices with"), "{free}");
        assert!(free.contains("or 83 with one each 15 minutes"), "{free}");
        let large = said(Some(Tier::B2), 2);
        assert!(large.contains("B2 x 2: 228 messages a second") && large.contains("no downlinks"), "{large}");
        assert!(large.contains("12,000,000 messages a day of 4096 bytes"), "{large}");
    }
}
