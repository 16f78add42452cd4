//! The control of a hub's tier: `GET` and `PUT /emulator/hubs/{host}/tier`.
//!
//! Knows nothing of what a tier limits.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::hub::Hub;
use super::reply::{self, HubRefusal, Reply};
use super::tier::{Tier, TierSettings};

/// As many as Azure sells of the smaller tiers.
pub(super) const MAX_UNITS: u32 = 200;
/// A day within a second.
const MAX_SPEED: f64 = 86_400.0;
/// A slow hub still answers before a client gives up.
const MAX_TIME_MS: u64 = 600_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    tier: String,
    units: Option<u32>,
    speed: Option<f64>,
    burst_ms: Option<u64>,
    max_delay_ms: Option<u64>,
    daily_messages: Option<u64>,
    cut_after: Option<u32>,
}

/// Shows tier and counts, after changing it if asked to.
pub(super) fn answer(hub: &Hub, method: &Method, body: &Bytes) -> Result<Reply, HubRefusal> {
    match *method {
        Method::GET => {}
        Method::PUT => hub.set_tier(settings(body)?),
        _ => return Err(HubRefusal::wrong_method("GET, PUT")),
    }
    let settings = hub.tier_settings();
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let shown = json!({
        "tier": settings.tier.as_str(),
        "units": settings.units,
        "speed": settings.speed,
        "burst_ms": ms(settings.burst),
        "max_delay_ms": ms(settings.max_delay),
        "daily_messages": settings.daily_messages.or(settings.tier.per_day(settings.units)),
        "cut_after": settings.cut_after,
        "traffic": hub.traffic(),
    });
    Ok(reply::json(StatusCode::OK, &shown))
}

fn settings(body: &Bytes) -> Result<TierSettings, HubRefusal> {
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| HubRefusal::bad(format!("the body is no tier: {error}")))?;
    let tier = Tier::parse(&body.tier).ok_or_else(|| {
        let known: Vec<_> = Tier::ALL.into_iter().map(Tier::as_str).collect();
        HubRefusal::bad(format!("tier is one of {}", known.join(", ")))
    })?;
    let units = body.units.unwrap_or(1);
    if !(1..=MAX_UNITS).contains(&units) {
        return Err(HubRefusal::bad(format!("units is a number from 1 to {MAX_UNITS}")));
    }
    let usual = TierSettings::new(tier, units);
    let speed = body.speed.unwrap_or(usual.speed);
    if !(speed > 0.0 && speed <= MAX_SPEED) {
        return Err(HubRefusal::bad(format!("speed is above 0 and at most {MAX_SPEED}")));
    }
    let time = |name: &str, ms: Option<u64>, usual: Duration| match ms {
        Some(ms) if ms > MAX_TIME_MS => Err(HubRefusal::bad(format!("{name} is at most {MAX_TIME_MS}"))),
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Ok(usual),
    };
    if body.cut_after == Some(0) {
        return Err(HubRefusal::bad("cut_after is a number from 1 on"));
    }
    Ok(TierSettings {
        speed,
        burst: time("burst_ms", body.burst_ms, usual.burst)?,
        max_delay: time("max_delay_ms", body.max_delay_ms, usual.max_delay)?,
        daily_messages: body.daily_messages,
        cut_after: body.cut_after,
        ..usual
    })
}
