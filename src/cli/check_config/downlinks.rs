//! The lines of `check-config` about downlinks: which applications get them, by which ways, with whose key.
//!
//! Says what the configuration alone makes certain; a key that a webhook brings is not known here.

use std::collections::BTreeSet;

use super::{Lines, MAX_LISTED};
use crate::config::{Config, DownlinkRoute};

/// One line for each application that is named anywhere, and one for all others.
pub(super) fn put(config: &Config, lines: &mut Lines) {
    let things_stack = config.things_stack.applications.keys();
    let named: BTreeSet<&String> = things_stack
        .chain(config.downlink.applications.keys())
        .chain(config.azure.applications.keys())
        .collect();
    let mut label = "downlinks";
    for id in named.iter().take(MAX_LISTED) {
        lines.put(label, &format!("{id}: {}", described(config, Some(id))));
        label = "";
    }
    if let Some(more) = named.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        lines.put("", &format!("and {more} more applications"));
    }
    let others = if named.is_empty() { "every application" } else { "every other application" };
    lines.put(label, &format!("{others}: {}", described(config, None)));
}

/// `None` for an application without any section of its own.
fn described(config: &Config, id: Option<&str>) -> String {
    let hub = id.map_or_else(|| config.azure.route_for_others(), |id| config.azure.route(id));
    if hub.is_none() {
        return "none, as it has no hub".to_owned();
    }
    let own = id.and_then(|id| config.downlink.applications.get(id));
    let (routes, key) = match (id, own.and_then(|own| own.routes.as_ref())) {
        (Some(id), Some(routes)) => (routes, format!("downlink.applications.{id}.routes")),
        (_, _) => (&config.downlink.routes, "downlink.routes".to_owned()),
    };
    if routes.is_empty() {
        return format!("none, as {key} is empty");
    }
    let ways: Vec<_> = routes.iter().map(|route| way(*route)).collect();
    let ways = ways.join(", ");
    let section = id.and_then(|id| config.things_stack.applications.get(id));
    let port = own.and_then(|own| own.port).or(config.downlink.port);
    let port = port.map_or_else(String::new, |port| format!("; FPort {port} unless said"));
    let base = config.things_stack.base_url.as_deref();
    match (section.and_then(|section| section.api_key.as_ref()), base, id) {
        (Some(_), Some(base), _) => format!("by {ways}, with its key at {base}{port}"),
        // A loaded configuration holds no key without an address.
        (_, None, _) if config.things_stack.allowed_hosts.is_empty() => {
            "none, as things_stack.base_url is not set".to_owned()
        }
        (_, _, Some(id)) if section.is_some() => format!(
            "by {ways}, but things_stack.applications.{id} has no api_key: only while its webhook sends one{port}"
        ),
        (_, _, _) => format!("by {ways}, once its webhook sends an API key{port}"),
    }
}

const fn way(route: DownlinkRoute) -> &'static str {
    match route {
        DownlinkRoute::C2d => "c2d",
        DownlinkRoute::Method => "method",
        DownlinkRoute::Twin => "twin",
    }
}
