//! A request's body, capped while it arrives and while it is inflated. Knows no message.

use std::io::Read as _;
use std::pin::pin;

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _};
use warp::http::HeaderMap;
use warp::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};

use super::refusal::Refusal;

/// Room made for a body before any of it has come, at most: a promise of a large one costs us nothing.
const MAX_PROMISED_BYTES: u64 = 64 * 1024;
/// A compressed JSON text grows to about this many times its size.
const USUAL_GROWTH: usize = 6;
/// As much of a client's header value as a refusal repeats.
const MAX_QUOTED_CHARS: usize = 60;

/// What the headers say about the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    gzip: bool,
    length: Option<u64>,
}

impl Announced {
    /// Reads the headers.
    ///
    /// # Errors
    /// A body that is not JSON, is encoded in a way we can't undo, or is longer than `limit` bytes.
    pub(super) fn read(headers: &HeaderMap, limit: u64) -> Result<Self, Refusal> {
        if let Some(media_type) = text(headers, CONTENT_TYPE)
            && !is_json(&media_type)
        {
            return Err(Refusal::MediaType(quoted(&media_type)));
        }
        let mut gzip = false;
        if let Some(encoding) = text(headers, CONTENT_ENCODING) {
            gzip = match encoding.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => true,
                "identity" | "" => false,
                _ => return Err(Refusal::Encoding(quoted(&encoding))),
            };
        }
        // What is no number never comes this far: hyper has refused it.
        let length = text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(Refusal::TooLong { limit });
        }
        Ok(Self { gzip, length })
    }

    /// Collects the body, and inflates it if it is compressed. The result holds one block of memory of its own size.
    ///
    /// # Errors
    /// It is longer than `limit` bytes before or after inflation, breaks off, or is not gzip though it says so.
    pub(super) async fn collect(
        self,
        body: impl Stream<Item = Result<impl Buf, warp::Error>>,
        limit: u64,
    ) -> Result<Bytes, Refusal> {
        let promised = self.length.unwrap_or_default().min(MAX_PROMISED_BYTES);
        let mut collected = Vec::with_capacity(usize::try_from(promised).unwrap_or_default());
        let mut body = pin!(body);
        while let Some(part) = body.next().await {
            let mut part = part.map_err(|_| Refusal::BrokenOff)?;
            if (collected.len() as u64).saturating_add(part.remaining() as u64) > limit {
                return Err(Refusal::TooLong { limit });
            }
            while part.has_remaining() {
                let chunk = part.chunk();
                collected.extend_from_slice(chunk);
                let taken = chunk.len();
                part.advance(taken);
            }
        }
        if self.gzip {
            collected = inflate(&collected, limit)?;
        }
        collected.shrink_to_fit();
        Ok(collected.into())
    }
}

fn inflate(compressed: &[u8], limit: u64) -> Result<Vec<u8>, Refusal> {
    let expected = compressed.len().saturating_mul(USUAL_GROWTH) as u64;
    let mut inflated = Vec::with_capacity(usize::try_from(expected.min(limit)).unwrap_or_default());
    MultiGzDecoder::new(compressed)
        .take(limit.saturating_add(1))
        .read_to_end(&mut inflated)
        .map_err(|_| Refusal::NotGzip)?;
    if inflated.len() as u64 > limit {
        return Err(Refusal::TooLong { limit });
    }
    Ok(inflated)
}

/// `application/json`, or any type with the suffix `+json`; parameters don't matter.
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || essence.split_once('/').is_some_and(|(_, subtype)| subtype.len() > 5 && subtype.ends_with("+json"))
}

/// A header's values as one text, joined as HTTP says. `None` if absent.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut joined = values.next()?.into_owned();
    for value in values {
        joined.push_str(", ");
        joined.push_str(&value);
    }
    Some(joined)
}

fn quoted(value: &str) -> String {
    value.chars().take(MAX_QUOTED_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_json_by_its_media_type() {
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/vnd.x+json",
            "application/ld+json;a=b",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in ["", "text/plain", "application/octet-stream", "application/jsonl", "x/+json", "+json"] {
            assert!(!is_json(other), "{other}");
        }
    }

    #[test]
    fn inflation_stops_at_the_limit() {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b' '; 10_000_000]).expect("to memory");
        let bomb = gzip.finish().expect("to memory");
        assert!(bomb.len() < 20_000);
        assert!(matches!(inflate(&bomb, 100_000), Err(Refusal::TooLong { limit: 100_000 })));
        assert_eq!(inflate(&bomb, 10_000_000).expect("fits").len(), 10_000_000);
        assert!(matches!(inflate(&bomb[..bomb.len() / 2], 10_000_000), Err(Refusal::NotGzip)));
        assert!(matches!(inflate(b"{}", 100), Err(Refusal::NotGzip)));
    }
}
