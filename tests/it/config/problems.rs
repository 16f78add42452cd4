//! Every problem at once, each with its key, place, reason and fix.

use tti_connector::config::Place;

use super::{GROUP_KEY, Given, HUB_KEY};

#[test]
fn every_problem_is_reported_at_once() {
    let given = Given::toml(
        "[webhook]\nlisten = 'everywhere'\nmax_wait = '5 minutes'\nsecrets = 'one'\nportt = 1\n\
         [spool]\nmax_messages = -1\nmax_bytes = '2 TiB'\n[azure]\nkeep_alive = '4m'\namqp_port = 70000\n\
         [devices]\nhub_id = 'x'\n[log]\nformat = 'jsn'\nlevel = 'inof'\n",
    )
    .variable("TELEMETRY__FORMAT", "")
    .variable("ADMIN", "on");
    let mut refused = given.refused();
    refused.sort();
    assert_eq!(
        refused,
        [
            "admin",
            "azure",
            "azure.amqp_port",
            "azure.keep_alive",
            "devices.hub_id",
            "log.format",
            "log.level",
            "spool.max_bytes",
            "spool.max_messages",
            "telemetry.format",
            "webhook.listen",
            "webhook.max_wait",
            "webhook.portt",
            "webhook.secrets",
        ]
    );
    let text = given.load().unwrap_err().to_string();
    assert!(text.starts_with("the configuration has 14 problems\n  1. "), "{text}");
    assert!(text.contains("\n 14. "), "{text}");
    assert_eq!(text.matches("fix: ").count(), 14, "{text}");
}

#[test]
fn a_missing_hub_is_reported_beside_everything_else() {
    let refused =
        Given::toml("[log]\nlevel = 'loud'\n[webhok]\nlisten = 'x'\n[azure]\nkeep_alive = '9m'\n").refused();
    assert_eq!(refused, ["azure.keep_alive", "log.level", "webhok", "azure"]);
}

#[test]
fn an_unknown_key_names_the_one_that_was_meant_and_its_place() {
    let cases = [
        ("[webhook]\nmax_bodybytes = 1\n", "webhook.max_bodybytes", "`webhook.max_body_bytes`"),
        ("[webhok]\nlisten = 'x'\n", "webhok", "`webhook`"),
        ("[azure.iothub]\nconnection_string = 'x'\n", "azure.iothub", "`azure.iot_hub`"),
        ("[azure]\nid_scope = 'x'\n", "azure.id_scope", "`azure.dps.id_scope`"),
        (
            "[azure]\nendpoint = 'x'\n[azure.applications.abc]\n[log]\n",
            "azure.endpoint",
            "`azure.dps.endpoint`",
        ),
        ("[webhook]\nmax-wait = '1s'\n", "webhook.max-wait", "`webhook.max_wait`"),
        (
            "[azure.applications.abc.dsp]\nx = 1\n",
            "azure.applications.abc.dsp",
            "`azure.applications.abc.dps`",
        ),
        ("[shutdown]\nqqq = 1\n", "shutdown.qqq", "[shutdown] takes `grace`"),
    ];
    for (toml, key, meant) in cases {
        let given = Given::with_hub(toml);
        let problem = given.problem();
        assert_eq!((problem.key.as_str(), problem.reason.as_str()), (key, "unknown key"));
        assert!(problem.fix.contains(meant), "{problem}");
        assert_eq!(problem.place, given.file.map(Place::File));
    }
}

#[test]
fn an_unknown_variable_is_answered_with_a_variable() {
    for (variable, meant) in [
        ("WEBHOOK__LISTN", "`TTI_CONNECTOR__WEBHOOK__LISTEN`"),
        ("WEBHOOK_LISTEN", "`TTI_CONNECTOR__WEBHOOK__LISTEN`"),
        (
            "AZURE__APPLICATIONS__COLD_CHAIN__DPS__IDSCOPE",
            "`TTI_CONNECTOR__AZURE__APPLICATIONS__COLD_CHAIN__DPS__ID_SCOPE`",
        ),
    ] {
        let problem = Given::with_hub("").variable(variable, "x").problem();
        assert_eq!(problem.place, Some(Place::Variable(format!("TTI_CONNECTOR__{variable}"))));
        assert!(problem.fix.contains(meant), "{problem}");
    }
}

#[test]
fn a_syntax_error_names_line_and_column_but_shows_no_line() {
    let toml = format!("[azure.dps]\nid_scope = '0ne1'\ngroup_enrollment_key = \"{GROUP_KEY}\n");
    let given = Given::toml(&toml);
    let problem = given.problem();
    assert!(problem.reason.contains("line 3, column"), "{problem}");
    assert!(!format!("{problem} {problem:?}").contains(GROUP_KEY), "{problem}");
}

#[test]
fn a_syntax_error_does_not_hide_problems_of_the_environment() {
    let refused = Given::toml("[webhook\n").variable("LOG__LEVEL", "loud").refused();
    assert_eq!(refused, ["", "log.level"]);
}

