//! The keys of `[downlink]`, `[twin]` and what joins them in `[things_stack]`.

use std::time::Duration;

use tti_connector::config::{Command, CompleteOn, DownlinkRoute};

use super::{Given, HUB};

fn given(toml: &str) -> Given {
    Given::toml(toml).variable("AZURE__IOT_HUB__CONNECTION_STRING", HUB)
}

#[test]
fn every_downlink_key_is_read() {
    let config = given(
        "[things_stack]\nallowed_hosts = ['EU1.example:8443', 'localhost']\nrequest_timeout = '3s'\n\
         [downlink]\nroutes = ['twin', 'c2d']\ncomplete_on = 'confirmed'\nexpiry = '2h'\nport = 9\n\
         [downlink.methods.Open-Valve]\nport = 10\nconfirmed = true\npriority = 'above_normal'\nqueue = 'replace'\n\
         payload = '{\"open\": true}'\n\
         [downlink.applications.cold-chain]\nroutes = []\nport = 1\n[downlink.applications.cold-chain.methods.x]\n\
         [downlink.applications.cold-chain.properties.setPoint]\nport = 223\n\
         [twin]\nreported = false\nmin_interval = '1m'\nmax_rate = 5\n",
    )
    .config();
    assert_eq!(config.things_stack.allowed_hosts, ["eu1.example:8443", "localhost"]);
    let downlink = &config.downlink;
    assert_eq!(downlink.routes, [DownlinkRoute::Twin, DownlinkRoute::C2d]);
    assert_eq!(downlink.complete_on, CompleteOn::Confirmed);
    assert_eq!((downlink.expiry, downlink.port), (Duration::from_secs(7200), Some(9)));
    let expected = Command {
        port: Some(10),
        confirmed: Some(true),
        priority: Some("above_normal".into()),
        queue: Some("replace".into()),
        payload: Some("{\"open\": true}".into()),
    };
    assert_eq!(downlink.methods["Open-Valve"], expected);
    let application = &downlink.applications["cold-chain"];
    assert_eq!((application.routes.as_deref(), application.port), (Some(&[][..]), Some(1)));
    assert_eq!(application.methods["x"], Command::default());
    assert_eq!(application.properties["setPoint"].port, Some(223));
    assert!(!config.twin.reported);
    assert_eq!(config.twin.max_rate, Some(5));
}

#[test]
fn values_out_of_place_are_refused_with_their_key() {
    for (toml, key) in [
        ("[downlink]\nroutes = ['c2d', 'c2d']", "downlink.routes"),
        ("[downlink]\nroutes = ['mqtt']", "downlink.routes"),
        ("[downlink]\nport = 0", "downlink.port"),
        ("[downlink]\nport = 224", "downlink.port"),
        ("[downlink]\nexpiry = '5s'", "downlink.expiry"),
        ("[downlink]\ncomplete_on = 'ack'", "downlink.complete_on"),
        ("[downlink.methods.a]\nconfirmed = 'yes'", "downlink.methods.a.confirmed"),
        ("[downlink.methods.a]\npriority = 'urgent'", "downlink.methods.a.priority"),
        ("[downlink.methods.a]\nqueue = 'append'", "downlink.methods.a.queue"),
        ("[downlink.methods.a]\npayload = '{open: 1}'", "downlink.methods.a.payload"),
        ("[downlink.properties.'a.b']\nport = 1", "downlink.properties.a.b"),
        ("[downlink.applications.X]\nport = 1", "downlink.applications.X"),
        ("[things_stack]\nallowed_hosts = ['https://eu1']", "things_stack.allowed_hosts"),
        ("[things_stack]\nallowed_hosts = ['eu1/x']", "things_stack.allowed_hosts"),
        ("[things_stack]\nallowed_hosts = ['me@eu1']", "things_stack.allowed_hosts"),
        ("[things_stack]\nrequest_timeout = '1m'", "things_stack.request_timeout"),
        ("[twin]\nmax_rate = 0", "twin.max_rate"),
        ("[twin]\nmin_interval = '0s'", "twin.min_interval"),
        ("[azure]\nattach_rate = 0", "azure.attach_rate"),
        ("[azure]\nrelocate_after = \"0s\"", "azure.relocate_after"),
    ] {
        let problem = given(toml).problem();
        assert_eq!(problem.key, key, "{problem}");
    }
}

#[test]
fn a_variable_sets_a_list_and_a_switch() {
    let config = given("")
        .variable("DOWNLINK__ROUTES", "method, c2d")
        .variable("TWIN__REPORTED", "false")
        .variable("DOWNLINK__APPLICATIONS__COLD_CHAIN__PORT", "7")
        .config();
    assert_eq!(config.downlink.routes, [DownlinkRoute::Method, DownlinkRoute::C2d]);
    assert!(!config.twin.reported);
    assert_eq!(config.downlink.applications["cold-chain"].port, Some(7));
    let problem = given("").variable("TWIN__REPORTED", "perhaps").problem();
    assert_eq!(problem.key, "twin.reported");
}
