//! `check-config`: says that the configuration is valid and what it does, without a secret.
//!
//! Connects to nothing.

mod downlinks;
mod tier;

use std::fmt::Write as _;

use crate::azure::{ConnectionString, Identity};
use crate::config::{Config, Route, Sources, Transport, format_duration, format_size};

/// Azure's endpoint of DPS when none is configured.
const GLOBAL_DPS: &str = "global.azure-devices-provisioning.net";

/// More applications than that are counted, not listed.
const MAX_LISTED: usize = 20;

/// What to print for a valid configuration.
pub fn summary(config: &Config, sources: &Sources) -> String {
    let mut lines = Lines(String::from("configuration is valid\n"));
    lines.put("read from", &read_from(sources));
    let secrets = match config.webhook.secrets.len() {
        0 => "no secret (loopback only)".to_owned(),
        1 => "1 secret".to_owned(),
        n => format!("{n} secrets"),
    };
    lines.put("webhook", &format!("http://{}/webhook, {secrets}", config.webhook.listen));
    let spool = &config.spool;
    lines.put("spool", &format!("{}, at most {}", spool.directory.display(), format_size(spool.max_bytes)));
    lines.put("hubs by", transport(config));
    tier::put(config, &mut lines);
    routes(config, &mut lines);
    downlinks::put(config, &mut lines);
    backfill(config, &mut lines);
    lines.put("ids there", &format!("devices.hub_id = \"{}\"", config.devices.hub_id));
    lines.put("admin", &format!("http://{}", config.admin.listen));
    lines.put("stops in", &format!("{} at most", format_duration(config.shutdown.grace)));
    lines.0
}

struct Lines(String);

impl Lines {
    fn put(&mut self, label: &str, text: &str) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "  {label:<11}{text}");
    }
}

fn read_from(sources: &Sources) -> String {
    let file = sources.file.as_ref().map(|path| path.display().to_string());
    let variables = match sources.variables {
        0 => None,
        1 => Some("1 environment variable".to_owned()),
        n => Some(format!("{n} environment variables")),
    };
    match (file, variables) {
        (Some(file), Some(variables)) => format!("{file} and {variables}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "the defaults alone".to_owned(),
    }
}

fn transport(config: &Config) -> &'static str {
    match config.azure.transport {
        Transport::Amqp => "AMQP over TLS",
        Transport::AmqpWs => "AMQP over WebSocket",
    }
}

fn routes(config: &Config, lines: &mut Lines) {
    let applications = &config.azure.applications;
    let mut label = "telemetry";
    for id in applications.keys().take(MAX_LISTED) {
        lines.put(label, &format!("{id} -> {}", described(config.azure.route(id))));
        label = "";
    }
    if let Some(more) = applications.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        lines.put("", &format!("and {more} more applications"));
    }
    let others = if applications.is_empty() { "every application" } else { "every other application" };
    lines.put(label, &format!("{others} -> {}", described(config.azure.route_for_others())));
}

fn backfill(config: &Config, lines: &mut Lines) {
    let on = || config.things_stack.applications.iter().filter(|(_, application)| application.backfill);
    let settings = &config.backfill;
    let mut label = "backfill";
    for (id, _) in on().take(MAX_LISTED) {
        lines.put(
            label,
            &format!(
                "{id}: what its webhook missed in the last {}, {} a second; its api_key needs RIGHT_APPLICATION_TRAFFIC_READ",
                format_duration(settings.window),
                settings.rate
            ),
        );
        label = "";
    }
    if let Some(more) = on().count().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        lines.put("", &format!("and {more} more applications"));
    }
    let others = if label.is_empty() { "off for every other application" } else { "off" };
    lines.put(label, others);
}

fn described(route: Option<Route<'_>>) -> String {
    match route {
        None => "refused, not configured".to_owned(),
        Some(Route::Dps { id_scope, endpoint, .. }) => {
            format!("DPS {id_scope} at {}", endpoint.unwrap_or(GLOBAL_DPS))
        }
        Some(Route::Hub { connection_string }) => match ConnectionString::parse(connection_string.reveal()) {
            Ok(hub) => match &hub.identity {
                Identity::Policy { name } => format!("hub {}, policy {name}", hub.host),
                Identity::Device { id } => format!("hub {}, device {id} alone", hub.host),
            },
            // A loaded configuration holds none such.
            Err(error) => format!("no connection string: {error}"),
        },
    }
}
