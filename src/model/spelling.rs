//! How identities and times are spelt in what leaves us. Knows no message.

use jiff::Timestamp;

/// A DevEUI in The Things Stack's spelling, 16 upper-case hexadecimal digits; `None` if the text is no EUI-64.
pub fn dev_eui(text: &str) -> Option<String> {
    let valid = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| text.to_ascii_uppercase())
}

/// ISO 8601, UTC, three fraction digits, `Z`, of milliseconds since 1970. What no calendar holds reads as 1970.
pub fn iso_utc(ms: i64) -> String {
    format!("{:.3}", Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// 32 lower-case hexadecimal digits without dashes: some SDKs turn text in the shape of a UUID into another AMQP type.
pub fn hex(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}
