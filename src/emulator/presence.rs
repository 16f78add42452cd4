//! Who holds which device: at any time one connection per device, the newer wins. Knows no socket and no AMQP.

use std::collections::HashMap;

use tokio::sync::watch;

/// Why a connection loses a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A newer connection took it.
    Stolen,
    /// It is no longer registered.
    Deleted,
    /// It may not connect any more.
    Disabled,
    /// Its key is another one now.
    KeysChanged,
    /// No token on the connection speaks for it any more.
    TokenExpired,
}

/// The table. Connections are named by a number of their own.
#[derive(Debug, Default)]
pub(super) struct Presence {
    holders: HashMap<String, Holder>,
    /// Links that each device has attached since the start.
    attached: HashMap<String, u64>,
}

#[derive(Debug)]
struct Holder {
    connection: u64,
    cut: watch::Sender<Option<Cut>>,
}

impl Presence {
    /// Gives `device` to `connection`; another connection that had it is told [`Cut::Stolen`]. The answer tells the
    /// new holder when it loses the device. Several claims of one connection share one fate.
    pub(super) fn claim(&mut self, device: &str, connection: u64) -> watch::Receiver<Option<Cut>> {
        *self.attached.entry(device.to_owned()).or_default() += 1;
        if let Some(holder) = self.holders.get(device) {
            if holder.connection == connection && holder.cut.borrow().is_none() {
                return holder.cut.subscribe();
            }
            _ = holder.cut.send(Some(Cut::Stolen));
        }
        let (cut, watched) = watch::channel(None);
        self.holders.insert(device.to_owned(), Holder { connection, cut });
        watched
    }

    /// Forgets `device` if `connection` still holds it and nobody there listens any more.
    pub(super) fn release(&mut self, device: &str, connection: u64) {
        let gone = self
            .holders
            .get(device)
            .is_some_and(|holder| holder.connection == connection && holder.cut.receiver_count() == 0);
        if gone {
            self.holders.remove(device);
        }
    }

    /// Tells the holder of `device`, if there is one, that it lost it.
    pub(super) fn cut(&mut self, device: &str, why: Cut) {
        if why == Cut::Deleted {
            self.attached.remove(device);
        }
        if let Some(holder) = self.holders.remove(device) {
            _ = holder.cut.send(Some(why));
        }
    }

    /// The devices `connection` holds.
    pub(super) fn held_by(&self, connection: u64) -> Vec<String> {
        self.holders
            .iter()
            .filter(|(_, holder)| holder.connection == connection)
            .map(|(device, _)| device.clone())
            .collect()
    }

    /// Links that `device` has attached since the start, or since it was made.
    pub(super) fn attached(&self, device: &str) -> u64 {
        self.attached.get(device).copied().unwrap_or(0)
    }

    /// Whether `connection` holds `device`.
    pub(super) fn holds(&self, device: &str, connection: u64) -> bool {
        self.holders.get(device).is_some_and(|holder| holder.connection == connection)
    }

    /// Whether some connection holds `device`.
    pub(super) fn is_connected(&self, device: &str) -> bool {
        self.holders.contains_key(device)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, Presence};

    #[test]
    fn the_newer_connection_takes_the_device_from_the_older() {
        let mut presence = Presence::default();
        let older = presence.claim("a", 1);
        let newer = presence.claim("a", 2);
        assert_eq!(*older.borrow(), Some(Cut::Stolen));
        assert_eq!(*newer.borrow(), None);
        drop(older);
        presence.release("a", 1);
        assert!(presence.is_connected("a"), "the older one's farewell must not disturb the newer");
        assert_eq!(presence.held_by(2), ["a"]);
    }

    #[test]
    fn links_of_one_connection_share_the_device_until_the_last_goes() {
        let mut presence = Presence::default();
        let (first, second) = (presence.claim("a", 1), presence.claim("a", 1));
        assert_eq!((*first.borrow(), *second.borrow()), (None, None));
        drop(first);
        presence.release("a", 1);
        assert!(presence.is_connected("a"));
        drop(second);
        presence.release("a", 1);
        assert!(!presence.is_connected("a"));
    }

    #[test]
    fn a_cut_reaches_only_the_device_named() {
        let mut presence = Presence::default();
        let (a, b) = (presence.claim("a", 1), presence.claim("b", 1));
        presence.cut("a", Cut::Deleted);
        assert_eq!((*a.borrow(), *b.borrow()), (Some(Cut::Deleted), None));
        assert_eq!(presence.held_by(1), ["b"]);
    }
}
