//! Whether a request shows one of the configured secrets. Knows no route.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use warp::http::HeaderMap;
use warp::http::header::AUTHORIZATION;

use crate::model::Secret;

const X_API_KEY: &str = "x-api-key";
/// Clients differ in whether they pad the Basic credentials.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The accepted secrets, as hashes: equal in length, so that a comparison tells nothing about theirs.
#[derive(Debug)]
pub(super) struct Secrets(Vec<[u8; 32]>);

impl Secrets {
    /// No secrets: every request passes. The configuration allows that on loopback only.
    pub(super) fn new(secrets: &[Secret]) -> Self {
        Self(secrets.iter().map(|secret| hash(secret.reveal().as_bytes())).collect())
    }

    /// Whether a Bearer token, a Basic password or an `x-api-key` is one of the secrets.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let mut known = Choice::from(0);
        for value in headers.get_all(AUTHORIZATION) {
            match scheme(value.as_bytes()) {
                Some((Scheme::Bearer, token)) => known |= self.knows(token),
                Some((Scheme::Basic, credentials)) => {
                    if let Ok(decoded) = BASE64.decode(credentials)
                        && let Some(colon) = decoded.iter().position(|byte| *byte == b':')
                    {
                        known |= self.knows(&decoded[colon + 1..]);
                    }
                }
                None => {}
            }
        }
        for value in headers.get_all(X_API_KEY) {
            known |= self.knows(value.as_bytes().trim_ascii());
        }
        known.into()
    }

    /// Compares with each secret, also after a hit. An empty text is never known.
    fn knows(&self, shown: &[u8]) -> Choice {
        let shown_hash = hash(shown);
        let hit = self.0.iter().fold(Choice::from(0), |hit, secret| hit | secret.ct_eq(&shown_hash));
        hit & Choice::from(u8::from(!shown.is_empty()))
    }
}

enum Scheme {
    Bearer,
    Basic,
}

fn scheme(value: &[u8]) -> Option<(Scheme, &[u8])> {
    let value = value.trim_ascii();
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (name, rest) = value.split_at(space);
    let scheme = if name.eq_ignore_ascii_case(b"Bearer") {
        Scheme::Bearer
    } else if name.eq_ignore_ascii_case(b"Basic") {
        Scheme::Basic
    } else {
        return None;
    };
    Some((scheme, rest.trim_ascii()))
}

fn hash(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use warp::http::{HeaderName, HeaderValue};

    use super::*;

    fn admits(secrets: &[&str], headers: &[(&str, &str)]) -> bool {
        let secrets: Vec<_> = secrets.iter().copied().map(Secret::new).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).expect("name"),
                HeaderValue::from_str(value).expect("value"),
            );
        }
        Secrets::new(&secrets).admit(&map)
    }

    #[test]
    fn takes_each_secret_in_each_form() {
        // printf 'anyone:new:er' | base64, without and with padding.
        for header in [
            ("authorization", "Bearer old"),
            ("authorization", "bearer   new:er "),
            ("authorization", "Basic YW55b25lOm5ldzplcg"),
            ("authorization", "basic YW55b25lOm5ldzplcg=="),
            ("x-api-key", "old"),
        ] {
            assert!(admits(&["old", "new:er"], &[header]), "{header:?}");
            assert!(!admits(&["other"], &[header]), "{header:?}");
        }
        assert!(admits(&["old"], &[("authorization", "Bearer wrong"), ("x-api-key", "old")]));
        assert!(admits(&[], &[]));
    }

    #[test]
    fn refuses_what_only_looks_like_a_secret() {
        for headers in [
            vec![],
            vec![("authorization", "old")],
            vec![("authorization", "Bearer")],
            vec![("authorization", "Bearer ")],
            vec![("authorization", "Digest old")],
            vec![("authorization", "Basic b2xk")],
            vec![("authorization", "Basic !!")],
            vec![("authorization", "Bearer old old")],
            vec![("x-api-key", "")],
            vec![("x-api-key", "OLD")],
        ] {
            assert!(!admits(&["old"], &headers), "{headers:?}");
        }
        assert!(!admits(&[""], &[("x-api-key", "")]), "an empty secret admits nobody");
    }
}
