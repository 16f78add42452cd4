//! The configuration's rules.

use tti_connector::config::{Command, Downlink, DownlinkApplication, DownlinkRoute};
use tti_connector::downlink::translate::Rules;
use tti_connector::iot_hub::Links;

#[test]
fn an_application_uses_its_own_routes_or_the_general_ones() {
    let mut downlink = Downlink::default();
    let own =
        DownlinkApplication { routes: Some(vec![DownlinkRoute::Method]), ..DownlinkApplication::default() };
    downlink.applications.insert("own".to_owned(), own);
    let none = DownlinkApplication { routes: Some(vec![]), ..DownlinkApplication::default() };
    downlink.applications.insert("none".to_owned(), none);
    let rules = Rules::new(&downlink).unwrap();
    assert_eq!(rules.links("any"), Links { c2d: true, methods: true, twin: true });
    assert_eq!(rules.links("own"), Links { methods: true, ..Links::NONE });
    assert_eq!(rules.links("none"), Links::NONE);
}

#[test]
fn a_value_that_can_t_be_meant_is_named_by_its_key() {
    let text = |value: &str| Some(value.to_owned());
    for (command, message) in [
        (Command { port: Some(224), ..Command::default() }, "port must be an FPort from 1 to 223"),
        (Command { port: Some(0), ..Command::default() }, "port must be an FPort from 1 to 223"),
        (
            Command { priority: text("urgent"), ..Command::default() },
            "priority must be one of lowest, low, below_normal, normal, above_normal, high, highest",
        ),
        (Command { queue: text("append"), ..Command::default() }, "queue must be push or replace"),
        (Command { payload: text("{"), ..Command::default() }, "payload must be JSON"),
    ] {
        let mut downlink = Downlink::default();
        let mut app = DownlinkApplication::default();
        app.properties.insert("led".to_owned(), command);
        downlink.applications.insert("a".to_owned(), app);
        let error = Rules::new(&downlink).unwrap_err().to_string();
        assert_eq!(error, format!("downlink.applications.a.properties.led.{message}"));
    }
}
