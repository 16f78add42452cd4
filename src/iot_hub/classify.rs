//! What IoT Hub's answers mean for the caller: AMQP conditions, outcomes and token statuses, one table.
//!
//! Pure. Where Microsoft's SDKs and its Edge hub disagree, a message is rather kept and tried again than parked.

use std::time::Duration;

use fe2o3_amqp_types::messaging::{Outcome, Rejected};

pub(super) use super::condition::Condition;
use super::error::{RetryReason, SendError, Trouble};
use crate::azure::HubAddress;
use crate::model::ParkReason;

/// Pause of a keeper's links after "too many requests"; it grows, if that goes on. Telemetry has the schedule's own pauses.
const AFTER_THROTTLED: Duration = Duration::from_secs(5);
/// The same after a used-up quota: daily ones come back at midnight, full queues sooner, and nobody tells.
const AFTER_QUOTA: Duration = Duration::from_secs(5);
/// The same when the hub is suspended or gone: only its owner can change that.
const AFTER_HUB_STATE: Duration = Duration::from_secs(60);
/// The hub's descriptions are one or two sentences.
const MAX_DETAIL_CHARS: usize = 300;

/// Where an AMQP error was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// `rejected` for one message.
    Message,
    /// Detach, or the end of a session of its own: one device.
    Device,
    /// Close: everybody on the connection.
    Connection,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Later; `bool` says whether the whole hub is troubled.
    Retry(RetryReason, Option<Duration>, bool),
    /// The device may have moved.
    Reresolve(ParkReason),
    /// Never.
    Park(ParkReason),
}

/// What became of a put-token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenClass {
    /// The hub knows us now.
    Accepted,
    /// This connection takes no more tokens; another may.
    ConnectionFull,
    /// It failed.
    Failed(Class),
}

/// The meaning of an AMQP error condition.
pub(super) fn condition(scope: Scope, condition: &Condition) -> Class {
    let class = match condition.symbol.as_str() {
        "com.microsoft:device-container-throttled" => throttled(),
        // Some refusals for too many requests come under this name.
        "amqp:not-allowed" if names_throttling(&condition.description) => throttled(),
        "amqp:link:stolen" | "com.microsoft:link-creation-conflict" => retry(RetryReason::Taken),
        // IoT Hub says the same under general names, too.
        "amqp:internal-error" | "amqp:link:detach-forced" | "amqp:resource-locked"
            if names_another_client(&condition.description) =>
        {
            retry(RetryReason::Taken)
        }
        "com.microsoft:timeout" => retry(RetryReason::Timeout),
        "amqp:internal-error" => retry(RetryReason::Hub),
        "amqp:link:detach-forced"
        | "amqp:link:redirect"
        | "amqp:link:transfer-limit-exceeded"
        | "amqp:session:window-violation"
        | "amqp:session:errant-link"
        | "amqp:session:handle-in-use"
        | "amqp:session:unattached-handle"
        | "amqp:resource-locked"
        | "amqp:resource-deleted" => retry(RetryReason::Link),
        "amqp:connection:forced" | "amqp:connection:framing-error" | "amqp:connection:redirect" => {
            Class::Retry(RetryReason::Connection, None, true)
        }
        "amqp:resource-limit-exceeded" | "com.microsoft:quota-exceeded" => {
            Class::Retry(RetryReason::Quota, Some(AFTER_QUOTA), false)
        }
        "com.microsoft:iot-hub-suspended" | "com.microsoft:iot-hub-not-found-error" => {
            Class::Retry(RetryReason::Hub, Some(AFTER_HUB_STATE), true)
        }
        "amqp:unauthorized-access" => Class::Reresolve(ParkReason::Unauthorized),
        "amqp:not-found" => Class::Reresolve(ParkReason::DeviceUnknown),
        "amqp:link:message-size-exceeded" => Class::Park(ParkReason::TooLarge),
        // A lock is a matter of cloud-to-device messages; our telemetry has none to lose.
        "com.microsoft:message-lock-lost" => retry(RetryReason::Released),
        "amqp:not-allowed"
        | "amqp:invalid-field"
        | "amqp:decode-error"
        | "amqp:not-implemented"
        | "amqp:precondition-failed"
        | "com.microsoft:argument-error"
        | "com.microsoft:argument-out-of-range"
        | "com.microsoft:precondition-failed"
        | "com.microsoft:device-already-exists" => Class::Park(ParkReason::Rejected),
        // Unknown names: a rejected message is a verdict on it, a lost link is not.
        _ if scope == Scope::Message => Class::Park(ParkReason::Rejected),
        _ => retry(RetryReason::Link),
    };
    match (scope, class) {
        // A close says nothing about one message or device.
        (Scope::Connection, Class::Retry(RetryReason::Link | RetryReason::Taken, after, _)) => {
            Class::Retry(RetryReason::Connection, after, true)
        }
        (Scope::Connection, Class::Retry(reason, after, _)) => Class::Retry(reason, after, true),
        (Scope::Connection, Class::Reresolve(_) | Class::Park(_)) => {
            Class::Retry(RetryReason::Connection, None, true)
        }
        (Scope::Message | Scope::Device, class) => class,
    }
}