#[test]
fn limits_are_refused_with_their_reason() {
    for (key, value, why) in [
        ("AZURE__KEEP_ALIVE", "111s", "240 s"),
        ("AZURE__KEEP_ALIVE", "0s", "240 s"),
        ("AZURE__MAX_DEVICES_PER_CONNECTION", "996", "995"),
        ("AZURE__MAX_DEVICES_PER_CONNECTION", "0", "995"),
        ("AZURE__TOKEN_LIFETIME", "31d", "30d"),
        ("AZURE__TOKEN_LIFETIME", "59s", "1m"),
        ("AZURE__AMQP_PORT", "0", "1 to 65535"),
        ("SPOOL__MAX_MESSAGES", "340282366920938463463374607431768211456", "whole number"),
        ("WEBHOOK__MAX_BODY_BYTES", "1", "16 KiB to 64 MiB"),
    ] {
        let problem = Given::with_hub("").variable(key, value).problem();
        assert!(problem.reason.contains(why), "{key}={value}: {problem}");
    }
    for (key, value) in [
        ("AZURE__KEEP_ALIVE", "110s"),
        ("AZURE__MAX_DEVICES_PER_CONNECTION", "995"),
        ("AZURE__TOKEN_LIFETIME", "30d"),
        ("AZURE__TOKEN_LIFETIME", "1m"),
        ("AZURE__AMQP_PORT", "65535"),
    ] {
        Given::with_hub("").variable(key, value).config();
    }
}

#[test]
fn texts_with_a_form_of_their_own_are_checked() {
    let refused = [
        ("DEVICES__HUB_ID", "{application_id}"),
        ("DEVICES__HUB_ID", "{device_id}-{foo}"),
        ("DEVICES__HUB_ID", "{device_id"),
        ("DEVICES__HUB_ID", "device_id}"),
        ("DEVICES__HUB_ID", "{device_id} x"),
        ("DEVICES__HUB_ID", "DevEUI"),
        ("LOG__LEVEL", "inof"),
        ("LOG__LEVEL", "tti_connector=loud"),
        ("THINGS_STACK__BASE_URL", "eu1.cloud.thethings.network"),
        ("THINGS_STACK__BASE_URL", "ftp://eu1.cloud.thethings.network"),
        ("AZURE__PROXY", "socks5://p:1"),
        ("AZURE__PROXY", "http://p:1/path"),
        ("AZURE__DPS__ENDPOINT", "http://dps.example.com"),
        ("AZURE__DPS__ENDPOINT", "dps.example.com/path"),
        ("AZURE__MODEL_ID", "com:example;1"),
        ("AZURE__CA_FILE", "/no/such/ca.pem"),
        ("AZURE__APPLICATIONS__AB__MODEL_ID", "dtmi:com:example:Thermometer;1"),
        ("WEBHOOK__LISTEN", "localhost:8080"),
        ("WEBHOOK__LISTEN", ":8080"),
    ];
    for (key, value) in refused {
        let problem = Given::with_hub("").variable(key, value).problem();
        assert!(!problem.fix.is_empty(), "{problem}");
    }
    let taken = [
        ("DEVICES__HUB_ID", "dev_eui"),
        ("DEVICES__HUB_ID", "{tenant}.{application_id}-{device_id}"),
        ("LOG__LEVEL", "WARN"),
        ("LOG__LEVEL", "off,tti_connector=trace"),
        ("THINGS_STACK__BASE_URL", "https://thethings.example.com:8443/"),
        ("AZURE__PROXY", "http://proxy.example.com:3128"),
        ("AZURE__PROXY", "http://user:password@proxy.example.com:3128"),
        ("AZURE__DPS__ENDPOINT", "127.0.0.1:8443"),
        ("AZURE__DPS__ENDPOINT", "https://dps.example.com"),
        ("AZURE__MODEL_ID", "dtmi:com:example:Thermometer;1"),
    ];
    for (key, value) in taken {
        Given::with_hub("").variable(key, value).config();
    }
}

