//! Which faults come when: a list that a seed decides. Pure.

use std::time::Duration;

use tti_connector::emulator::FaultKind;

use super::relay::Mode;

/// The connector may be ended in this part of the run, then it lives on, so that its growth shows.
const RESTARTING: f64 = 0.33;
/// Every so many great faults one long pause follows, in which a stall would show.
const REST_EVERY: usize = 4;

/// What can befall a whole hub.
const OF_HUBS: [FaultKind; 11] = [
    FaultKind::KillTcp,
    FaultKind::KillAmqpConnection,
    FaultKind::KillAmqpSession,
    FaultKind::KillAmqpCbsLinkReq,
    FaultKind::KillAmqpCbsLinkResp,
    FaultKind::InvokeThrottling,
    FaultKind::InvokeMaxMessageQuota,
    FaultKind::ShutDownAmqp,
    FaultKind::Silence,
    FaultKind::SlowReads,
    FaultKind::HubDown,
];
/// What can befall any device, once.
const OF_LINKS: [FaultKind; 8] = [
    FaultKind::KillAmqpSession,
    FaultKind::KillAmqpD2cLink,
    FaultKind::KillAmqpC2dLink,
    FaultKind::KillAmqpTwinLinkReq,
    FaultKind::KillAmqpTwinLinkResp,
    FaultKind::KillAmqpMethodReqLink,
    FaultKind::KillAmqpMethodRespLink,
    FaultKind::ExpireTokens,
];
/// What an ailing device meets for a while.
const OF_AILING: [FaultKind; 5] = [
    FaultKind::InvokeThrottling,
    FaultKind::InvokeMaxMessageQuota,
    FaultKind::InvokeAuthError,
    FaultKind::StealLinks,
    FaultKind::HubMoved,
];

