//! What a caller chooses about an emulator. Knows no sockets.

use std::path::PathBuf;
use std::time::Duration;

use super::cloud_messages::CloudSettings;
use super::tier::Tier;
use crate::model::Clock;

/// Most hubs of one emulator: each needs a loopback address of its own, and the certificate names them all.
pub(super) const MAX_HUBS: usize = 16;

/// How to start an [`Emulator`](super::Emulator).
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for what must survive a restart. Made if missing; one emulator at a time uses it.
    pub dir: PathBuf,
    /// Port of AMQP over TLS on every hub's address; 0 takes a free one.
    pub amqp_port: u16,
    /// Port of HTTPS and WebSocket on every hub's address; 0 takes a free one.
    pub https_port: u16,
    /// Number of hubs, 1 to 16.
    pub hubs: usize,
    /// What the hubs can do, and how much of it. Azure's basic tiers have no cloud-to-device messages, methods, twins.
    pub tier: Tier,
    /// Units of that tier for each hub, from 1.
    pub units: u32,
    /// A device loses its telemetry link after so many throttled messages in a row, as some real ones do. `None`: never.
    pub cut_throttled: Option<u32>,
    /// Locks, times to live and feedback of cloud-to-device messages.
    pub cloud: CloudSettings,
    /// The time in which tokens expire and messages arrive. Certificates live in the machine's own time.
    pub clock: Clock,
    /// How long DPS works on an assignment, so that a client has to poll.
    pub dps_work: Duration,
    /// `Retry-After` of DPS in whole seconds. Azure says 3.
    pub dps_retry_after_s: u32,
    /// Port of the emulated Things Stack, plain HTTP; 0 takes a free one. `None` leaves it out.
    pub things_stack_port: Option<u16>,
    /// Whether any valid id is a device of The Things Stack, made with a session at first use. Otherwise devices must
    /// be made, and join, before they have a queue.
    pub things_stack_open: bool,
    /// How long a webhook may take for its answer. The Things Stack says 5 s.
    pub webhook_timeout: Duration,
}

impl Options {
    /// One hub on Azure's AMQP port 5671 and on 8443, with its state in `dir`, without The Things Stack.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            amqp_port: 5671,
            https_port: 8443,
            hubs: 1,
            tier: Tier::Standard,
            units: 1,
            cut_throttled: None,
            cloud: CloudSettings::default(),
            clock: Clock::system(),
            dps_work: Duration::from_millis(100),
            dps_retry_after_s: 1,
            things_stack_port: None,
            things_stack_open: true,
            webhook_timeout: Duration::from_secs(5),
        }
    }
}
