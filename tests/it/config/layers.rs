//! Defaults, file and environment, and who wins.

use std::path::Path;
use std::time::Duration;

use tti_connector::config::{Config, Place, Route, TelemetryFormat, Transport};

use super::{GROUP_KEY, Given, HUB};

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let given = Given::with_hub("[webhook]\nmax_connections = 7\nmax_wait = '5s'\n")
        .variable("WEBHOOK__MAX_CONNECTIONS", "9")
        .variable("TELEMETRY__FORMAT", "decoded");
    let config = given.config();
    assert_eq!(config.webhook.max_connections, 9);
    assert_eq!(config.webhook.max_wait, Duration::from_secs(5));
    assert_eq!(config.webhook.read_timeout, Config::default().webhook.read_timeout);
    assert_eq!(config.telemetry.format, TelemetryFormat::Decoded);
}

#[test]
fn values_are_read_in_each_of_their_forms() {
    let config = Given::with_hub(
        "[webhook]\nlisten = '[::1]:80'\nmax_body_bytes = '256 KiB'\nmax_wait = 3\n\
         [spool]\nmax_bytes = 2000000\n[uplink]\nretry_initial = '250ms'\n\
         [azure]\ntransport = 'amqp_ws'\namqp_port = '5672'\n[log]\nlevel = 'info,tti_connector::spool=debug'\n",
    )
    .variable("DEVICES__IDLE_TIMEOUT", "90")
    .variable("SPOOL__MEMORY_BYTES", "2MiB")
    .config();
    assert_eq!(config.webhook.listen.to_string(), "[::1]:80");
    assert_eq!(config.webhook.max_body_bytes, 262_144);
    assert_eq!(config.webhook.max_wait, Duration::from_secs(3));
    assert_eq!(config.spool.max_bytes, 2_000_000);
    assert_eq!(config.uplink.retry_initial, Duration::from_millis(250));
    assert_eq!(config.azure.transport, Transport::AmqpWs);
    assert_eq!(config.azure.devices_per_connection(), 500, "IoT Hub's limit over WebSocket");
    assert_eq!(config.azure.amqp_port, 5672);
    assert_eq!(config.devices.idle_timeout, Duration::from_secs(90));
    assert_eq!(config.spool.memory_bytes, 2 << 20);
}

#[test]
fn an_application_id_in_a_variable_has_underscores_for_dashes() {
    let config = Given::nothing()
        .variable("AZURE__APPLICATIONS__COLD_CHAIN__DPS__ID_SCOPE", "0ne00123ABC")
        .variable("AZURE__APPLICATIONS__cold-chain__DPS__GROUP_ENROLLMENT_KEY", GROUP_KEY)
        .config();
    let Some(Route::Dps { id_scope, group_enrollment_key, .. }) = config.azure.route("cold-chain") else {
        panic!("{config:?}")
    };
    assert_eq!((id_scope, group_enrollment_key.reveal()), ("0ne00123ABC", GROUP_KEY));
}

#[test]
fn a_variable_joins_the_section_that_the_file_opened() {
    let given = Given::toml("[azure.applications.cold-chain.dps]\nid_scope = '0ne1'\n")
        .variable("AZURE__APPLICATIONS__COLD_CHAIN__DPS__GROUP_ENROLLMENT_KEY", GROUP_KEY);
    assert!(matches!(given.config().azure.route("cold-chain"), Some(Route::Dps { id_scope: "0ne1", .. })));
}

#[test]
fn secrets_of_a_variable_keep_every_character() {
    for (text, secrets) in [
        ("0042,1e5", vec!["0042", "1e5"]),
        (r#"["a,b", 'c"d']"#, vec!["a,b", "c\"d"]),
        ("true", vec!["true"]),
    ] {
        let config = Given::nothing()
            .variable("AZURE__IOT_HUB__CONNECTION_STRING", HUB)
            .variable("WEBHOOK__SECRETS", text);
        let config = config.config();
        let read: Vec<_> = config.webhook.secrets.iter().map(|secret| secret.reveal()).collect();
        assert_eq!(read, secrets);
    }
}

#[test]
fn variables_of_others_are_left_alone() {
    let mut given = Given::with_hub("");
    // Kubernetes sets these for a service named tti-connector.
    for name in ["TTI_CONNECTOR_PORT", "TTI_CONNECTOR_SERVICE_HOST", "TTI_CONNECTOR_CONFIG", "PATH"] {
        given.variables.push((name.to_owned(), "x".to_owned()));
    }
    given.config();
}

#[test]
fn the_same_key_by_two_spellings_of_a_variable_is_refused() {
    let given = Given::with_hub("").variable("LOG__LEVEL", "info").variable("log__level", "debug");
    let problem = given.problem();
    assert_eq!(problem.key, "log.level");
    assert!(problem.reason.contains("TTI_CONNECTOR__LOG__LEVEL"), "{problem}");
}

#[test]
fn a_file_that_is_not_there_is_one_clear_problem() {
    let problems = Config::load(Some(Path::new("/no/such/file.toml")), std::iter::empty()).unwrap_err();
    let [problem] = problems.problems() else { panic!("{problems}") };
    assert_eq!(problem.place, Some(Place::File("/no/such/file.toml".into())));
    assert!(problem.reason.contains("can't be read"), "{problem}");
}

#[test]
fn no_depth_of_a_variables_name_harms() {
    let deep = vec!["A"; 40_000].join("__");
    let problem = Given::with_hub("").variable(&deep, "x").problem();
    assert!(problem.reason.contains("too many parts"));
}
