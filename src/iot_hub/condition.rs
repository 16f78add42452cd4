//! An AMQP error as the peer sent it: condition and description. Knows no meaning; that is `classify`'s.

use fe2o3_amqp_types::definitions::{self, ErrorCondition};
use fe2o3_amqp_types::primitives::Symbol;

/// An AMQP error as the peer sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// The symbol, empty when there was none.
    pub(super) symbol: String,
    /// The text beside it.
    pub(super) description: String,
}

impl From<&definitions::Error> for Condition {
    fn from(error: &definitions::Error) -> Self {
        let symbol = match &error.condition {
            ErrorCondition::AmqpError(error) => Symbol::from(error),
            ErrorCondition::ConnectionError(error) => Symbol::from(error),
            ErrorCondition::SessionError(error) => Symbol::from(error),
            ErrorCondition::LinkError(error) => Symbol::from(error),
            ErrorCondition::Custom(symbol) => symbol.clone(),
        };
        Self { symbol: symbol.0, description: error.description.clone().unwrap_or_default() }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.symbol.is_empty(), self.description.is_empty()) {
            (true, true) => f.write_str("no condition given"),
            (true, false) => f.write_str(&self.description),
            (false, true) => f.write_str(&self.symbol),
            (false, false) => write!(f, "{}: {}", self.symbol, self.description),
        }
    }
}
