//! Where each application's telemetry goes, and which configurations leave that open.

use tti_connector::config::Route;

use super::{GROUP_KEY, Given, HUB};

fn dps(section: &str) -> String {
    format!("[{section}]\nid_scope = '0neALL'\ngroup_enrollment_key = '{GROUP_KEY}'\n")
}

fn hub(section: &str) -> String {
    format!("[{section}]\nconnection_string = '{HUB}'\n")
}

/// The key and the whole text of the one problem.
fn refused(toml: &str) -> (String, String) {
    let problem = Given::toml(toml).problem();
    (problem.key.clone(), problem.to_string())
}

#[test]
fn one_hub_or_one_dps_serves_every_application() {
    let by_hub = Given::toml(&hub("azure.iot_hub")).config();
    assert!(matches!(by_hub.azure.route("any"), Some(Route::Hub { .. })));
    let by_dps = Given::toml(&dps("azure.dps")).config();
    assert!(matches!(by_dps.azure.route("any"), Some(Route::Dps { id_scope: "0neALL", endpoint: None, .. })));
}

#[test]
fn an_application_overrides_what_is_for_all() {
    let toml = hub("azure.iot_hub") + &dps("azure.applications.cold-chain.dps");
    let azure = Given::toml(&toml).config().azure;
    assert!(matches!(azure.route("cold-chain"), Some(Route::Dps { .. })));
    assert!(matches!(azure.route("other"), Some(Route::Hub { .. })));

    let toml = dps("azure.dps") + &hub("azure.applications.cold-chain.iot_hub");
    let azure = Given::toml(&toml).config().azure;
    assert!(matches!(azure.route("cold-chain"), Some(Route::Hub { .. })));
    assert!(matches!(azure.route("other"), Some(Route::Dps { .. })));
}

#[test]
fn an_application_with_only_a_model_uses_what_is_for_all() {
    let toml = hub("azure.iot_hub") + "[azure.applications.abc]\nmodel_id = 'dtmi:a:b;1'\n";
    let azure = Given::toml(&toml).config().azure;
    assert!(matches!(azure.route("abc"), Some(Route::Hub { .. })));
    assert_eq!((azure.model_id_of("abc"), azure.model_id_of("other")), (Some("dtmi:a:b;1"), None));
}

#[test]
fn fields_of_an_applications_dps_fall_back_to_those_for_all() {
    // One id scope and endpoint, an enrollment group per application, and no DPS for the others.
    let toml = format!(
        "[azure.dps]\nid_scope = '0neALL'\nendpoint = 'dps.example.com'\n\
         [azure.applications.abc.dps]\ngroup_enrollment_key = '{GROUP_KEY}'\n"
    );
    let azure = Given::toml(&toml).config().azure;
    let Some(Route::Dps { id_scope, group_enrollment_key, endpoint }) = azure.route("abc") else { panic!() };
    assert_eq!((id_scope, endpoint), ("0neALL", Some("dps.example.com")));
    assert_eq!(group_enrollment_key.reveal(), GROUP_KEY);
    assert_eq!(azure.route("other"), None, "not configured");
}

#[test]
fn an_application_that_is_not_listed_is_not_configured() {
    let azure = Given::toml(&hub("azure.applications.abc.iot_hub")).config().azure;
    assert!(azure.route("abc").is_some());
    assert_eq!(azure.route("other"), None);
    assert_eq!(azure.route_for_others(), None);
}

#[test]
fn both_for_all_are_refused() {
    let (key, text) = refused(&(hub("azure.iot_hub") + &dps("azure.dps")));
    assert_eq!(key, "azure");
    assert!(text.contains("both a hub"), "{text}");

    // Also where DPS would serve only as fallback: who reads it can't tell.
    let toml = hub("azure.iot_hub")
        + "[azure.dps]\nid_scope = '0neALL'\n"
        + &format!("[azure.applications.abc.dps]\ngroup_enrollment_key = '{GROUP_KEY}'\n");
    assert_eq!(refused(&toml).0, "azure");
}

#[test]
fn both_for_an_application_are_refused_by_its_name() {
    let toml = hub("azure.applications.abc.iot_hub") + &dps("azure.applications.abc.dps");
    let (key, text) = refused(&toml);
    assert_eq!(key, "azure.applications.abc");
    assert!(text.contains("application \"abc\" has both"), "{text}");
}

#[test]
fn neither_for_an_application_is_refused_by_its_name() {
    let toml = hub("azure.applications.abc.iot_hub") + "[azure.applications.xyz]\nmodel_id = 'dtmi:a:b;1'\n";
    let (key, text) = refused(&toml);
    assert_eq!(key, "azure.applications.xyz");
    assert!(text.contains("application \"xyz\" has neither"), "{text}");
}

#[test]
fn neither_at_all_is_refused() {
    assert_eq!(Given::nothing().problem().key, "azure");
    assert_eq!(refused("[azure.dps]\nendpoint = 'dps.example.com'\n").0, "azure");
}

#[test]
fn dps_needs_id_scope_and_key() {
    for (toml, missing) in [
        ("[azure.dps]\nid_scope = '0ne1'\n".to_owned(), "azure.dps.group_enrollment_key"),
        (format!("[azure.dps]\ngroup_enrollment_key = '{GROUP_KEY}'\n"), "azure.dps.id_scope"),
        (
            "[azure.applications.abc.dps]\nid_scope = '0ne1'\n".to_owned(),
            "azure.applications.abc.dps.group_enrollment_key",
        ),
    ] {
        let (key, text) = refused(&toml);
        assert_eq!(key, missing);
        assert!(text.contains("missing"), "{text}");
    }
}

#[test]
fn every_application_with_a_problem_is_named() {
    let toml = hub("azure.applications.abc.iot_hub")
        + &dps("azure.applications.abc.dps")
        + "[azure.applications.def]\n[azure.applications.ghi.dps]\nid_scope = '0ne1'\n";
    assert_eq!(
        Given::toml(&toml).refused(),
        [
            "azure.applications.abc",
            "azure.applications.def",
            "azure.applications.ghi.dps.group_enrollment_key"
        ]
    );
}

#[test]
fn a_template_that_dps_could_not_take_is_refused_where_dps_is_used() {
    let template = "[devices]\nhub_id = '{device_id}@{application_id}'\n";
    Given::toml(&(hub("azure.iot_hub") + template)).config();
    assert_eq!(refused(&(dps("azure.dps") + template)).0, "devices.hub_id");
}
