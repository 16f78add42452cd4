//! Every key of the configuration with its unit and default. Loading reports all problems at once.
//!
//! Knows no clients and no sockets. Three layers: the defaults of `sections`, a TOML file, the environment
//! (`TTI_CONNECTOR__SECTION__KEY`; in an application's id `_` stands for `-`).

mod files;
mod forms;
mod forms_downlink;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod layers;
mod pace;
mod parse;
mod problems;
mod route;
mod rules;
mod schema;
mod schema_downlink;
mod secrets;
mod sections;
mod sections_backfill;
mod sections_downlink;
mod suggest;
mod table;
mod units;

use std::path::{Path, PathBuf};

pub use problems::{ConfigProblems, Place, Problem};
pub use route::Route;
pub use sections::{
    Admin, Application, Azure, Config, Devices, Dps, IotHub, Log, LogFormat, Shutdown, Spool,
    TelemetryFormat, TelemetrySection, ThingsStack, ThingsStackApplication, Transport, Uplink, Webhook,
};
pub use sections_backfill::Backfill;
pub use sections_downlink::{Command, CompleteOn, Downlink, DownlinkApplication, DownlinkRoute, Twin};
pub use table::Key;
pub use units::{format_duration, format_size, parse_duration, parse_size};

use layers::Layers;
use table::Walk;

/// The file that is read from the working directory when none is named.
pub const DEFAULT_FILE: &str = "tti-connector.toml";

/// Names the file when no argument does.
pub const FILE_VARIABLE: &str = "TTI_CONNECTOR_CONFIG";

/// Thousands of applications fit.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// Where a configuration was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// How many environment variables set a key.
    pub variables: usize,
}

impl Config {
    /// Joins defaults, `file` and `env`, and checks the whole.
    ///
    /// # Errors
    /// Every problem at once. No secret stands in any of them.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigProblems> {
        load(file, env).map(|(config, _)| config)
    }

    /// As [`Config::load`] for this process: the given file, else the one that `TTI_CONNECTOR_CONFIG` names, else
    /// `tti-connector.toml` in the working directory if it exists; and the process's environment.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load_for_process(file: Option<&Path>) -> Result<(Self, Sources), ConfigProblems> {
        load(file_for_process(file).as_deref(), process_env())
    }

    /// The `[spool]` section alone, read as [`Config::load_for_process`] does. Problems of other sections don't matter:
    /// who looks after parked messages may not be able to read every secret, or may be here because of a problem.
    ///
    /// # Errors
    /// Every problem of the section at once, or that the file can't be read at all.
    pub fn load_spool_for_process(file: Option<&Path>) -> Result<Spool, ConfigProblems> {
        let (config, _, problems) = read(file_for_process(file).as_deref(), process_env());
        let ours = |key: &str| key.is_empty() || key == "spool" || key.starts_with("spool.");
        let problems = problems.into_iter().filter(|problem| ours(&problem.key)).collect();
        ConfigProblems::new(problems).map_or(Ok(config.spool), Err)
    }

    /// Every key there is, in alphabetical order.
    pub fn keys() -> Vec<Key> {
        let mut walk = Walk::listing();
        walk.root(schema::read);
        walk.keys.into_iter().collect()
    }
}

fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<(Config, Sources), ConfigProblems> {
    let (config, variables, problems) = read(file, env);
    match ConfigProblems::new(problems) {
        Some(problems) => Err(problems),
        None => Ok((config, Sources { file: file.map(Path::to_owned), variables })),
    }
}

/// The configuration as far as it can be understood, how many variables of ours there are, and every problem.
fn read(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> (Config, usize, Vec<Problem>) {
    let mut problems = Vec::new();
    let layers = Layers::read(file, env, &mut problems);
    // Without the file's text, rules over several keys would only report what it says.
    let unread = problems.iter().any(|problem| problem.key.is_empty());
    let mut walk = Walk::over(&layers, problems);
    let config = walk.root(schema::read);
    if !unread {
        let broken = rules::broken(&config, &walk.given, &walk.problems);
        walk.problems.extend(broken);
    }
    (config, layers.variables, walk.problems)
}

fn file_for_process(file: Option<&Path>) -> Option<PathBuf> {
    let named = std::env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    let found = Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
    file.map(Path::to_owned).or(named).or(found)
}

fn process_env() -> impl Iterator<Item = (String, String)> {
    // Not `vars()`: that panics on a variable of anybody's that is not Unicode.
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}
