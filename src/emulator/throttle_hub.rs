//! A hub's tier and its limits as part of the hub: asking for a place, changing the tier, looking at the counts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep};

use super::hub::Hub;
use super::throttle::{Answer, Denied, Throttle, Traffic};
use super::tier::{METHOD_BLOCK, Operation, Tier, TierSettings};

/// The part of a hub's state that this module owns.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<Throttle>);

impl Limits {
    fn lock(&self) -> MutexGuard<'_, Throttle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// The same hub of another tier, with one unit; standard unless said.
    #[must_use]
    pub fn with_tier(self, tier: Tier) -> Self {
        self.set_tier(TierSettings::new(tier, 1));
        self
    }

    /// What it can do.
    pub fn tier(&self) -> Tier {
        self.limits.lock().settings().tier
    }

    /// Its tier, and how it treats those who want more.
    pub fn tier_settings(&self) -> TierSettings {
        self.limits.lock().settings().clone()
    }

    /// Another tier from now on, as if its owner had changed it. Links that the new one does not have stay open; the
    /// messages of the day go on being counted.
    pub fn set_tier(&self, settings: TierSettings) {
        self.limits.lock().set(settings);
    }

    /// What it was asked for since its start.
    pub fn traffic(&self) -> Traffic {
        self.limits.lock().traffic(self.clock().now_ms())
    }

    /// An AMQP connection was opened.
    pub(super) fn note_connection(&self) {
        self.limits.lock().connected();
    }

    /// Waits for a place for one operation, as long as the hub lets it wait. `bytes` for what counts as a message;
    /// `None` for what does not. May be cancelled; then it counts all the same.
    pub(super) async fn pass(&self, operation: Operation, bytes: Option<usize>) -> Result<(), Denied> {
        let answer = self.ask(operation, bytes);
        Self::wait(answer).await
    }

    /// The same for telemetry: `sizes` of the messages that come in one delivery.
    pub(super) async fn pass_telemetry(&self, sizes: &[usize]) -> Result<(), Denied> {
        let answer = {
            let mut limits = self.limits.lock();
            let messages = sizes.iter().map(|bytes| limits.metered(*bytes)).sum();
            let now_ms = self.clock().now_ms();
            limits.ask(Operation::Telemetry, sizes.len() as u64, messages, Instant::now(), now_ms)
        };
        Self::wait(answer).await
    }

    /// A place for one operation that is not delayed.
    pub(super) fn pass_now(&self, operation: Operation) -> Result<(), Denied> {
        match self.ask(operation, None) {
            Answer::Now | Answer::After(_) => Ok(()),
            Answer::Refused(denied) => Err(denied),
        }
    }

    fn ask(&self, operation: Operation, bytes: Option<usize>) -> Answer {
        let mut limits = self.limits.lock();
        let messages = bytes.map_or(0, |bytes| limits.metered(bytes));
        let count = match operation {
            Operation::Method => bytes.unwrap_or_default().div_ceil(METHOD_BLOCK).max(1) as u64,
            Operation::Telemetry
            | Operation::Connect
            | Operation::CloudMessage
            | Operation::TwinRead
            | Operation::TwinUpdate
            | Operation::Registry
            | Operation::Query => 1,
        };
        limits.ask(operation, count, messages, Instant::now(), self.clock().now_ms())
    }

    async fn wait(answer: Answer) -> Result<(), Denied> {
        match answer {
            Answer::Now => Ok(()),
            Answer::After(delay) => {
                sleep(delay).await;
                Ok(())
            }
            Answer::Refused(denied) => Err(denied),
        }
    }
}

impl Denied {
    /// For the peer, with IoT Hub's number.
    pub(super) fn text(self) -> String {
        match self {
            Self::Throttled(_) => {
                "ErrorCode:429001;ThrottlingException: the hub is asked for more than its tier allows"
                    .to_owned()
            }
            Self::Quota => {
                "ErrorCode:403002;IotHubQuotaExceeded: the hub's messages of this day (UTC) are used up"
                    .to_owned()
            }
        }
    }
}
