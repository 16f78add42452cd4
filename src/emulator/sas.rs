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
    /// case that was sent, without a `:port` behind the host.
    pub fn resource(&self) -> String {
        let mut text = self.raw_resource.clone();
        for _ in 0..3 {
            let next = decoded(&text);
            if next == text {
                break;
            }
            text = next;
        }
        let (host, path) =
            text.split_once('/').map_or((text.as_str(), None), |(host, path)| (host, Some(path)));
        let host = host.split(':').next().unwrap_or(host);
        path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
    }

    /// Checks time and signature.
    ///
    /// # Errors
    /// `Expired` beyond the time, `BadSignature` when no key fits.
    pub fn verify<'k>(
        &self,
        base64_keys: impl IntoIterator<Item = &'k str>,
        now_s: u64,
    ) -> Result<(), TokenError> {
        if self.expiry <= now_s {
            return Err(TokenError::Expired(now_s - self.expiry));
        }
        let signature = STANDARD.decode(&self.signature).map_err(|_| TokenError::BadSignature)?;
        let signed = format!("{}\n{}", self.raw_resource, self.expiry_text);
        let fits = |key: &str| {
            let key = STANDARD.decode(key).ok()?;
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
            mac.update(signed.as_bytes());
            mac.verify_slice(&signature).ok()
        };
        base64_keys.into_iter().find_map(fits).ok_or(TokenError::BadSignature)
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