#[test]
fn a_ca_file_must_hold_a_certificate() {
    let given = Given::with_hub("");
    let empty = given.write("empty.pem", "no certificate here\n");
    let broken = given.write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
    let good = given.write("good.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
    let load = |path: &std::path::Path| {
        let toml = format!("[azure]\nca_file = '{}'\n", path.display());
        Given::with_hub(&toml).load()
    };
    assert!(load(&empty).unwrap_err().to_string().contains("has no certificate"));
    assert!(load(&broken).unwrap_err().to_string().contains("is not PEM"));
    assert_eq!(load(&good).unwrap().azure.ca_file, Some(good));
}

#[test]
fn a_network_listener_without_a_secret_is_refused() {
    for listen in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080"] {
        let problem = Given::with_hub("").variable("WEBHOOK__LISTEN", listen).problem();
        assert_eq!(problem.key, "webhook.secrets");
        Given::with_hub("")
            .variable("WEBHOOK__LISTEN", listen)
            .variable("WEBHOOK__SECRETS", "s3cret")
            .config();
    }
    for listen in ["127.0.0.1:0", "[::1]:8080", "127.8.8.8:80", "[::ffff:127.0.0.1]:8080"] {
        Given::with_hub("").variable("WEBHOOK__LISTEN", listen).config();
    }
    let empty = Given::with_hub("[webhook]\nlisten = '0.0.0.0:1'\nsecrets = []\n").refused();
    assert_eq!(empty, ["webhook.secrets"]);
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    for (toml, key) in [
        ("[uplink]\nretry_initial = '2m'\n", "uplink.retry_initial"),
        ("[spool]\nmax_bytes = '1 MiB'\n[webhook]\nmax_body_bytes = '2 MiB'\n", "spool.max_bytes"),
        ("[admin]\nlisten = '127.0.0.1:8080'\n", "admin.listen"),
        ("[admin]\nlisten = '0.0.0.0:8080'\n", "admin.listen"),
        ("[things_stack.applications.abc]\napi_key = 'NNSXS.X'\n", "things_stack.base_url"),
    ] {
        assert_eq!(Given::with_hub(toml).problem().key, key);
    }
    Given::with_hub("[admin]\nlisten = '127.0.0.1:0'\n[webhook]\nlisten = '127.0.0.1:0'\n").config();
}

#[test]
fn an_address_of_the_things_stack_with_the_apis_own_path_is_refused() {
    for tail in ["/api/v3", "/api/v3/", "/console", "/tts/api/v3"] {
        let toml = format!("[things_stack]\nbase_url = 'https://eu1.example.com{tail}'\n");
        assert_eq!(Given::with_hub(&toml).problem().key, "things_stack.base_url", "{tail}");
    }
    for tail in ["", "/", "/tts"] {
        Given::with_hub(&format!("[things_stack]\nbase_url = 'https://eu1.example.com{tail}'\n")).config();
    }
}

#[test]
fn a_value_refused_for_its_form_is_not_also_reported_as_missing() {
    for (toml, key) in [
        ("[azure.iot_hub]\nconnection_string = 'HostName=x'\n", "azure.iot_hub.connection_string"),
        ("[azure.dps]\nid_scope = '0ne1'\ngroup_enrollment_key = '-'\n", "azure.dps.group_enrollment_key"),
        ("[webhook]\nlisten = '0.0.0.0:1'\nsecrets = ['']\n", "webhook.secrets"),
        ("[admin]\nlisten = 'x'\n[webhook]\nlisten = '127.0.0.1:9090'\n", "admin.listen"),
    ] {
        let given = if toml.contains("azure") { Given::toml(toml) } else { Given::with_hub(toml) };
        assert_eq!(given.problem().key, key);
    }
}

#[test]
fn an_invalid_connection_string_is_refused_without_its_key() {
    for text in [
        format!("SharedAccessKeyName=device;SharedAccessKey={HUB_KEY}"),
        format!("HostName=h.example.com;SharedAccessKey={HUB_KEY}"),
        format!("HostName=h.example.com;SharedAccessKeyName=p;DeviceId=d;SharedAccessKey={HUB_KEY}"),
        format!("HostName=h.example.com;SharedAccessKeyName=p;SharedAccessKey=%{HUB_KEY}"),
        HUB_KEY.to_owned(),
    ] {
        let problem = Given::nothing().variable("AZURE__IOT_HUB__CONNECTION_STRING", &text).problem();
        assert_eq!(problem.key, "azure.iot_hub.connection_string");
        assert!(!format!("{problem} {problem:?}").contains(HUB_KEY), "{problem}");
    }
}

#[test]
fn no_value_of_any_key_panics_or_goes_unnoticed() {
    let values = [
        "-1",
        "0",
        "9223372036854775807",
        "1e300",
        "nan",
        "true",
        "[]",
        "[[1]]",
        "{}",
        "{ a.b.c = 1 }",
        "''",
        "'\u{202e}'",
        "1979-05-27T07:32:00Z",
        "'99999999999999999999d'",
        "'é ms'",
        "'{{}}'",
        "'{'",
    ];
    // The hub's connection string comes from a variable, which wins.
    let keys = tti_connector::config::Config::keys().into_iter();
    for key in keys.filter(|key| key.path != "azure.iot_hub.connection_string") {
        for value in values {
            let path = key.path.replace("<id>", "abc");
            let given = Given::with_hub(&format!("{path} = {value}\n"));
            // Each value is taken, or refused by its own key, or breaks a rule that names a key of its own.
            if let Err(problems) = given.load() {
                assert!(problems.problems().iter().all(|one| !one.key.is_empty() && !one.fix.is_empty()));
            } else {
                let switch = path.ends_with(".confirmed") || path == "twin.reported";
                assert!(switch || value != "true", "{path} = {value}");
                assert!(!matches!(value, "nan" | "[[1]]" | "1e300"), "{path} = {value}");
            }
        }
    }
}
