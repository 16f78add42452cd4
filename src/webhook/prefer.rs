//! The wish `Prefer: wait=N` (RFC 7240): how long a client would wait for the hub. Knows no message.

use std::time::Duration;

use warp::http::HeaderMap;

const PREFER: &str = "prefer";

/// The wished wait, in whole seconds and at most `max`. `None` without a wish, and for one that is no number or 0.
///
/// Of several wishes the first counts, over all header lines, as RFC 7240 says.
pub(super) fn wait(headers: &HeaderMap, max: Duration) -> Option<Duration> {
    let wish = headers
        .get_all(PREFER)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| split_unquoted(line, ','))
        .filter_map(|preference| split_unquoted(preference, ';').next())
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .map(|(_, value)| value.trim())?;
    let digits = wish.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(wish);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Only too large a number fails now.
    let seconds = digits.parse().unwrap_or(u64::MAX).min(max.as_secs());
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Splits at a character that stands outside of quoted strings.
fn split_unquoted(text: &str, at: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let splits = c == at && !quoted;
        if escaped {
            escaped = false;
        } else if c == '"' {
            quoted = !quoted;
        } else if c == '\\' && quoted {
            escaped = true;
        }
        splits
    })
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderValue;

    use super::*;

    fn seconds(lines: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("Prefer", HeaderValue::from_str(line).expect("value"));
        }
        wait(&headers, Duration::from_secs(30)).map(|wait| wait.as_secs())
    }

    #[test]
    fn reads_the_forms_of_rfc_7240() {
        for (lines, expected) in [
            (vec!["wait=5"], Some(5)),
            (vec!["Wait = \"7\""], Some(7)),
            (vec!["respond-async, wait=5"], Some(5)),
            (vec!["respond-async", "handling=lenient", "WAIT=6"], Some(6)),
            (vec!["foo=\"a, wait=3\"; bar, wait=4; strict"], Some(4)),
            (vec!["foo=\"a\\\", wait=3\", wait=8"], Some(8)),
            (vec!["wait=5, wait=9"], Some(5)),
            (vec!["wait=3600"], Some(30)),
            (vec!["wait=99999999999999999999999"], Some(30)),
        ] {
            assert_eq!(seconds(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn ignores_what_is_no_wish_to_wait() {
        for lines in [
            vec![],
            vec!["respond-async"],
            vec!["wait"],
            vec!["wait="],
            vec!["wait=-1"],
            vec!["wait=+1"],
            vec!["wait=1.5"],
            vec!["wait=0"],
            vec!["await=5"],
            vec!["wait=soon, wait=5"],
            vec!["foo;wait=5"],
            vec!["foo=\"wait=5"],
        ] {
            assert_eq!(seconds(&lines), None, "{lines:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("prefer", HeaderValue::from_static("wait=5"));
        assert_eq!(wait(&headers, Duration::ZERO), None);
    }
}
