//! Rules over several keys: what must stand together, and what can't.
//!
//! They look at which keys were *given*, and pass over keys that were refused for their form: such a value is not
//! reported a second time as missing.

use std::collections::BTreeMap;

use super::forms;
use super::problems::{Place, Problem};
use super::sections::{Azure, Config};
use super::table::join;
use super::units::{format_duration, format_size};
use crate::azure::hub_id::check_registration_id;

/// Every broken rule. `given`: the keys that somebody gave. `refused`: the problems found so far.
pub(super) fn broken(
    config: &Config,
    given: &BTreeMap<String, Option<Place>>,
    refused: &[Problem],
) -> Vec<Problem> {
    let mut rules = Rules { given, refused, problems: Vec::new() };
    rules.open_doors(config);
    rules.order_of_limits(config);
    rules.routes(&config.azure);
    rules.names_for_dps(config);
    rules.downlinks(config);
    rules.backfill(config);
    rules.problems
}

struct Rules<'g> {
    given: &'g BTreeMap<String, Option<Place>>,
    refused: &'g [Problem],
    problems: Vec<Problem>,
}

/// What is given of a hub and of DPS, for one application or for all.
struct Pair {
    hub: bool,
    id_scope: bool,
    key: bool,
    endpoint: bool,
}

impl Rules<'_> {
    fn open_doors(&mut self, config: &Config) {
        let (listen, admin) = (config.webhook.listen, config.admin.listen);
        let secrets = self.has("webhook.secrets_file")
            || self.is_refused("webhook.secrets")
            || !config.webhook.secrets.is_empty();
        if !listen.ip().to_canonical().is_loopback() && !secrets {
            self.report(
                "webhook.secrets",
                format!("none set, while webhook.listen = \"{listen}\" lets the network in"),
                "set a long random text, and give The Things Stack's webhook the header \
                 `Authorization: Bearer <that text>`; or listen on 127.0.0.1",
            );
        }
        let overlap =
            listen.ip() == admin.ip() || listen.ip().is_unspecified() || admin.ip().is_unspecified();
        let sound = self.are_sound(&["webhook.listen", "admin.listen"]);
        if sound && overlap && listen.port() == admin.port() && listen.port() != 0 {
            let reason = format!("port {} is taken by webhook.listen", listen.port());
            self.report("admin.listen", reason, "choose another port for one of the two");
        }
    }

    fn order_of_limits(&mut self, config: &Config) {
        let (first, longest) = (config.uplink.retry_initial, config.uplink.retry_max);
        if first > longest && self.are_sound(&["uplink.retry_initial", "uplink.retry_max"]) {
            self.report(
                "uplink.retry_initial",
                format!(
                    "{} is longer than uplink.retry_max = {}",
                    format_duration(first),
                    format_duration(longest)
                ),
                "make it the shorter one of the two",
            );
        }
        let body = config.webhook.max_body_bytes;
        for (key, room) in [
            ("spool.max_bytes", config.spool.max_bytes),
            ("spool.parked_max_bytes", config.spool.parked_max_bytes),
        ] {
            if room < body && self.are_sound(&[key, "webhook.max_body_bytes"]) {
                self.report(
                    key,
                    format!(
                        "{} can't take one body of webhook.max_body_bytes = {}",
                        format_size(room),
                        format_size(body)
                    ),
                    "make it larger than one body, better a thousand times",
                );
            }
        }
    }

    /// Each application has one way to Azure: a hub or DPS, its own or the one for all.
    fn routes(&mut self, azure: &Azure) {
        let all = self.pair("azure");
        let applications: Vec<_> = azure
            .applications
            .keys()
            .map(|id| (id, self.pair(&format!("azure.applications.{id}"))))
            .collect();
        // A DPS section that serves only as fallback may be incomplete: one id scope, a group key per application.
        let completed_below = applications.iter().any(|(_, own)| own.has_dps());
        let all_dps = (all.id_scope && all.key) || (all.names_dps() && !completed_below);
        if all.hub && all.names_dps() {
            self.report(
                "azure",
                "both a hub (azure.iot_hub) and DPS (azure.dps) for every application without a section of its own",
                "keep one of them, or move one to [azure.applications.<id>]",
            );
        } else if all_dps {
            self.complete("azure.dps", "every application without a section of its own", &all, None);
        }
        for (id, own) in &applications {
            let section = format!("azure.applications.{id}");
            let who = format!("application \"{id}\"");
            if own.hub && own.has_dps() {
                self.report(
                    &section,
                    format!("{who} has both a connection string and DPS"),
                    format!("keep one of [{section}.iot_hub] and [{section}.dps]"),
                );
            } else if own.has_dps() {
                self.complete(&join(&section, "dps"), &who, own, Some(&all));
            } else if !own.hub && !all.hub && !all_dps {
                self.report(
                    &section,
                    format!("{who} has neither a connection string nor DPS"),
                    format!(
                        "set {section}.iot_hub.connection_string, or \
                         {section}.dps.id_scope and .group_enrollment_key"
                    ),
                );
            }
        }
        if applications.is_empty() && !all.hub && !all.names_dps() {
            self.report(
                "azure",
                "neither a hub nor DPS is configured for any application, so nothing could be sent",
                "set azure.iot_hub.connection_string, or azure.dps.id_scope and azure.dps.group_enrollment_key",
            );
        }
    }

    /// DPS needs an id scope and a key, here or in the section for all.
    fn complete(&mut self, section: &str, who: &str, own: &Pair, all: Option<&Pair>) {
        let id_scope = own.id_scope || all.is_some_and(|all| all.id_scope);
        let key = own.key || all.is_some_and(|all| all.key);
        for (present, name) in [(id_scope, "id_scope"), (key, "group_enrollment_key")] {
            if !present {
                let fix = format!("set {section}.{name}, or remove the section");
                self.report(&join(section, name), format!("missing: DPS for {who} needs it"), fix);
            }
        }
    }

    /// DPS takes fewer characters in a registration id than IoT Hub in a device id.
    fn names_for_dps(&mut self, config: &Config) {
        let dps = self.given.keys().any(|key| key.starts_with("azure.") && key.contains("dps.id_scope"));
        if !dps || !self.are_sound(&["devices.hub_id"]) {
            return;
        }
        if let Err(problem) = check_registration_id(&forms::sample_hub_id(&config.devices.hub_id)) {
            self.report(
                "devices.hub_id",
                format!("no id for DPS: it {problem}"),
                "between the braces use letters, digits and - . _ : only",
            );
        }
    }

    fn downlinks(&mut self, config: &Config) {
        if self.has("things_stack.base_url") {
            return;
        }
        for id in config.things_stack.applications.keys() {
            let key = format!("things_stack.applications.{id}.api_key");
            if self.has(&key) || self.has(&format!("{key}_file")) {
                self.report(
                    "things_stack.base_url",
                    format!("missing: the API key of application \"{id}\" is for it"),
                    "set it to the cluster's address, such as \"https://eu1.cloud.thethings.network\"",
                );
                return;
            }
        }
    }

    /// A key that a webhook brings is known too late, and has the right to write downlinks alone as a rule.
    fn backfill(&mut self, config: &Config) {
        let on = config.things_stack.applications.iter().filter(|(_, application)| application.backfill);
        for (id, _) in on {
            let key = format!("things_stack.applications.{id}.api_key");
            if !self.has(&key) && !self.has(&format!("{key}_file")) {
                self.report(
                    &key,
                    format!("missing: backfill of application \"{id}\" reads its stored uplinks with it"),
                    "give it a key with RIGHT_APPLICATION_TRAFFIC_READ, or switch backfill off",
                );
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    fn is_refused(&self, key: &str) -> bool {
        self.refused.iter().any(|problem| problem.key == key)
    }

    fn are_sound(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.is_refused(key))
    }

    fn pair(&self, section: &str) -> Pair {
        let has = |key: &str| self.has(&join(section, key));
        Pair {
            hub: has("iot_hub.connection_string") || has("iot_hub.connection_string_file"),
            id_scope: has("dps.id_scope"),
            key: has("dps.group_enrollment_key") || has("dps.group_enrollment_key_file"),
            endpoint: has("dps.endpoint"),
        }
    }

    fn report(&mut self, key: &str, reason: impl Into<String>, fix: impl Into<String>) {
        let place = self.given.get(key).cloned().flatten();
        self.problems.push(Problem { key: key.to_owned(), place, reason: reason.into(), fix: fix.into() });
    }
}

impl Pair {
    /// For all applications: an endpoint alone is a fallback, not a choice of DPS.
    fn names_dps(&self) -> bool {
        self.id_scope || self.key
    }

    /// For one application: any field makes a section of its own.
    fn has_dps(&self) -> bool {
        self.names_dps() || self.endpoint
    }
}
