//! SASL as IoT Hub offers it. PLAIN carries a token; the other mechanisms identify nobody and leave that to `$cbs`.

use std::sync::{Arc, Mutex, PoisonError};

use fe2o3_amqp::acceptor::SaslAcceptor;
use fe2o3_amqp::acceptor::sasl_acceptor::SaslServerFrame;
use fe2o3_amqp_types::primitives::{Array, Symbol};
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit, SaslOutcome, SaslResponse};

use super::credentials::judge_plain;
use super::tokens::Grant;
use crate::emulator::Hub;

/// Longest PLAIN response that is looked at: a token and two names fit many times.
const RESPONSE_BYTES: usize = 16 * 1024;

/// The mechanisms of one connection. Clones share what PLAIN found out.
#[derive(Clone, Debug)]
pub(super) struct Sasl {
    hub: Arc<Hub>,
    plain: Arc<Mutex<Option<Grant>>>,
}

impl Sasl {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, plain: Arc::default() }
    }

    /// The token that PLAIN brought, once negotiation is over.
    pub(super) fn take_grant(&self) -> Option<Grant> {
        self.plain.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn plain(&self, response: &[u8]) -> SaslCode {
        let grant = parse_plain(response).and_then(|(user, token)| judge_plain(&self.hub, user, token).ok());
        let code = if grant.is_some() { SaslCode::Ok } else { SaslCode::Auth };
        *self.plain.lock().unwrap_or_else(PoisonError::into_inner) = grant;
        code
    }
}

impl SaslAcceptor for Sasl {
    fn mechanisms(&self) -> Array<Symbol> {
        ["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"].into_iter().map(Symbol::from).collect::<Vec<_>>().into()
    }

    fn on_init(&mut self, init: SaslInit) -> SaslServerFrame {
        let code = match init.mechanism.as_str() {
            "MSSBCBS" | "ANONYMOUS" | "EXTERNAL" => SaslCode::Ok,
            "PLAIN" => init.initial_response.map_or(SaslCode::Auth, |response| self.plain(&response)),
            _ => SaslCode::Auth,
        };
        outcome(code)
    }

    /// No mechanism here asks anything back.
    fn on_response(&mut self, _: SaslResponse) -> SaslServerFrame {
        outcome(SaslCode::Sys)
    }
}

fn outcome(code: SaslCode) -> SaslServerFrame {
    SaslServerFrame::Outcome(SaslOutcome { code, additional_data: None })
}

/// User and password of `authzid NUL user NUL password`.
fn parse_plain(response: &[u8]) -> Option<(&str, &str)> {
    if response.len() > RESPONSE_BYTES {
        return None;
    }
    let mut fields = std::str::from_utf8(response).ok()?.split('\0');
    let (_, user, password) = (fields.next()?, fields.next()?, fields.next()?);
    fields.next().is_none().then_some((user, password))
}

#[cfg(test)]
mod tests {
    use super::parse_plain;

    #[test]
    fn a_plain_response_has_three_fields() {
        assert_eq!(parse_plain(b"\0user\0pass"), Some(("user", "pass")));
        assert_eq!(parse_plain(b"other\0user\0pass"), Some(("user", "pass")));
        for wrong in [&b""[..], b"user", b"user\0pass", b"\0a\0b\0c", b"\0\xff\0b"] {
            assert_eq!(parse_plain(wrong), None);
        }
        assert_eq!(parse_plain(&[b'\0'; super::RESPONSE_BYTES + 1]), None);
    }
}
