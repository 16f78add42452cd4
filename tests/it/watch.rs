//! Reads every log line of this test process, and of the connectors it starts, for keys and tokens. One in a log is a
//! failure of the whole suite, and ends it.

use std::io::{BufRead as _, BufReader, PipeReader, Write};
use std::process::Stdio;
use std::sync::Once;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tracing_subscriber::EnvFilter;

/// Keys of hubs, devices and enrollment groups are 32 or 64 bytes in base64.
const KEY_BYTES: [usize; 2] = [32, 64];
/// Begins an API key of The Things Stack, and what tests plant as passwords, secrets and payloads.
const PLANTED: [&str; 3] = ["NNSXS.", "hush", "planted"];

/// Every event of this process at level trace is read from now on. Cheap when called again.
pub(crate) fn logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("trace"))
            .with_ansi(false)
            .with_writer(|| Line(Vec::new()))
            .finish();
        // A test that has set its own reads it itself.
        _ = tracing::subscriber::set_global_default(subscriber);
    });
}

/// Standard error for a process of the connector: read here, then shown as if it were inherited.
pub(crate) fn stderr() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    std::thread::spawn(move || read(reader));
    writer.into()
}

fn read(reader: PipeReader) {
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        check(&line);
        eprintln!("{line}");
    }
}

/// One event, whole.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        check(&String::from_utf8_lossy(&self.0));
    }
}

fn check(line: &str) {
    if let Some(secret) = secret_in(line) {
        eprintln!("a secret was logged, {secret:?} in: {line}");
        std::process::exit(101);
    }
}

/// The first thing in a text that is, or looks like, a secret.
pub(crate) fn secret_in(text: &str) -> Option<&str> {
    let signature =
        text.split_once("sig=").map(|(_, signature)| word(signature)).filter(|word| word.len() > 9);
    let planted = PLANTED.iter().find_map(|planted| text.find(planted).map(|at| word(&text[at..])));
    signature.or(planted).or_else(|| text.split(|c| !of_base64(c)).find(|word| is_key(word)))
}

fn word(text: &str) -> &str {
    text.split(char::is_whitespace).next().unwrap_or_default()
}

fn of_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

fn is_key(word: &str) -> bool {
    // `name=key` is one word.
    let word = word.trim_start_matches('=');
    let key = word.trim_end_matches('=').rsplit_once('=').map_or(word, |(name, _)| &word[name.len() + 1..]);
    BASE64_STANDARD.decode(key).is_ok_and(|bytes| KEY_BYTES.contains(&bytes.len()) && key.ends_with('='))
}

#[test]
fn secrets_are_found_in_a_line_and_other_words_are_none() {
    let key = BASE64_STANDARD.encode([7; 32]);
    let long = BASE64_STANDARD.encode([7; 64]);
    for line in [
        format!("a device key={key} was refused"),
        format!("HostName=h;SharedAccessKey={key};DeviceId=d"),
        format!("{{\"key\":\"{long}\"}}"),
        "SharedAccessSignature sr=h&sig=abc%2Bdefghijk&se=1".to_owned(),
        "Bearer NNSXS.ABC.DEF".to_owned(),
        "the secret hush-1".to_owned(),
    ] {
        assert!(secret_in(&line).is_some(), "{line}");
    }
    let etag = BASE64_STANDARD.encode([7; 16]);
    let id = "tti-connector:0123456789abcdef0123456789abcdef";
    for line in [format!("etag={etag} entry={id}"), "device=a hub=localhost sig=".to_owned(), String::new()] {
        assert_eq!(secret_in(&line), None, "{line}");
    }
}