/// The meaning of the status in the hub's reply to a put-token.
pub(super) fn token_status(status: i64, description: &str) -> TokenClass {
    TokenClass::Failed(match status {
        200 | 202 => return TokenClass::Accepted,
        500..=599 if description.to_ascii_lowercase().contains("maximum number of tokens") => {
            return TokenClass::ConnectionFull;
        }
        400 => Class::Park(ParkReason::Rejected),
        401 | 403 => Class::Reresolve(ParkReason::Unauthorized),
        404 => Class::Reresolve(ParkReason::DeviceUnknown),
        429 => throttled(),
        // 408, 5xx and whatever else the hub may think of.
        _ => retry(RetryReason::Token),
    })
}

/// The meaning of the status in the hub's answer to a twin request; `None` is success.
pub(super) fn twin_status(status: i64) -> Option<Class> {
    Some(match status {
        200..=299 => return None,
        401 => Class::Reresolve(ParkReason::Unauthorized),
        // The links are open, so it is no matter of rights: the daily quota (403002).
        403 => Class::Retry(RetryReason::Quota, Some(AFTER_QUOTA), false),
        404 => Class::Reresolve(ParkReason::DeviceUnknown),
        408 | 504 => retry(RetryReason::Timeout),
        413 => Class::Park(ParkReason::TooLarge),
        429 => throttled(),
        400..=499 => Class::Park(ParkReason::Rejected),
        _ => retry(RetryReason::Hub),
    })
}

/// Whether an attach refused so means that the hub does not offer this kind of link, given that another link of the
/// same device is fine.
pub(super) fn not_offered(condition: &Condition) -> bool {
    match condition.symbol.as_str() {
        "amqp:not-implemented" | "amqp:not-found" | "com.microsoft:address-not-found" => true,
        "amqp:not-allowed" => !names_throttling(&condition.description),
        _ => false,
    }
}

/// The meaning of a message's outcome, with its text; `None` is accepted.
pub(super) fn outcome(outcome: &Outcome) -> Option<(Class, String)> {
    Some(match outcome {
        Outcome::Accepted(_) => return None,
        Outcome::Rejected(Rejected { error: None }) => {
            (Class::Park(ParkReason::Rejected), "rejected without a reason".to_owned())
        }
        Outcome::Rejected(Rejected { error: Some(error) }) => {
            let error = Condition::from(error);
            (condition(Scope::Message, &error), error.to_string())
        }
        Outcome::Released(_) => (retry(RetryReason::Released), "released".to_owned()),
        Outcome::Modified(modified) if modified.undeliverable_here == Some(true) => {
            (Class::Park(ParkReason::Rejected), "modified: undeliverable here".to_owned())
        }
        Outcome::Modified(_) => (retry(RetryReason::Released), "modified".to_owned()),
    })
}

/// Joins class and text to what the caller gets.
pub(super) fn error(class: Class, detail: &str, hub: &HubAddress) -> SendError {
    let detail = shortened(detail);
    match class {
        Class::Retry(reason, after, whole_hub) => {
            let trouble = if whole_hub { Trouble::Hub(hub.clone()) } else { Trouble::Device };
            SendError::Retry { reason, detail, after, trouble }
        }
        Class::Reresolve(reason) => SendError::Reresolve { reason, detail },
        Class::Park(reason) => SendError::Park { reason, detail },
    }
}

