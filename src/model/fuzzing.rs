//! What fuzz targets share: how an input is cut into lines and a body, and the word that must never be shown.
//!
//! Knows no parser.

/// Stands for a secret in the corpora. No error, log or answer may repeat it.
pub(crate) const PLANTED: &str = "c2VjcmV0";

/// The lines before the first empty line, those that are UTF-8, and all behind it, as in an HTTP message.
pub(crate) fn head_and_body(data: &[u8]) -> (Vec<&str>, &[u8]) {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((data, &[][..]), |end| (&data[..end], &data[end + 2..]));
    (head.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).collect(), body)
}

/// A line's name and value, `name: value`.
pub(crate) fn field(line: &str) -> Option<(&str, &str)> {
    line.split_once(':').map(|(name, value)| (name.trim(), value.trim()))
}

/// For people: one or two lines, without the planted word.
pub(crate) fn fit_to_show(text: &str, most_chars: usize) {
    assert!(!text.contains(PLANTED), "shows a secret: {text}");
    assert!(text.chars().count() <= most_chars, "{} characters: {text}", text.chars().count());
}

/// Exactly one JSON value, nested as deep as it likes.
pub(crate) fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}
