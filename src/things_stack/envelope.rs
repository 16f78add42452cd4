//! The few fields of a message that decide what to do with it: kind, device, frame. Knows no payload.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use super::application_up;
use super::kind::Kind;
use crate::model::EndDevice;

/// What a message is and whose, read in one pass and borrowed from its body. Everything else is skipped unread.
///
/// Zero values are never written by The Things Stack, and a field mask may strip any field, so each may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope<'a> {
    /// By the key that is present in the body, never by the path it came to.
    pub kind: Kind,
    /// `end_device_ids.application_ids.application_id`.
    pub application_id: Option<Cow<'a, str>>,
    /// `end_device_ids.device_id`.
    pub device_id: Option<Cow<'a, str>>,
    /// `end_device_ids.dev_eui` as received; absent for ABP devices without one and for simulated uplinks.
    pub dev_eui: Option<Cow<'a, str>>,
    /// `uplink_message.f_port`; `None` when absent or 0, that is, when a frame carries MAC commands only.
    pub f_port: Option<u32>,
    /// `uplink_message.f_cnt`; 0 when absent, as in the first frame after a join.
    pub f_cnt: u32,
    /// `uplink_message.session_key_id` as received (base64); absent in simulated uplinks.
    pub session_key_id: Option<Cow<'a, str>>,
    /// Made in the console or through the API, not by a radio.
    pub simulated: bool,
    /// `uplink_message.received_at` as received: the network server's time.
    pub received_at: Option<Cow<'a, str>>,
}

/// The body is no message of The Things Stack. Never holds a part of it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} (line {line}, column {column})")]
pub struct EnvelopeError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in bytes; 0 right after a line break.
    pub column: usize,
    /// What is wrong, with the field's name where there is one.
    pub what: String,
}

impl EnvelopeError {
    pub(super) fn at_start(what: &str) -> Self {
        Self { line: 1, column: 1, what: what.to_owned() }
    }

    pub(super) fn not_utf8(body: &[u8], valid_up_to: usize) -> Self {
        let valid = &body[..valid_up_to];
        let line_start = valid.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Self {
            line: valid.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: valid_up_to - line_start + 1,
            what: "the body must be UTF-8".to_owned(),
        }
    }
}

impl From<serde_json::Error> for EnvelopeError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let mut what = error.to_string();
        if let Some(at) = what.rfind(" at line ") {
            what.truncate(at);
        }
        Self { line, column, what }
    }
}

impl<'a> Envelope<'a> {
    /// Reads a message's envelope.
    ///
    /// Takes what the wire format allows and a bit more: unknown keys, `null`, numbers as texts, a byte order mark;
    /// of a key that comes twice the later one counts. Nesting in fields that are not ours may be of any depth.
    ///
    /// # Errors
    /// The body is not one UTF-8 JSON object, or one of the fields above has the wrong type.
    pub fn parse(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        application_up::read::<()>(body).map(|(envelope, ())| envelope)
    }

