//! From `[azure]` to the hub or DPS of an application.

use tti_connector::config::{Application, Azure, Dps, IotHub};
use tti_connector::devices::{Routes, Target};
use tti_connector::model::Secret;

use super::world::{GROUP_KEY, policy};

fn hub(host: &str) -> IotHub {
    IotHub { connection_string: Some(policy(host)) }
}

fn dps(id_scope: Option<&str>, key: Option<&str>, endpoint: Option<&str>) -> Dps {
    Dps {
        id_scope: id_scope.map(str::to_owned),
        group_enrollment_key: key.map(Secret::new),
        endpoint: endpoint.map(str::to_owned),
    }
}

fn azure(iot_hub: IotHub, dps: Dps, application: Application) -> Azure {
    Azure { iot_hub, dps, applications: [("app".to_owned(), application)].into(), ..Azure::default() }
}

/// `hub host` or `dps endpoint id_scope`, with the model id behind it.
fn shown(routes: &Routes, application: &str) -> String {
    let Some(route) = routes.of(application) else { return "none".to_owned() };
    let target = match &route.target {
        Target::Hub(hub) => format!("hub {}", hub.host),
        Target::Dps(scope) => format!("dps {} {}", scope.endpoint.authority(), scope.id_scope),
    };
    format!("{target}{}", route.model_id.as_deref().map(|id| format!(" {id}")).unwrap_or_default())
}

fn problems(azure: &Azure) -> String {
    Routes::new(azure).unwrap_err().iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn an_applications_own_section_wins_over_the_global_one() {
    let global_dps = || dps(Some("0ne1"), Some(GROUP_KEY), None);
    let own = |iot_hub, dps| Application { iot_hub, dps, model_id: None };
    let none = Dps::default;
    for (iot_hub, global, application, expected) in [
        (hub("g"), none(), own(IotHub::default(), none()), "hub g"),
        (hub("g"), none(), own(hub("a"), none()), "hub a"),
        (
            hub("g"),
            none(),
            own(IotHub::default(), global_dps()),
            "dps global.azure-devices-provisioning.net 0ne1",
        ),
        (IotHub::default(), global_dps(), own(hub("a"), none()), "hub a"),
        (
            IotHub::default(),
            global_dps(),
            own(IotHub::default(), dps(Some("0ne2"), None, None)),
            "dps global.azure-devices-provisioning.net 0ne2",
        ),
        (
            IotHub::default(),
            global_dps(),
            own(IotHub::default(), dps(None, None, Some("own.dps:8443"))),
            "dps own.dps:8443 0ne1",
        ),
        (
            IotHub::default(),
            dps(Some("0ne1"), None, Some("all.dps")),
            own(IotHub::default(), dps(None, Some(GROUP_KEY), None)),
            "dps all.dps 0ne1",
        ),
    ] {
        let routes = Routes::new(&azure(iot_hub, global, application)).unwrap();
        assert_eq!(shown(&routes, "app"), expected);
    }
}

#[test]
fn the_model_id_is_the_applications_or_the_global_one() {
    let own = Application { model_id: Some("dtmi:own;1".to_owned()), ..Application::default() };
    let mut azure = azure(hub("g"), Dps::default(), own);
    azure.model_id = Some("dtmi:all;1".to_owned());
    let routes = Routes::new(&azure).unwrap();
    assert_eq!(shown(&routes, "app"), "hub g dtmi:own;1");
    assert_eq!(shown(&routes, "other"), "hub g dtmi:all;1");
}

#[test]
fn every_problem_is_named_by_its_key() {
    let own = |iot_hub, dps| Application { iot_hub, dps, model_id: None };
    let full = || dps(Some("0ne1"), Some(GROUP_KEY), None);
    let both = problems(&azure(hub("g"), full(), own(hub("a"), full())));
    assert!(both.contains("azure: has both") && both.contains("azure.applications.app: has both"), "{both}");
    let none = || IotHub::default();
    for (azure, expected) in [
        (azure(none(), Dps::default(), Application::default()), "azure.applications.app: has neither"),
        (
            azure(none(), Dps::default(), own(none(), dps(Some("0ne1"), None, None))),
            "azure.applications.app.dps.group_enrollment_key: is missing",
        ),
        (
            azure(none(), dps(None, Some(GROUP_KEY), None), own(hub("a"), Dps::default())),
            "azure.dps.id_scope: is missing",
        ),
        (
            azure(none(), dps(Some("0ne 1"), Some(GROUP_KEY), None), own(hub("a"), Dps::default())),
            "azure.dps.id_scope: is no",
        ),
        (
            azure(none(), dps(Some("0ne1"), Some("*"), None), own(hub("a"), Dps::default())),
            "azure.dps.group_enrollment_key: is not",
        ),
        (
            azure(
                none(),
                dps(Some("0ne1"), Some(GROUP_KEY), Some("http://x")),
                own(hub("a"), Dps::default()),
            ),
            "azure.dps.endpoint: must be https",
        ),
        (
            azure(
                IotHub { connection_string: Some(Secret::new("HostName=h")) },
                Dps::default(),
                own(hub("a"), Dps::default()),
            ),
            "azure.iot_hub.connection_string: it names neither",
        ),
    ] {
        let found = problems(&azure);
        assert!(found.starts_with(expected) && !found.contains(GROUP_KEY), "{found}");
    }
}
