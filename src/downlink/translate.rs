//! Where Azure's vocabulary becomes LoRaWAN's: messages, IoT Central commands, direct methods and desired properties
//! become downlinks.
//!
//! Pure. Knows no queue, no ledger and nobody who is waiting.

mod bytes;
mod central;
mod class_b_c;
mod desired;
mod fields;
mod invalid;
mod json;
mod message;
mod method;
mod rules;

use crate::things_stack::{ClassBC, Downlink, Operation, Payload, Priority};

pub use desired::{desired_property, is_desired_property};
pub use invalid::Invalid;
pub use message::cloud_message;
pub use method::{MethodCall, Wait, downlink_method, named_method};
pub use rules::{ApplicationRules, CommandRule, InvalidRule, Rules};

/// What the cloud asks for, in The Things Stack's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The downlink, still without correlation ids.
    pub downlink: Downlink,
    /// How it enters the queue.
    pub operation: Operation,
}

/// What a request says about its downlink besides the payload. `None`: nothing.
#[derive(Debug, Default)]
struct Wishes {
    port: Option<u8>,
    confirmed: Option<bool>,
    priority: Option<Priority>,
    operation: Option<Operation>,
    class_b_c: Option<ClassBC>,
}

impl Wishes {
    /// Fills in what the request does not say: from its command, then the application's or general port.
    /// `otherwise` is how it enters the queue when nobody says.
    fn settle(
        self,
        command: Option<&CommandRule>,
        rules: &ApplicationRules,
        otherwise: Operation,
        payload: Payload,
    ) -> Option<Request> {
        let f_port = self.port.or(command.and_then(|command| command.port)).or(rules.port())?;
        let downlink = Downlink {
            f_port,
            payload,
            confirmed: self.confirmed.or(command.and_then(|command| command.confirmed)).unwrap_or(false),
            priority: self.priority.or(command.and_then(|command| command.priority)).unwrap_or_default(),
            class_b_c: self.class_b_c,
            correlation_ids: Vec::new(),
        };
        let operation = self.operation.or(command.and_then(|command| command.operation)).unwrap_or(otherwise);
        Some(Request { downlink, operation })
    }
}
