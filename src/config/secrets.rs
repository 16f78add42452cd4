//! Secrets, given in place or as a file (`<key>_file`), never both.
//!
//! Knows no key by name. No text of a secret leaves this file but as a [`Secret`].

use std::path::Path;

use super::problems::Fault;
use super::table::Table;
use super::{files, forms, parse};
use crate::model::Secret;

/// A connection string or a key has some 200 bytes; a few rotating webhook secrets less than that.
const MAX_SECRET_FILE_BYTES: u64 = 64 * 1024;

/// Two live during a rotation; every one is compared with every request.
const MAX_WEBHOOK_SECRETS: usize = 16;

impl Table<'_, '_> {
    /// One secret under `key` or the file under `key_file`. `check` judges its form and must not repeat it.
    pub(super) fn secret(
        &mut self,
        key: &'static str,
        key_file: &'static str,
        check: impl Fn(&str) -> Result<(), Fault>,
    ) -> Option<Secret> {
        let given = self.optional(key, |input| {
            let text = parse::text(input)?;
            check(&text).map(|()| Secret::new(text))
        });
        let from_file = self.optional(key_file, |input| {
            let path = parse::path(input)?;
            let text = read(&path)?;
            let text = text.trim();
            if text.is_empty() {
                return Err(Fault::new(
                    format!("{} is empty", files::shown(&path)),
                    "write the secret into it",
                ));
            }
            check(text).map_err(|fault| {
                Fault::new(format!("{}: {}", files::shown(&path), fault.reason), fault.fix)
            })?;
            Ok(Secret::new(text))
        });
        self.not_both(key, key_file);
        given.or(from_file)
    }

    /// The webhook's secrets under `key`, or one a line in the file under `key_file`.
    pub(super) fn secrets(&mut self, key: &'static str, key_file: &'static str) -> Vec<Secret> {
        let given =
            self.value(key, Vec::new(), |input| checked(parse::list(input)?.iter().map(String::as_str)));
        let from_file = self.optional(key_file, |input| {
            let path = parse::path(input)?;
            let text = read(&path)?;
            let secrets = checked(text.lines().filter(|line| !line.trim().is_empty())).map_err(|fault| {
                Fault::new(format!("{}: {}", files::shown(&path), fault.reason), fault.fix)
            })?;
            if secrets.is_empty() {
                let reason = format!("{} has no secret", files::shown(&path));
                return Err(Fault::new(reason, "write one secret per line, or leave the key out"));
            }
            Ok(secrets)
        });
        self.not_both(key, key_file);
        from_file.unwrap_or(given)
    }

    fn not_both(&mut self, key: &'static str, key_file: &'static str) {
        let (Some(place), Some(place_file)) = (self.given(key), self.given(key_file)) else { return };
        let other = place.filter(|place| Some(place) != place_file.as_ref());
        let other = other.map(|place| format!(" ({place})")).unwrap_or_default();
        let fault = Fault::new(
            format!("given beside `{key}`{other}"),
            format!("keep one of `{key}` and `{key_file}`"),
        );
        self.problem(key_file, place_file, fault);
    }
}

fn read(path: &Path) -> Result<String, Fault> {
    files::read_text(path, MAX_SECRET_FILE_BYTES).map_err(|error| {
        let reason = format!("{} can't be read: {error}", files::shown(path));
        Fault::new(reason, "name a file that this user may read")
    })
}

fn checked<'s>(texts: impl Iterator<Item = &'s str>) -> Result<Vec<Secret>, Fault> {
    let secrets = texts
        .map(|text| forms::webhook_secret(text).map(|()| Secret::new(text.trim())))
        .collect::<Result<Vec<_>, _>>()?;
    if secrets.len() > MAX_WEBHOOK_SECRETS {
        return Err(Fault::new(
            format!("more than {MAX_WEBHOOK_SECRETS} secrets"),
            "keep the ones in use; two are enough for a rotation",
        ));
    }
    Ok(secrets)
}