    /// What tells a message posted again from a new one: the same for the same uplink, whatever the retry.
    ///
    /// An uplink is its device, session and frame counter. What has no such identity is told apart by its whole
    /// body: simulated uplinks (no session of their own; one copied from a real uplink must not hide it),
    /// uplinks without a `session_key_id`, and the other kinds, of which several belong to one frame.
    pub fn dedup_key(&self, device: &EndDevice, body: &[u8]) -> [u8; 16] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.kind.as_str().as_bytes());
        part(device.key().as_bytes());
        match &self.session_key_id {
            Some(session) if !self.simulated => {
                part(b"frame");
                part(session.as_bytes());
                part(&self.f_cnt.to_le_bytes());
            }
            Some(_) | None => {
                part(b"body");
                part(body);
            }
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Envelope<'_>, EnvelopeError> {
        Envelope::parse(body.as_bytes())
    }

    #[test]
    fn reads_an_uplink_whatever_surrounds_its_fields() {
        let body = r#"{"end_device_ids":{"device_id":"cellar","application_ids":{"application_id":"house"},
            "dev_eui":"70B3D57ED0A1B2C3","new":{}},"correlation_ids":["a"],"uplink_message":{"f_port":2,
            "f_cnt":"17","session_key_id":"AYh\/","frm_payload":"AQ==","rx_metadata":[{"x":[1e999]}]},"later":[]}"#;
        let envelope = parse(body).expect("valid");
        assert_eq!(
            envelope,
            Envelope {
                kind: Kind::UplinkMessage,
                application_id: Some("house".into()),
                device_id: Some("cellar".into()),
                dev_eui: Some("70B3D57ED0A1B2C3".into()),
                f_port: Some(2),
                f_cnt: 17,
                session_key_id: Some("AYh/".into()),
                simulated: false,
                received_at: None,
            }
        );
        assert!(matches!(envelope.device_id, Some(Cow::Borrowed(_))));
    }

    #[test]
    fn takes_absent_null_and_zero_alike() {
        for body in [
            r#"{"uplink_message":{}}"#,
            r#"{"uplink_message":{"f_port":null,"f_cnt":null,"session_key_id":null},"simulated":null,"end_device_ids":null}"#,
            r#"{"uplink_message":{"f_port":0,"f_cnt":0,"session_key_id":""},"simulated":false,"join_accept":null,
                "end_device_ids":{"device_id":"","application_ids":null}}"#,
        ] {
            let expected = Envelope { kind: Kind::UplinkMessage, ..Envelope::default() };
            assert_eq!(parse(body).expect("valid"), expected, "{body}");
        }
    }

    #[test]
    fn of_a_repeated_key_the_later_counts() {
        let envelope = parse(r#"{"uplink_message":{"f_port":1,"f_port":9},"uplink_message":{"f_cnt":4.0}}"#);
        let envelope = envelope.expect("valid");
        assert_eq!((envelope.f_port, envelope.f_cnt), (Some(9), 4));
    }

    #[test]
    fn names_kinds_by_the_key_present() {
        for kind in Kind::ALL {
            assert_eq!(parse(&format!("{{\"{kind}\":{{}}}}")).expect("valid").kind, kind);
        }
        assert_eq!(parse(r#"{"join_accept":null}"#).expect("valid").kind, Kind::Unknown);
        assert_eq!(
            parse(r#"{"join_accept":{},"uplink_message":{}}"#).expect("valid").kind,
            Kind::UplinkMessage
        );
        assert_eq!(
            parse(r#"{"uplink_message":{},"join_accept":{}}"#).expect("valid").kind,
            Kind::UplinkMessage
        );
    }

    #[test]
    fn says_what_is_wrong_and_where_but_quotes_nothing() {
        for (body, line, what) in [
            ("", 1, "EOF while parsing a value"),
            ("null", 1, "the body must be a JSON object, not null"),
            ("[1]", 1, "the body must be a JSON object"),
            ("\"hush\"", 1, "the body must be a JSON object"),
            ("{}\n{}", 2, "trailing characters"),
            ("{\n\"a\": 1\n\"b\": 2}", 3, "expected `,` or `}`"),
            ("{\"uplink_message\":\"hush\"}", 1, "uplink_message must be a JSON object"),
            ("{\"simulated\":\"hush\"}", 1, "simulated must be true or false"),
            (
                "{\"end_device_ids\":{\n\"device_id\":[\"hush\"]}}",
                2,
                "end_device_ids.device_id must be a text",
            ),
            (
                "{\"uplink_message\":{\"f_cnt\":-1}}",
                1,
                "uplink_message.f_cnt must be a whole number from 0 to 4294967295",
            ),
            (
                "{\"uplink_message\":{\"f_port\":\"hush\"}}",
                1,
                "uplink_message.f_port must be a whole number from 0 to 4294967295",
            ),
        ] {
            let error = parse(body).expect_err(body);
            assert_eq!((error.line, error.what.as_str()), (line, what), "{body}");
        }
        let error = Envelope::parse(b"{\n \"a\":\"\xff\"}").expect_err("not UTF-8");
        assert_eq!((error.line, error.column), (2, 7));
    }

    #[test]
    fn ten_thousand_levels_are_skipped_without_a_stack() {
        let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let objects = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        for deep in [nested, objects] {
            let body = format!(
                r#"{{"x":{deep},"join_accept":{deep},"uplink_message":{{"decoded_payload":{deep},"f_port":3}}}}"#
            );
            assert_eq!(parse(&body).expect("valid").f_port, Some(3));
            let error =
                parse(&format!(r#"{{"uplink_message":{{"f_port":{deep}}}}}"#)).expect_err("no number");
            assert!(error.what.starts_with("uplink_message.f_port"), "{error}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_error() {
        assert_eq!(parse("\u{feff}{\"service_data\":{}}").expect("valid").kind, Kind::ServiceData);
    }

    #[test]
    fn the_dedup_key_knows_frames_by_session_and_counter() {
        let key = |tenant: &str, body: &str| {
            let device = EndDevice::new(tenant, "house", "cellar").expect("valid");
            parse(body).expect("valid").dedup_key(&device, body.as_bytes())
        };
        let first = key("", r#"{"uplink_message":{"session_key_id":"AQ==","f_port":1}}"#);
        let again =
            key("", r#"{"uplink_message":{"f_cnt":0,"session_key_id":"AQ=="},"correlation_ids":["b"]}"#);
        assert_eq!(first, again);
        for other in [
            r#"{"uplink_message":{"session_key_id":"AQ==","f_cnt":1}}"#,
            r#"{"uplink_message":{"session_key_id":"Ag==","f_port":1}}"#,
            r#"{"uplink_message":{"session_key_id":"AQ==","f_port":1},"simulated":true}"#,
            r#"{"uplink_message":{"f_port":1}}"#,
        ] {
            assert_ne!(key("", other), first, "{other}");
        }
        assert_ne!(key("eu1", r#"{"uplink_message":{"session_key_id":"AQ==","f_port":1}}"#), first);
        let simulated = |payload: &str| {
            key("", &format!(r#"{{"uplink_message":{{"frm_payload":"{payload}"}},"simulated":true}}"#))
        };
        assert_eq!(simulated("AQ=="), simulated("AQ=="));
        assert_ne!(simulated("AQ=="), simulated("Ag=="));
    }
}
