//! A LoRaWAN session: key id, address, frame counters.

use serde::{Deserialize, Serialize};

/// What a join, or activation by personalisation, gives a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) session_key_id: Vec<u8>,
    /// Eight upper-case hexadecimal digits.
    pub(super) dev_addr: String,
    /// RFC 3339.
    pub(super) started_at: String,
    /// The next uplink's.
    pub(super) next_f_cnt_up: u32,
    /// The last queued downlink's; 0 before the first.
    pub(super) last_f_cnt_down: u32,
}

impl Session {
    /// A session with random key id and address.
    pub(super) fn new(started_at: String) -> Self {
        let mut session_key_id = vec![0; 16];
        fastrand::fill(&mut session_key_id);
        Self {
            session_key_id,
            // In the range of experimental networks.
            dev_addr: format!("{:08X}", fastrand::u32(0x0200_0000..0x0400_0000)),
            started_at,
            next_f_cnt_up: 0,
            last_f_cnt_down: 0,
        }
    }
}
