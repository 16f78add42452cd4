//! When which hub could be reached: windows of faults, and how long a hub was healthy between two moments. Pure.

/// After a great fault ends, nothing is expected for this long.
const GRACE_MS: i64 = 15_000;
/// After the reset of a connection, all its devices are attached anew.
const RESET_GRACE_MS: i64 = 5_000;
/// The hub's `accepted` and the commit that records it lie closer together than this, also on a busy machine.
const UNSETTLED_MS: i64 = 2_000;
/// What was on its way when a link was cut may be taken by a busy hub as much later, its answer having nowhere to go.
const SLACK_MS: i64 = 1_000;

/// Whom a window concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    All,
    Hub(usize),
    Device(usize),
    /// Who shares a session at this hub: up to sixteen devices, it is not told which.
    SessionAt(usize),
}

/// From when to when, in milliseconds since 1970 UTC; `i64::MAX` while it lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) whom: Whom,
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
    /// Whether connections were cut, so that what was not settled may be sent again.
    pub(crate) cut: bool,
}

impl Window {
    /// Whether a message of this device at this hub may come first at `first_ms` and again at `again_ms`. `taken_until_ms`:
    /// when the hub had taken all that was on its way to it at the window's end.
    fn excuses(&self, whose: (usize, usize), (first_ms, again_ms): (i64, i64), taken_until_ms: i64) -> bool {
        let under_way =
            self.from_ms - UNSETTLED_MS < first_ms && first_ms <= taken_until_ms.saturating_add(SLACK_MS);
        self.cut && self.concerns(whose) && under_way && again_ms >= self.from_ms
    }

    fn concerns(&self, (device, hub): (usize, usize)) -> bool {
        match self.whom {
            Whom::All => true,
            Whom::Hub(number) | Whom::SessionAt(number) => number == hub,
            Whom::Device(number) => number == device,
        }
    }
}

/// All windows so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    pub(crate) windows: Vec<Window>,
}

impl Health {
    /// Opens a window; gives what closes it.
    pub(crate) fn open(&mut self, whom: Whom, cut: bool, now_ms: i64) -> usize {
        self.windows.push(Window { whom, from_ms: now_ms, to_ms: i64::MAX, cut });
        self.windows.len() - 1
    }

    pub(crate) fn close(&mut self, window: usize, now_ms: i64) {
        self.windows[window].to_ms = now_ms;
    }

    /// A cut of one moment.
    pub(crate) fn moment(&mut self, whom: Whom, now_ms: i64) {
        self.windows.push(Window { whom, from_ms: now_ms, to_ms: now_ms, cut: true });
    }

    /// How many milliseconds between two moments a hub had neither fault nor grace.
    pub(crate) fn healthy_ms(&self, hub: usize, from_ms: i64, to_ms: i64) -> i64 {
        let of_hub = |window: &&Window| match window.whom {
            Whom::All => true,
            Whom::Hub(number) => number == hub,
            Whom::Device(_) | Whom::SessionAt(_) => false,
        };
        let grace_ms =
            |window: &Window| if window.to_ms > window.from_ms { GRACE_MS } else { RESET_GRACE_MS };
        let mut ill: Vec<_> = self
            .windows
            .iter()
            .filter(of_hub)
            .map(|window| (window.from_ms, window.to_ms.saturating_add(grace_ms(window))))
            .map(|(from, to)| (from.max(from_ms), to.min(to_ms)))
            .filter(|(from, to)| from < to)
            .collect();
        ill.sort_unstable();
        let (mut healthy, mut until) = (0, from_ms);
        for (from, to) in ill {
            healthy += (from - until).max(0);
            until = until.max(to);
        }
        healthy + (to_ms - until).max(0)
    }

    /// Whether something explains that a message came twice.
    pub(crate) fn excuses(&self, whose: (usize, usize), first_ms: i64, again_ms: i64) -> bool {
        let excuses = |window: &Window| {
            window.excuses(whose, (first_ms, again_ms), self.taken_until_ms(whose, window.to_ms))
        };
        self.windows.iter().any(excuses)
    }

    /// A hub that reads slowly or not at all takes what was sent before a cut only when that is over.
    fn taken_until_ms(&self, whose: (usize, usize), cut_ms: i64) -> i64 {
        let holding =
            |window: &&Window| window.concerns(whose) && window.from_ms <= cut_ms && cut_ms <= window.to_ms;
        self.windows.iter().filter(holding).map(|window| window.to_ms).fold(cut_ms, i64::max)
    }
}
