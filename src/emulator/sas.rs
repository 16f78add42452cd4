//! Verifies SAS tokens, as IoT Hub and DPS do: over the raw `sr` text, with either of two keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::percent_decode_str;
use sha2::Sha256;

/// A token taken apart. The order of its fields is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    raw_resource: String,
    signature: String,
    expiry_text: String,
    /// Seconds since 1970 UTC.
    pub expiry: u64,
    /// The policy's name (`skn`), if the token names one.
    pub policy: Option<String>,
}

/// Why a token does not open the door. The text is what the peer is told.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not of the form `SharedAccessSignature sr=…&sig=…&se=…`.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Its time is over.
    #[error("the token expired {0} s ago")]
    Expired(u64),
    /// Signed with a key that is neither the primary nor the secondary one.
    #[error("the signature matches neither the primary nor the secondary key")]
    BadSignature,
}

impl Token {
    /// Takes a token apart without judging it.
    ///
    /// # Errors
    /// `Malformed` names what is missing.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let fields = text
            .trim()
            .strip_prefix("SharedAccessSignature ")
            .ok_or(TokenError::Malformed("no SharedAccessSignature prefix"))?;
        let field = |name: &str| {
            fields
                .split('&')
                .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
        };
        let expiry_text = field("se").ok_or(TokenError::Malformed("no se"))?;
        Ok(Self {
            raw_resource: field("sr").ok_or(TokenError::Malformed("no sr"))?.to_owned(),
            signature: decoded(field("sig").ok_or(TokenError::Malformed("no sig"))?),
            expiry: expiry_text.parse().map_err(|_| TokenError::Malformed("se is no number of seconds"))?,
            expiry_text: expiry_text.to_owned(),
            policy: field("skn").filter(|name| !name.is_empty()).map(decoded),
        })
    }

    /// The resource it is for, percent-decoded until nothing changes (C# encodes twice, Node not at all), in the
    /// case that was sent, without a `scheme://` before and a `:port` behind the host.
    pub fn resource(&self) -> String {
        self.readings().pop().unwrap_or_default()
    }

    /// What the resource may mean: as sent, then decoded once, twice and three times as long as that changes it. An id
    /// with a percent sign is found only among these. Never empty.
    pub(super) fn readings(&self) -> Vec<String> {
        let mut text = self.raw_resource.clone();
        let mut readings = vec![without_scheme_and_port(&text)];
        for _ in 0..3 {
            let next = decoded(&text);
            if next == text {
                break;
            }
            readings.push(without_scheme_and_port(&next));
            text = next;
        }
        readings
    }

    /// Checks time and signature, as IoT Hub does: a key is what its base64 stands for.
    ///
    /// # Errors
    /// `Expired` beyond the time, `BadSignature` when no key fits.
    pub fn verify<'k>(
        &self,
        base64_keys: impl IntoIterator<Item = &'k str>,
        now_s: u64,
    ) -> Result<(), TokenError> {
        self.verify_bytes(base64_keys.into_iter().filter_map(|key| STANDARD.decode(key).ok()), now_s)
    }

    /// Checks time and signature, as Event Hubs does: a key is its own text, undecoded.
    ///
    /// # Errors
    /// As [`Token::verify`].
    pub fn verify_text(&self, key: &str, now_s: u64) -> Result<(), TokenError> {
        self.verify_bytes([key.as_bytes().to_vec()], now_s)
    }

    fn verify_bytes(&self, keys: impl IntoIterator<Item = Vec<u8>>, now_s: u64) -> Result<(), TokenError> {
        if self.expiry <= now_s {
            return Err(TokenError::Expired(now_s - self.expiry));
        }
        let signature = STANDARD.decode(&self.signature).map_err(|_| TokenError::BadSignature)?;
        let signed = format!("{}\n{}", self.raw_resource, self.expiry_text);
        let fits = |key: Vec<u8>| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
            mac.update(signed.as_bytes());
            mac.verify_slice(&signature).ok()
        };
        keys.into_iter().find_map(fits).ok_or(TokenError::BadSignature)
    }
}

fn without_scheme_and_port(text: &str) -> String {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (host, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
    let host = host.split(':').next().unwrap_or(host);
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Token, TokenError};

    fn token(resource: &str) -> Token {
        Token::parse(&format!("SharedAccessSignature sr={resource}&sig=c2ln&se=1700000000")).unwrap()
    }

    #[test]
    fn the_resource_is_read_in_every_spelling_that_clients_use() {
        for text in [
            "hub.example/devices/a",
            "hub.example%2Fdevices%2Fa",
            "hub.example%252Fdevices%252Fa",
            "hub.example%3A5671%2Fdevices%2Fa",
            "amqps%3A%2F%2Fhub.example%3A5671%2Fdevices%2Fa",
            "sb://hub.example:5672/devices/a",
        ] {
            assert_eq!(token(text).resource(), "hub.example/devices/a", "{text}");
        }
        assert_eq!(token("localhost%3A5671").resource(), "localhost");
    }

    #[test]
    fn fields_may_come_in_any_order_and_must_all_be_there() {
        let parsed = Token::parse("SharedAccessSignature skn=device&se=17&sig=a%2Bb%3D&sr=h").unwrap();
        assert_eq!((parsed.expiry, parsed.policy.as_deref()), (17, Some("device")));
        for text in
            ["", "Bearer x", "SharedAccessSignature sr=h&sig=s", "SharedAccessSignature sr=h&sig=s&se=soon"]
        {
            assert!(matches!(Token::parse(text), Err(TokenError::Malformed(_))), "{text}");
        }
    }

    /// Signed with another implementation: `openssl dgst -sha256 -mac HMAC` over `hub.example%2Fdevices%2Fa\n1700000000`.
    #[test]
    fn a_signature_made_elsewhere_verifies_until_its_time_is_over() {
        let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let text = "SharedAccessSignature sr=hub.example%2Fdevices%2Fa&sig=vvtLGyaa3NmgZtwN8g7FU7F%2FN3YQhQcUjBv7mD1ExzQ%3D&se=1700000000";
        let token = Token::parse(text).unwrap();
        assert_eq!(token.verify(["b3RoZXI=", key], 1_699_999_999), Ok(()));
        assert_eq!(token.verify([key], 1_700_000_000), Err(TokenError::Expired(0)));
        assert_eq!(token.verify(["b3RoZXI="], 1), Err(TokenError::BadSignature));
    }
}
