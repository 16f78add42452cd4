//! Fuzz target: a configuration, from environment variables and a file's text.

use std::io::Write as _;

use crate::config::{Config, format_duration, format_size, parse_duration, parse_size};
use crate::model::fuzzing::{PLANTED, field, head_and_body};

/// The head holds variables, `NAME: value`, the body the file. Every problem is told with its cure, and none shows the
/// planted secret; the same configuration reads the same twice.
pub(crate) fn load(data: &[u8]) {
    let (lines, text) = head_and_body(data);
    units(lines.first().copied().unwrap_or_default());
    let variables = || {
        lines.iter().filter_map(|line| field(line)).map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text).expect("room for a small file");
    let loaded = Config::load(Some(file.path()), variables());
    match &loaded {
        Ok(config) => assert!(!planted_as_secret(text) || !format!("{config:?}").contains(PLANTED)),
        Err(problems) => {
            assert!(!problems.problems().is_empty());
            for problem in problems.problems() {
                assert!(!problem.reason.is_empty() && !problem.fix.is_empty(), "{problem:?}");
            }
            let shown = problems.to_string();
            assert!(!planted_as_secret(text) || !shown.contains(PLANTED), "{shown}");
        }
    }
    assert_eq!(loaded, Config::load(Some(file.path()), variables()));
}

/// Whether the planted word stands in the file only where a secret stands: names of keys, for one, may be shown.
fn planted_as_secret(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let mut found = false;
    for line in text.lines().filter(|line| line.contains(PLANTED)) {
        let secret = ["secrets = [\"", "api_key = \"", "group_enrollment_key = \"", "connection_string = \""];
        let Some(value) = secret.iter().find_map(|start| line.strip_prefix(start)) else { return false };
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=\"]".contains(&byte)) {
            return false;
        }
        found = true;
    }
    found
}

fn units(text: &str) {
    if let Some(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Some(duration), "{text}");
    }
    if let Some(size) = parse_size(text) {
        assert_eq!(parse_size(&format_size(size)), Some(size), "{text}");
    }
}
