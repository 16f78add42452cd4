//! Secrets in place and in files, and that none is ever shown.

use super::{GROUP_KEY, Given, HUB, HUB_KEY};

#[test]
fn every_secret_is_read_from_its_file() {
    let given = Given::nothing();
    let hub = given.write("hub", format!("  {HUB}\r\n"));
    let group = given.write("group", format!("{GROUP_KEY}\n"));
    let api = given.write("api", "NNSXS.ABC\n");
    let webhook = given.write("webhook", "first\r\n\n  second \n");
    let toml = format!(
        "[webhook]\nsecrets_file = '{}'\n[azure.iot_hub]\nconnection_string_file = '{}'\n\
         [azure.applications.abc.dps]\nid_scope = '0ne1'\ngroup_enrollment_key_file = '{}'\n\
         [azure.applications.def.iot_hub]\nconnection_string_file = '{}'\n\
         [things_stack]\nbase_url = 'https://eu1.cloud.thethings.network'\n\
         [things_stack.applications.abc]\napi_key_file = '{}'\n",
        webhook.display(),
        hub.display(),
        group.display(),
        hub.display(),
        api.display()
    );
    let config = Given::toml(&toml).config();
    let webhook: Vec<_> = config.webhook.secrets.iter().map(|secret| secret.reveal()).collect();
    assert_eq!(webhook, ["first", "second"]);
    assert_eq!(config.azure.iot_hub.connection_string.unwrap().reveal(), HUB);
    assert_eq!(
        config.azure.applications["abc"].dps.group_enrollment_key.as_ref().unwrap().reveal(),
        GROUP_KEY
    );
    assert_eq!(config.azure.applications["def"].iot_hub.connection_string.as_ref().unwrap().reveal(), HUB);
    assert_eq!(config.things_stack.applications["abc"].api_key.as_ref().unwrap().reveal(), "NNSXS.ABC");
}

#[test]
fn a_secret_in_place_and_in_a_file_is_refused() {
    let given = Given::nothing();
    let file = given.write("s", HUB);
    let toml = format!(
        "[webhook]\nsecrets = ['a']\nsecrets_file = '{0}'\n[azure.iot_hub]\nconnection_string_file = '{0}'\n",
        file.display()
    );
    let given = Given::toml(&toml).variable("AZURE__IOT_HUB__CONNECTION_STRING", HUB);
    assert_eq!(given.refused(), ["webhook.secrets_file", "azure.iot_hub.connection_string_file"]);
    assert!(given.problems()[1].reason.contains("TTI_CONNECTOR__AZURE__IOT_HUB__CONNECTION_STRING"));
}

#[test]
fn a_file_that_can_not_be_used_is_refused_by_key_and_name() {
    let given = Given::nothing();
    let folder = given.folder.path().to_owned();
    let cases = [
        (folder.join("absent"), "can't be read"),
        (folder.clone(), "not a regular file"),
        (given.write("empty", " \n\n"), "is empty"),
        (given.write("long", "x".repeat(100_000)), "longer than 65536 bytes"),
        (given.write("binary", [0xff, 0xfe]), "not UTF-8"),
        (given.write("other", "nothing of the kind"), "no connection string"),
    ];
    for (path, reason) in cases {
        let toml = format!("[azure.iot_hub]\nconnection_string_file = '{}'\n", path.display());
        let problem = Given::toml(&toml).problem();
        assert_eq!(problem.key, "azure.iot_hub.connection_string_file");
        assert!(problem.reason.contains(reason), "{problem}");
        assert!(problem.reason.contains(&path.display().to_string()), "{problem}");
    }
}

#[test]
fn a_secrets_file_without_a_secret_is_refused() {
    let given = Given::nothing();
    let path = given.write("empty", "\n \n");
    let problem = Given::with_hub(&format!("[webhook]\nsecrets_file = '{}'\n", path.display())).problem();
    assert_eq!(problem.key, "webhook.secrets_file");
}

#[test]
fn empty_secrets_are_refused() {
    for toml in
        ["secrets = ['']", "secrets = ['good', '  ']", "secrets = ['a', 5]", "secrets = [\"a\\u0000\"]"]
    {
        assert_eq!(Given::with_hub(&format!("[webhook]\n{toml}\n")).problem().key, "webhook.secrets");
    }
    for text in ["", " ", "a,,b", "a,", "[\"a\"", "[1]"] {
        assert_eq!(
            Given::with_hub("").variable("WEBHOOK__SECRETS", text).problem().key,
            "webhook.secrets",
            "{text}"
        );
    }
    let empty = Given::nothing().variable("AZURE__IOT_HUB__CONNECTION_STRING", " ").problem();
    assert_eq!((empty.key.as_str(), empty.reason.as_str()), ("azure.iot_hub.connection_string", "empty"));
}

#[test]
fn a_group_key_that_is_no_base64_is_refused() {
    for key in ["not base64!", "Z3JvdXA", "===="] {
        let given = Given::nothing()
            .variable("AZURE__DPS__ID_SCOPE", "0ne1")
            .variable("AZURE__DPS__GROUP_ENROLLMENT_KEY", key);
        let problem = given.problem();
        assert_eq!(problem.key, "azure.dps.group_enrollment_key");
        assert!(!problem.to_string().contains(key), "{problem}");
    }
}

#[test]
fn no_secret_is_shown_by_debug_or_in_a_problem() {
    const WEBHOOK: &str = "hush-webhook-hush";
    const API: &str = "NNSXS.HUSHHUSH";
    const PROXY: &str = "http://user:hush-proxy@proxy.example.com:3128";
    let toml = format!(
        "[webhook]\nsecrets = ['{WEBHOOK}']\n[azure.iot_hub]\nconnection_string = '{HUB}'\n\
         [azure.applications.abc.dps]\nid_scope = '0ne1'\ngroup_enrollment_key = '{GROUP_KEY}'\n\
         [things_stack]\nbase_url = 'https://eu1.cloud.thethings.network'\n\
         [things_stack.applications.abc]\napi_key = '{API}'\n[azure]\nproxy = '{PROXY}'\n"
    );
    let hidden = |text: String| {
        for secret in [WEBHOOK, HUB_KEY, GROUP_KEY, API, "hush-proxy"] {
            assert!(!text.contains(secret), "{text}");
        }
    };
    hidden(format!("{:?}", Given::toml(&toml).config()));
    // Each secret in each wrong place: as another kind of value, as a key's value, as the name of a file.
    for secret in [WEBHOOK, HUB, GROUP_KEY, API, PROXY] {
        for key in tti_connector::config::Config::keys() {
            let variable = key.path.replace('.', "__").replace("<id>", "xyz").to_uppercase();
            let given = Given::toml(&toml).variable(&variable, secret);
            if let Err(problems) = given.load() {
                hidden(format!("{problems} {problems:?}"));
            }
        }
    }
}
