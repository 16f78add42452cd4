//! Payload bytes out of text: hexadecimal and base64 in the spellings people use.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Invalid;
use crate::things_stack::MAX_PAYLOAD_BYTES;

const HEX: &str = "an even number of hexadecimal digits; spaces, colons and 0x are allowed between bytes";
const BASE64: &str = "base64, standard or URL-safe, with or without padding";

const DECODER: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads hexadecimal text: `0a0b`, `0A 0B`, `0a:0b`, `0x0a0b`, `0x0a 0x0b`.
pub(super) fn from_hex(field: &str, text: &str) -> Result<Vec<u8>, Invalid> {
    let mut bytes = Vec::new();
    for group in text.split(|c: char| c == ':' || c.is_ascii_whitespace()) {
        let digits = group.strip_prefix("0x").or_else(|| group.strip_prefix("0X")).unwrap_or(group);
        if digits.is_empty() && !group.is_empty() {
            return Err(Invalid::payload(field, "has 0x without digits", HEX));
        }
        if let Some(at) = digits.bytes().position(|digit| !digit.is_ascii_hexdigit()) {
            let at = digits.get(..at).map_or(at, |before| before.chars().count());
            return Err(Invalid::payload(
                field,
                format!("is no hexadecimal (digit {} of a group)", at + 1),
                HEX,
            ));
        }
        if digits.len() % 2 != 0 {
            return Err(Invalid::payload(field, "has an odd number of hexadecimal digits", HEX));
        }
        for pair in digits.as_bytes().chunks_exact(2) {
            bytes.push(nibble(pair[0]) << 4 | nibble(pair[1]));
        }
    }
    checked(field, bytes)
}

/// Reads base64 text; white space in it does not count.
pub(super) fn from_base64(field: &str, text: &str) -> Result<Vec<u8>, Invalid> {
    let standard: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    let bytes = DECODER.decode(standard).map_err(|_| Invalid::payload(field, "is no base64", BASE64))?;
    checked(field, bytes)
}

/// Refuses what is longer than a downlink.
pub(super) fn checked(field: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Invalid> {
    match bytes.len() {
        0..=MAX_PAYLOAD_BYTES => Ok(bytes),
        bytes => Err(Invalid::TooLong { field: field.to_owned(), bytes }),
    }
}

/// The value of a digit that was checked to be one.
const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_in_every_usual_spelling() {
        for text in ["0a0bFF", "0A 0b ff", "0a:0B:FF", "0x0a0bff", "0x0a 0x0B 0Xff", " 0a0b\nff "] {
            assert_eq!(from_hex("body", text), Ok(vec![0x0a, 0x0b, 0xff]), "{text}");
        }
        assert_eq!(from_hex("body", ""), Ok(vec![]));
        for text in ["0", "0a0", "0a b", "0x", "zz", "0a-0b", "é0"] {
            assert!(from_hex("body", text).is_err(), "{text}");
        }
    }

    #[test]
    fn base64_of_either_alphabet_padded_or_not() {
        for text in ["+/8=", "-_8=", "+/8", "-_8", " +/\r\n8= "] {
            assert_eq!(from_base64("body", text), Ok(vec![0xfb, 0xff]), "{text}");
        }
        for text in ["a", "ab*d", "====", "{}"] {
            assert!(from_base64("body", text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_more_bytes_than_a_downlink_holds() {
        assert!(from_hex("body", &"00".repeat(255)).is_ok());
        let error = from_hex("body", &"00".repeat(256)).expect_err("too long").to_string();
        assert_eq!(error, "body has 256 bytes: it must have at most 255");
    }
}
