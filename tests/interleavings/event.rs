//! The alphabet: everything that can happen next, with a short name for each, so that a sequence can be printed and
//! played again.

use super::parts::Kind;

/// A device, by its place in the world.
pub(super) type Device = usize;

/// One step of an interleaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The caller sends a message.
    Send(Device),
    /// The caller stops waiting for its oldest message.
    GiveUp(Device),
    /// The caller wishes all links.
    Wish(Device),
    /// The caller wishes cloud-to-device messages alone.
    WishLess(Device),
    /// The caller wishes no links.
    Unwish(Device),
    /// The device has a new key from now on.
    Rekey(Device),
    /// The caller closes the client.
    Leave,
    /// The hub gives the answer it has held back longest.
    Answer,
    /// It gives the youngest first.
    AnswerLast,
    /// It answers "not now".
    Refuse,
    /// It answers "never heard of this device".
    Deny,
    /// It never answers.
    Forget,
    /// It sends a cloud-to-device message.
    Deliver(Device),
    /// It takes telemetry's link away.
    Detach(Device),
    /// Another client takes telemetry's link.
    Steal(Device),
    /// It takes the link for cloud-to-device messages away.
    DetachBack(Device),
    /// It ends the device's session.
    End(Device),
    /// It ends the session of the token links.
    EndTokens,
    /// It closes the connection.
    CloseAll,
    /// The stream breaks.
    Cut,
    /// The hub can't be reached any more.
    GoAway,
    /// The hub can be reached again.
    ComeBack,
    /// The connection lives but nothing passes.
    Mute,
    /// So much time passes: not enough for any time-out; for a message's; for an Attach's and for idle sessions.
    Second,
    HalfMinute,
    Minutes,
}

type OfDevice = fn(Device) -> Event;

/// All events for one device, and those for none.
const NAMES: [(&str, OfDevice); 10] = [
    ("send", Event::Send),
    ("give-up", Event::GiveUp),
    ("wish", Event::Wish),
    ("wish-less", Event::WishLess),
    ("unwish", Event::Unwish),
    ("rekey", Event::Rekey),
    ("deliver", Event::Deliver),
    ("detach", Event::Detach),
    ("steal", Event::Steal),
    ("detach-back", Event::DetachBack),
];
const END: &str = "end";
const GLOBAL: [(&str, Event); 15] = [
    ("leave", Event::Leave),
    ("answer", Event::Answer),
    ("answer-last", Event::AnswerLast),
    ("refuse", Event::Refuse),
    ("deny", Event::Deny),
    ("forget", Event::Forget),
    ("end-tokens", Event::EndTokens),
    ("close-all", Event::CloseAll),
    ("cut", Event::Cut),
    ("go-away", Event::GoAway),
    ("come-back", Event::ComeBack),
    ("mute", Event::Mute),
    ("second", Event::Second),
    ("half-minute", Event::HalfMinute),
    ("minutes", Event::Minutes),
];

impl Event {
    /// Every event there is with so many devices.
    pub(super) fn all(devices: usize) -> Vec<Self> {
        let of_devices = (0..devices)
            .flat_map(|device| NAMES.iter().map(move |(_, event)| event(device)).chain([Self::End(device)]));
        of_devices.chain(GLOBAL.iter().map(|(_, event)| *event)).collect()
    }

    /// Its name, with the device's letter.
    pub(super) fn name(self) -> String {
        if let Some((name, _)) = GLOBAL.iter().find(|(_, event)| *event == self) {
            return (*name).to_owned();
        }
        for (device, letter) in DEVICES.iter().enumerate() {
            if self == Self::End(device) {
                return format!("{END}.{letter}");
            }
            if let Some((name, _)) = NAMES.iter().find(|(_, event)| event(device) == self) {
                return format!("{name}.{letter}");
            }
        }
        unreachable!("every event has a name")
    }

    /// The event of this name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::all(DEVICES.len()).into_iter().find(|event| event.name() == name)
    }
}

/// The devices' ids.
pub(super) const DEVICES: [&str; 2] = ["a", "b"];

/// Where exploring starts, what the hub holds back, and what may happen.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) devices: usize,
    /// Happens first, with nothing held back.
    pub(super) before: &'static [Event],
    pub(super) holds: &'static [Kind],
    pub(super) events: &'static [Event],
}

