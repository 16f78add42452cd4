//! The webhook on Microsoft's Node SDK, of `benches/baseline`: installs it below target/ and starts it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use super::support::Running;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/baseline");
const FILES: [&str; 3] = ["package.json", "package-lock.json", "webhook.mjs"];

/// Beside the build, so that the source tree stays clean.
fn install() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let place = target.join("baseline");
    fs::create_dir_all(&place).expect("a folder");
    for file in FILES {
        fs::copy(Path::new(SOURCE).join(file), place.join(file)).expect("copied");
    }
    if !place.join("node_modules").exists() {
        let arguments = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
        let status = Command::new("npm").args(arguments).current_dir(&place).status();
        assert!(status.expect("npm is there").success(), "npm ci failed");
    }
    place
}

/// Answers once the hub has accepted, or `at_once`.
pub(crate) fn start(ready: &serde_json::Value, webhook: u16, at_once: bool) -> Running {
    let place = install();
    let hub = &ready["hubs"][0];
    let host = format!("{}:{}", hub["hostName"].as_str().expect("a name"), hub["amqpPort"]);
    let mut command = Command::new("node");
    command
        .arg(place.join("webhook.mjs"))
        .args([webhook.to_string().as_str(), &host, if at_once { "at-once" } else { "accepted" }])
        .env("NODE_EXTRA_CA_CERTS", ready["caFile"].as_str().expect("a file"))
        .env("NODE_ENV", "production")
        .stdout(Stdio::null());
    Running(command.spawn().expect("node is there"))
}
