//! Tests of config: layers, problems, secrets, rules, and the example file held against the code.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod backfill;
mod downlink;
mod example;
mod layers;
mod problems;
mod routes;
mod secrets;

use std::path::PathBuf;

use tempfile::TempDir;
use tti_connector::config::{Config, ConfigProblems, Problem};

/// A policy's connection string whose key is easy to find in a text.
const HUB: &str = "HostName=hub-1.azure-devices.net;SharedAccessKeyName=device;SharedAccessKey=aHVzaC1odXNoLWh1c2gtaHVzaA==";
const HUB_KEY: &str = "aHVzaC1odXNoLWh1c2gtaHVzaA==";
const GROUP_KEY: &str = "Z3JvdXAta2V5LWdyb3VwLWtleQ==";

/// Files and variables of one test.
struct Given {
    folder: TempDir,
    file: Option<PathBuf>,
    variables: Vec<(String, String)>,
}

impl Given {
    fn nothing() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), file: None, variables: Vec::new() }
    }

    /// A configuration file, and a hub so that it stands on its own.
    fn with_hub(toml: &str) -> Self {
        Self::toml(toml).variable("AZURE__IOT_HUB__CONNECTION_STRING", HUB)
    }

    fn toml(toml: &str) -> Self {
        let mut given = Self::nothing();
        given.file = Some(given.write("tti-connector.toml", toml));
        given
    }

    fn variable(mut self, key: &str, value: &str) -> Self {
        self.variables.push((format!("TTI_CONNECTOR__{key}"), value.to_owned()));
        self
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load(&self) -> Result<Config, ConfigProblems> {
        Config::load(self.file.as_deref(), self.variables.clone().into_iter())
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn problems(&self) -> Vec<Problem> {
        self.load().expect_err("a configuration with problems").problems().to_vec()
    }

    /// The keys of all problems.
    fn refused(&self) -> Vec<String> {
        self.problems().into_iter().map(|problem| problem.key).collect()
    }

    /// The one problem there must be.
    fn problem(&self) -> Problem {
        let mut problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.remove(0)
    }
}