const fn retry(reason: RetryReason) -> Class {
    Class::Retry(reason, None, false)
}

const fn throttled() -> Class {
    Class::Retry(RetryReason::Throttled, Some(AFTER_THROTTLED), false)
}

fn names_throttling(description: &str) -> bool {
    let description = description.to_ascii_lowercase();
    description.contains("throttl")
        || description.contains("too many requests")
        || description.contains("429")
}

/// 400027 is a connection closed for a newer one, 409002 a link refused for another.
fn names_another_client(description: &str) -> bool {
    let text = description.to_ascii_lowercase();
    ["400027", "409002", "another amqp client", "another client"].iter().any(|name| text.contains(name))
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scope: Scope, symbol: &str, description: &str) -> Class {
        condition(scope, &Condition { symbol: symbol.to_owned(), description: description.to_owned() })
    }

    #[test]
    fn every_condition_has_its_meaning() {
        use RetryReason as R;
        let link = Class::Retry(R::Link, None, false);
        let taken = Class::Retry(R::Taken, None, false);
        let connection = Class::Retry(R::Connection, None, true);
        let throttled = Class::Retry(R::Throttled, Some(Duration::from_secs(5)), false);
        let quota = Class::Retry(R::Quota, Some(Duration::from_secs(5)), false);
        let hub_state = Class::Retry(R::Hub, Some(Duration::from_secs(60)), true);
        let park = Class::Park(ParkReason::Rejected);
        for (symbol, expected) in [
            ("com.microsoft:device-container-throttled", throttled),
            ("com.microsoft:timeout", Class::Retry(R::Timeout, None, false)),
            ("amqp:internal-error", Class::Retry(R::Hub, None, false)),
            ("amqp:link:detach-forced", link),
            ("amqp:link:stolen", taken),
            ("amqp:link:redirect", link),
            ("amqp:link:transfer-limit-exceeded", link),
            ("amqp:connection:forced", connection),
            ("amqp:connection:framing-error", connection),
            ("amqp:connection:redirect", connection),
            ("amqp:session:window-violation", link),
            ("amqp:session:errant-link", link),
            ("amqp:session:handle-in-use", link),
            ("amqp:session:unattached-handle", link),
            ("amqp:resource-locked", link),
            ("amqp:resource-deleted", link),
            ("com.microsoft:link-creation-conflict", taken),
            ("amqp:resource-limit-exceeded", quota),
            ("com.microsoft:quota-exceeded", quota),
            ("amqp:unauthorized-access", Class::Reresolve(ParkReason::Unauthorized)),
            ("amqp:not-found", Class::Reresolve(ParkReason::DeviceUnknown)),
            ("amqp:not-allowed", park),
            ("amqp:invalid-field", park),
            ("amqp:decode-error", park),
            ("amqp:not-implemented", park),
            ("amqp:precondition-failed", park),
            ("amqp:link:message-size-exceeded", Class::Park(ParkReason::TooLarge)),
            ("com.microsoft:iot-hub-suspended", hub_state),
            ("com.microsoft:iot-hub-not-found-error", hub_state),
            ("com.microsoft:message-lock-lost", Class::Retry(R::Released, None, false)),
            ("com.microsoft:argument-error", park),
            ("com.microsoft:argument-out-of-range", park),
            ("com.microsoft:precondition-failed", park),
            ("com.microsoft:device-already-exists", park),
        ] {
            assert_eq!(of(Scope::Message, symbol, ""), expected, "{symbol} in an outcome");
            assert_eq!(of(Scope::Device, symbol, ""), expected, "{symbol} in a detach");
            let Class::Retry(_, _, whole_hub) = of(Scope::Connection, symbol, "") else {
                panic!("{symbol} in a close is no verdict on a device");
            };
            assert!(whole_hub, "{symbol} in a close");
        }
        assert_eq!(of(Scope::Device, "amqp:not-allowed", "429001 ThrottlingException"), throttled);
    }

    #[test]
    fn another_client_is_recognised_by_the_text_too() {
        let taken = Class::Retry(RetryReason::Taken, None, false);
        for text in
            ["Another AMQP client has opened a receive link.", "error 409002", "errorcode:400027 Forced"]
        {
            assert_eq!(of(Scope::Device, "amqp:internal-error", text), taken, "{text}");
            assert_eq!(of(Scope::Device, "amqp:link:detach-forced", text), taken, "{text}");
        }
        let busy = "The service was unable to process the request; please retry the operation.";
        let link = Class::Retry(RetryReason::Link, None, false);
        assert_eq!(of(Scope::Device, "amqp:link:detach-forced", busy), link);
    }

    #[test]
    fn unknown_conditions_park_a_rejected_message_and_retry_a_lost_link() {
        for symbol in ["", "com.example:new"] {
            assert_eq!(of(Scope::Message, symbol, ""), Class::Park(ParkReason::Rejected));
            assert_eq!(of(Scope::Device, symbol, ""), Class::Retry(RetryReason::Link, None, false));
            assert_eq!(of(Scope::Connection, symbol, ""), Class::Retry(RetryReason::Connection, None, true));
        }
    }

    #[test]
    fn every_token_status_has_its_meaning() {
        let full = "The maximum number of tokens per connection (1000) has been reached.";
        let token = TokenClass::Failed(Class::Retry(RetryReason::Token, None, false));
        for (status, description, expected) in [
            (200, "", TokenClass::Accepted),
            (202, "", TokenClass::Accepted),
            (400, "", TokenClass::Failed(Class::Park(ParkReason::Rejected))),
            (401, "", TokenClass::Failed(Class::Reresolve(ParkReason::Unauthorized))),
            (403, "", TokenClass::Failed(Class::Reresolve(ParkReason::Unauthorized))),
            (404, "", TokenClass::Failed(Class::Reresolve(ParkReason::DeviceUnknown))),
            (408, "", token),
            (429, "", TokenClass::Failed(throttled())),
            (500, "", token),
            (500, full, TokenClass::ConnectionFull),
            (503, "", token),
            (-1, "", token),
        ] {
            assert_eq!(token_status(status, description), expected, "{status} {description}");
        }
    }

    #[test]
    fn every_twin_status_has_its_meaning() {
        assert_eq!((twin_status(200), twin_status(204)), (None, None));
        for (status, expected) in [
            (400, Class::Park(ParkReason::Rejected)),
            (401, Class::Reresolve(ParkReason::Unauthorized)),
            (403, Class::Retry(RetryReason::Quota, Some(Duration::from_secs(5)), false)),
            (404, Class::Reresolve(ParkReason::DeviceUnknown)),
            (408, Class::Retry(RetryReason::Timeout, None, false)),
            (412, Class::Park(ParkReason::Rejected)),
            (413, Class::Park(ParkReason::TooLarge)),
            (429, throttled()),
            (500, Class::Retry(RetryReason::Hub, None, false)),
            (-1, Class::Retry(RetryReason::Hub, None, false)),
        ] {
            assert_eq!(twin_status(status), Some(expected), "{status}");
        }
    }

    #[test]
    fn a_tier_without_a_way_is_told_from_throttling() {
        let of = |symbol: &str, description: &str| {
            not_offered(&Condition { symbol: symbol.to_owned(), description: description.to_owned() })
        };
        assert!(of("amqp:not-found", "") && of("amqp:not-allowed", "no") && of("amqp:not-implemented", ""));
        assert!(!of("amqp:not-allowed", "429001 throttled") && !of("amqp:unauthorized-access", ""));
    }

    #[test]
    fn details_are_short_and_on_one_line() {
        let hub = HubAddress { host: "h".into(), port: 1 };
        let text = format!("a\r\nb{}", "x".repeat(1000));
        let SendError::Park { detail, .. } = error(Class::Park(ParkReason::Rejected), &text, &hub) else {
            panic!("park stays park");
        };
        assert_eq!((detail.chars().count(), &detail[..5]), (300, "a  bx"));
    }
}
