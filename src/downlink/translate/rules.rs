//! What the configuration says about downlinks, per application: routes, ports, and commands by name.
//!
//! Knows no message.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::json;
use crate::config;
use crate::iot_hub::Links;
use crate::things_stack::{Operation, Priority};

/// The rules of every application.
#[derive(Clone, Debug)]
pub struct Rules {
    general: ApplicationRules,
    applications: HashMap<String, ApplicationRules>,
}

/// The rules of one application: its own where it has some, else the general ones.
#[derive(Clone, Debug, Default)]
pub struct ApplicationRules {
    links: Links,
    port: Option<u8>,
    /// The application's own first, so that of names alike but for case its own is found.
    methods: Vec<(String, CommandRule)>,
    properties: Vec<(String, CommandRule)>,
}

/// What a request of a known name sends when it does not say so itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommandRule {
    /// FPort, 1 to 223.
    pub port: Option<u8>,
    /// Whether the device must acknowledge.
    pub confirmed: Option<bool>,
    /// Its place among downlinks of the cluster.
    pub priority: Option<Priority>,
    /// How it enters the queue.
    pub operation: Option<Operation>,
    /// What is sent when the request carries nothing.
    pub payload: Option<Value>,
}

/// A command in the configuration that can't be meant.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key} must be {allowed}")]
pub struct InvalidRule {
    /// The configuration's key.
    pub key: String,
    /// What it may be.
    pub allowed: &'static str,
}

impl Rules {
    /// Reads the configuration's section.
    ///
    /// # Errors
    /// Names the first key whose value is no port, priority, operation or JSON.
    pub fn new(config: &config::Downlink) -> Result<Self, InvalidRule> {
        let general = ApplicationRules {
            links: links(&config.routes),
            port: port(config.port, "downlink.port")?,
            methods: commands(&config.methods, "downlink.methods")?,
            properties: commands(&config.properties, "downlink.properties")?,
        };
        let mut applications = HashMap::new();
        for (id, application) in &config.applications {
            let at = format!("downlink.applications.{id}");
            let own = ApplicationRules {
                links: application.routes.as_deref().map_or(general.links, links),
                port: port(application.port, &format!("{at}.port"))?.or(general.port),
                methods: beside(commands(&application.methods, &format!("{at}.methods"))?, &general.methods),
                properties: beside(
                    commands(&application.properties, &format!("{at}.properties"))?,
                    &general.properties,
                ),
            };
            applications.insert(id.clone(), own);
        }
        Ok(Self { general, applications })
    }

    /// One application's rules; the general ones if it has none of its own.
    pub fn application(&self, application_id: &str) -> &ApplicationRules {
        self.applications.get(application_id).unwrap_or(&self.general)
    }

    /// Which of the hub's ways an application's devices use.
    pub fn links(&self, application_id: &str) -> Links {
        self.application(application_id).links
    }
}

impl ApplicationRules {
    /// FPort of a request for which nothing else names one.
    pub const fn port(&self) -> Option<u8> {
        self.port
    }

    /// The method or command of this name, which is compared exactly first, then without case.
    pub fn method(&self, name: &str) -> Option<&CommandRule> {
        find(&self.methods, name)
    }

    /// The desired property of this name, found likewise.
    pub fn property(&self, name: &str) -> Option<&CommandRule> {
        find(&self.properties, name)
    }

    /// The names of all configured methods.
    pub fn method_names(&self) -> impl Iterator<Item = &str> {
        self.methods.iter().map(|(name, _)| name.as_str())
    }
}

fn links(routes: &[config::DownlinkRoute]) -> Links {
    Links {
        c2d: routes.contains(&config::DownlinkRoute::C2d),
        methods: routes.contains(&config::DownlinkRoute::Method),
        twin: routes.contains(&config::DownlinkRoute::Twin),
    }
}

fn commands(
    commands: &BTreeMap<String, config::Command>,
    at: &str,
) -> Result<Vec<(String, CommandRule)>, InvalidRule> {
    commands
        .iter()
        .map(|(name, command)| {
            let rule = CommandRule {
                port: port(command.port, &format!("{at}.{name}.port"))?,
                confirmed: command.confirmed,
                priority: read(command.priority.as_deref(), Priority::parse, || InvalidRule {
                    key: format!("{at}.{name}.priority"),
                    allowed: "one of lowest, low, below_normal, normal, above_normal, high, highest",
                })?,
                operation: read(command.queue.as_deref(), Operation::parse, || InvalidRule {
                    key: format!("{at}.{name}.queue"),
                    allowed: "push or replace",
                })?,
                payload: read(
                    command.payload.as_deref(),
                    |text| json::read(text.as_bytes()).ok(),
                    || InvalidRule { key: format!("{at}.{name}.payload"), allowed: "JSON" },
                )?,
            };
            Ok((name.clone(), rule))
        })
        .collect()
}

fn port(port: Option<u8>, key: &str) -> Result<Option<u8>, InvalidRule> {
    read(
        port,
        |port| (1..=223).contains(&port).then_some(port),
        || InvalidRule { key: key.to_owned(), allowed: "an FPort from 1 to 223" },
    )
}

fn read<T, U>(
    given: Option<T>,
    parse: impl FnOnce(T) -> Option<U>,
    invalid: impl FnOnce() -> InvalidRule,
) -> Result<Option<U>, InvalidRule> {
    given.map(|given| parse(given).ok_or_else(invalid)).transpose()
}

/// `own`, and those of `general` whose name `own` does not have.
fn beside(
    mut own: Vec<(String, CommandRule)>,
    general: &[(String, CommandRule)],
) -> Vec<(String, CommandRule)> {
    let further: Vec<_> =
        general.iter().filter(|(name, _)| own.iter().all(|(known, _)| known != name)).cloned().collect();
    own.extend(further);
    own
}

fn find<'a>(commands: &'a [(String, CommandRule)], name: &str) -> Option<&'a CommandRule> {
    let exactly = commands.iter().find(|(known, _)| known == name);
    let without_case = || commands.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    exactly.or_else(without_case).map(|(_, rule)| rule)
}