use Event::{
    Answer, AnswerLast, CloseAll, ComeBack, Cut, Deliver, Deny, Detach, DetachBack, End, EndTokens, Forget,
    GiveUp, GoAway, HalfMinute, Leave, Minutes, Mute, Refuse, Rekey, Second, Send, Steal, Unwish, Wish,
    WishLess,
};

/// Each a corner of the state machine that few events explore well.
pub(super) const SCENES: [Scene; 8] = [
    Scene {
        name: "opening",
        devices: 1,
        before: &[],
        holds: &[Kind::Open, Kind::Put, Kind::Attach, Kind::Outcome],
        events: &[
            Send(0),
            GiveUp(0),
            Wish(0),
            Unwish(0),
            Rekey(0),
            Leave,
            Answer,
            Refuse,
            Deny,
            Cut,
            HalfMinute,
        ],
    },
    Scene {
        name: "sending",
        devices: 1,
        before: &[Send(0)],
        holds: &[Kind::Begin, Kind::Attach, Kind::Credit, Kind::Outcome, Kind::End],
        events: &[
            Send(0),
            GiveUp(0),
            Wish(0),
            Rekey(0),
            Answer,
            AnswerLast,
            Refuse,
            Deny,
            Forget,
            Detach(0),
            Steal(0),
            End(0),
            Cut,
            HalfMinute,
        ],
    },
    Scene {
        name: "kept",
        devices: 1,
        before: &[Wish(0), Send(0)],
        holds: &[Kind::Begin, Kind::Attach, Kind::Detach, Kind::End, Kind::Outcome],
        events: &[
            Send(0),
            WishLess(0),
            Unwish(0),
            Wish(0),
            Rekey(0),
            Answer,
            AnswerLast,
            Deliver(0),
            Detach(0),
            Steal(0),
            DetachBack(0),
            End(0),
            Cut,
            Second,
        ],
    },
    Scene {
        name: "lost",
        devices: 1,
        before: &[Wish(0), Send(0)],
        holds: &[Kind::Open, Kind::Begin, Kind::Put],
        events: &[
            Send(0),
            Unwish(0),
            Wish(0),
            Answer,
            Refuse,
            Deny,
            CloseAll,
            Cut,
            EndTokens,
            GoAway,
            ComeBack,
            Mute,
            Second,
            HalfMinute,
            Leave,
        ],
    },
    Scene {
        name: "renewing",
        devices: 1,
        before: &[Wish(0), Minutes],
        holds: &[Kind::Put, Kind::End],
        events: &[Send(0), Unwish(0), Answer, Refuse, Deny, Forget, EndTokens, End(0), HalfMinute, Minutes],
    },
    Scene {
        name: "leaving",
        devices: 1,
        before: &[Wish(0), Send(0)],
        holds: &[Kind::Begin, Kind::Attach, Kind::Detach, Kind::End, Kind::Outcome],
        events: &[
            Send(0),
            Unwish(0),
            Leave,
            Answer,
            AnswerLast,
            Deliver(0),
            DetachBack(0),
            End(0),
            Cut,
            Second,
        ],
    },
    Scene {
        name: "neighbours",
        devices: 2,
        before: &[Wish(0), Wish(1), Send(0), Send(1)],
        holds: &[Kind::Begin, Kind::Attach, Kind::Detach, Kind::End, Kind::Outcome],
        events: &[
            Send(0),
            Send(1),
            Unwish(0),
            Wish(0),
            Rekey(0),
            Answer,
            AnswerLast,
            Detach(0),
            Steal(0),
            DetachBack(0),
            End(0),
            Deliver(0),
            Deliver(1),
            Cut,
            Second,
        ],
    },
    Scene {
        name: "newcomers",
        devices: 2,
        before: &[Send(0)],
        holds: &[Kind::Begin, Kind::Put, Kind::Attach, Kind::End],
        events: &[
            Send(0),
            Send(1),
            GiveUp(1),
            Wish(1),
            Unwish(1),
            Answer,
            AnswerLast,
            Refuse,
            Deny,
            Forget,
            End(0),
            Detach(0),
            HalfMinute,
        ],
    },
];

/// For long random walks: everything may happen, and every answer may be late.
pub(super) const ANYTHING: Scene = Scene {
    name: "anything",
    devices: 2,
    before: &[],
    holds: &[
        Kind::Open,
        Kind::Begin,
        Kind::Attach,
        Kind::Credit,
        Kind::Put,
        Kind::Outcome,
        Kind::Detach,
        Kind::End,
        Kind::Twin,
    ],
    events: &[],
};