/// Where a relay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To one hub, by number.
    Hub(usize),
    AllHubs,
    Dps,
    Webhook,
    ThingsStack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`; it starts again after the hold.
    Kill,
    /// SIGTERM, and it starts again.
    Terminate,
    /// The hubs, DPS and The Things Stack go and come back; `rough` without any goodbye.
    CloudRestarts { rough: bool },
    /// All connections of a way are reset, and the way is in this mode for the hold.
    Cut { way: Way, then: Mode },
    /// The way is in this mode for the hold; nothing is lost on it.
    Hinder { way: Way, mode: Mode },
    /// A hub does this to all its devices for the hold.
    Hub { hub: usize, kind: FaultKind },
    /// A hub has limits far below the load for the hold.
    Throttled { hub: usize },
    /// A hub does this to a device, once.
    Link { device: usize, kind: FaultKind },
    /// A hub does this to a device for the hold.
    Ailing { ailing: usize, kind: FaultKind },
    /// One connection is reset.
    CutOne { way: Way },
    /// A hub device is deleted; DPS makes it anew.
    Delete { ailing: usize },
    /// A hub device is disabled for the hold.
    Disable { ailing: usize },
    /// A hub device gets keys that the connector can't know; it is deleted after the hold, so that DPS makes it anew.
    NewKeys { ailing: usize },
    /// DPS answers every call with this status for the hold.
    DpsRefuses { status: u16 },
    /// The next calls of The Things Stack's API go wrong, in the way of this number.
    ApiFails { kind: usize },
}

impl Fault {
    /// Whether it concerns more than one device or connection.
    pub(crate) fn is_great(&self) -> bool {
        match self {
            Self::Kill | Self::Terminate | Self::CloudRestarts { .. } => true,
            Self::Cut { .. } | Self::Hinder { .. } | Self::Hub { .. } | Self::Throttled { .. } => true,
            Self::Link { .. } | Self::Ailing { .. } => false,
            Self::CutOne { .. } | Self::Delete { .. } | Self::Disable { .. } | Self::NewKeys { .. } => false,
            Self::DpsRefuses { .. } | Self::ApiFails { .. } => false,
        }
    }

    /// One word or two for the table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kill => "connector kill -9",
            Self::Terminate => "connector SIGTERM",
            Self::CloudRestarts { .. } => "cloud restarts",
            Self::Cut { way, .. } => match way {
                Way::Hub(_) | Way::AllHubs => "hub connections reset or refused",
                Way::Dps => "DPS connections reset or refused",
                Way::Webhook => "webhook connections reset or refused",
                Way::ThingsStack => "API connections reset or refused",
            },
            Self::Hinder { mode, .. } => match mode {
                Mode::Silence => "silence on a way",
                Mode::Late { .. } => "latency on a way",
                Mode::Creep { .. } => "slow reader on a way",
                Mode::Pass | Mode::Refuse => "a way refused",
            },
            Self::Hub { kind, .. } | Self::Link { kind, .. } | Self::Ailing { kind, .. } => kind.as_str(),
            Self::Throttled { .. } => "hub throttles by its tier",
            Self::CutOne { .. } => "one connection reset",
            Self::Delete { .. } => "device deleted",
            Self::Disable { .. } => "device disabled",
            Self::NewKeys { .. } => "device got other keys",
            Self::DpsRefuses { .. } => "DPS answers 429, 500",
            Self::ApiFails { .. } => "API answers 429, 5xx or not",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    /// From the start of the run.
    pub(crate) at: Duration,
    pub(crate) hold: Duration,
    pub(crate) fault: Fault,
}

/// What can be hit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) hubs: usize,
    pub(crate) devices: usize,
    /// Of these, at their end.
    pub(crate) ailing: usize,
    /// Ways in which the API can fail.
    pub(crate) api_kinds: usize,
}

/// All strikes of a run, in order of time.
pub(crate) fn plan(seed: u64, lasting: Duration, field: Field) -> Vec<Strike> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut strikes = great(&mut random, lasting, field);
    strikes.extend(small(&mut random, lasting, field));
    strikes.sort_by_key(|strike| strike.at);
    strikes
}

/// One after the other with pauses, so that there is health to return to.
fn great(random: &mut fastrand::Rng, lasting: Duration, field: Field) -> Vec<Strike> {
    let mut strikes = Vec::new();
    let mut at = Duration::from_secs(5);
    loop {
        at += millis(random, 10_000..20_000);
        if strikes.len() % REST_EVERY == REST_EVERY - 1 {
            at += Duration::from_secs(35);
        }
        let hold = millis(random, 2_000..7_000);
        if at + hold + Duration::from_secs(5) > lasting {
            return strikes;
        }
        let may_restart = at.as_secs_f64() < lasting.as_secs_f64() * RESTARTING;
        let hub = random.usize(..field.hubs);
        let chosen = random.u8(..18);
        let fault = match (strikes.len(), chosen) {
            // A short run has both, too.
            (0, _) if may_restart => Fault::Kill,
            (1, _) if may_restart => Fault::Terminate,
            (_, 0..=2) if may_restart => Fault::Kill,
            (_, 3..=4) if may_restart => Fault::Terminate,
            (_, 5) => Fault::CloudRestarts { rough: random.bool() },
            (_, 6..=7) => Fault::Throttled { hub },
            (_, 8..=10) => {
                let then = if random.bool() { Mode::Refuse } else { Mode::Pass };
                Fault::Cut { way: way(random, field), then }
            }
            (_, 11..=13) => Fault::Hinder { way: way(random, field), mode: hindrance(random) },
            (_, _) => Fault::Hub { hub, kind: OF_HUBS[random.usize(..OF_HUBS.len())] },
        };
        strikes.push(Strike { at, hold, fault });
        at += hold;
    }
}

/// Many at once, at any time.
fn small(random: &mut fastrand::Rng, lasting: Duration, field: Field) -> Vec<Strike> {
    let mut strikes = Vec::new();
    let mut at = Duration::from_secs(5);
    loop {
        at += millis(random, 200..1_500);
        let hold = millis(random, 2_000..7_000);
        if at + hold + Duration::from_secs(5) > lasting {
            return strikes;
        }
        let ailing = random.usize(..field.ailing);
        let fault = match random.u8(..16) {
            0 => Fault::CutOne { way: way(random, field) },
            1..=2 => Fault::Delete { ailing },
            3 => Fault::Disable { ailing },
            4 => Fault::NewKeys { ailing },
            6..=8 => {
                let kind = OF_LINKS[random.usize(..OF_LINKS.len())];
                Fault::Link { device: random.usize(..field.devices), kind }
            }
            9..=10 => Fault::Ailing { ailing, kind: OF_AILING[random.usize(..OF_AILING.len())] },
            5 => Fault::DpsRefuses { status: if random.bool() { 429 } else { 500 } },
            _ => Fault::ApiFails { kind: random.usize(..field.api_kinds) },
        };
        strikes.push(Strike { at, hold, fault });
    }
}

fn way(random: &mut fastrand::Rng, field: Field) -> Way {
    match random.u8(..10) {
        0..=3 => Way::Hub(random.usize(..field.hubs)),
        4..=5 => Way::AllHubs,
        6 => Way::Dps,
        7 => Way::Webhook,
        _ => Way::ThingsStack,
    }
}

fn hindrance(random: &mut fastrand::Rng) -> Mode {
    match random.u8(..3) {
        0 => Mode::Silence,
        1 => Mode::Late { ms: random.u64(100..700), jitter_ms: random.u64(25..250) },
        _ => Mode::Creep { bytes_per_s: random.u64(4_000..40_000) },
    }
}

fn millis(random: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}
