//! Fuzz target: bodies that queue downlinks.

use super::request;

/// How many downlinks the Application Server takes of a body. What it takes, it takes again as it shows it.
///
/// # Errors
/// Why it refuses, in words.
pub(crate) fn downlinks(body: &[u8], now_ms: i64) -> Result<usize, String> {
    let read = request::downlinks(body, now_ms).map_err(|refusal| format!("{refusal:?}"))?;
    let shown = serde_json::json!({ "downlinks": read }).to_string();
    let again = request::downlinks(shown.as_bytes(), now_ms).map_err(|refusal| format!("{refusal:?}"))?;
    assert_eq!(again, read);
    Ok(read.len())
}
