//! Fuzz target: bodies that queue downlinks.

use super::request;

/// How many downlinks the Application Server takes of a body. What it shows of them, it takes and shows again.
///
/// # Errors
/// Why it refuses, in words.
pub(crate) fn downlinks(body: &[u8], now_ms: i64) -> Result<usize, String> {
    let read = request::downlinks(body, now_ms).map_err(|refusal| format!("{refusal:?}"))?;
    let shown = |read: &[_]| serde_json::json!({ "downlinks": read }).to_string();
    let again =
        request::downlinks(shown(&read).as_bytes(), now_ms).map_err(|refusal| format!("{refusal:?}"))?;
    assert_eq!(shown(&again), shown(&read));
    Ok(read.len())
}
