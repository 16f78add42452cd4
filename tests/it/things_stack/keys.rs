//! API keys from the webhook's headers: which are believed, and where they go.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use tti_connector::model::{EndDevice, Secret};
use tti_connector::things_stack::{
    Access, ClientOptions, DownlinkOffer, KeyOptions, Keys, Learnt, NotLearnt, Operation,
};

use super::server::{DEADLINE, Server, answer, client, device, downlink};

const BASE: &str = "https://eu1.cloud.thethings.network";
const PATH: &str = "/api/v3/as/applications/house/webhooks/azure/devices/cellar/down/push";

fn keys() -> Keys {
    Keys::new(KeyOptions { base_url: Some(BASE.to_owned()), ..KeyOptions::default() }).expect("valid")
}

fn offer<'a>(api_key: &'a str, push: &'a str) -> DownlinkOffer<'a> {
    DownlinkOffer { api_key, push: Some(push), replace: None }
}

fn key_of(keys: &Keys, device: &EndDevice) -> Option<String> {
    keys.access(device).map(|access| access.key.reveal().to_owned())
}

#[test]
fn a_key_for_the_configured_address_is_learnt_once_and_renewed() {
    let keys = keys();
    let cellar = device("cellar");
    assert!(!keys.serves("house") && keys.access(&cellar).is_none());
    let url = format!("{BASE}{PATH}");
    assert_eq!(keys.learn(&cellar, offer("NNSXS.1", &url)), Learnt::New);
    assert_eq!(keys.learn(&cellar, offer("NNSXS.1", &url)), Learnt::Known);
    let attic = device("attic");
    assert_eq!(keys.learn(&attic, offer("NNSXS.1", &url.replace("cellar", "attic"))), Learnt::Known);
    let access = keys.access(&attic).expect("the application's");
    assert_eq!((access.key.reveal(), access.webhook_id.as_deref()), ("NNSXS.1", Some("azure")));
    assert!(keys.serves("house") && !keys.serves("barn"));

    let same_keys = keys.clone();
    assert_eq!(same_keys.learn(&cellar, offer("NNSXS.2", &url)), Learnt::Renewed);
    assert_eq!(key_of(&keys, &attic).as_deref(), Some("NNSXS.2"));
    assert_eq!(keys.learn(&cellar, offer("NNSXS.2", &url.replace("azure", "other"))), Learnt::Renewed);
    assert_eq!(keys.access(&attic).expect("known").webhook_id.as_deref(), Some("other"));
}

#[test]
fn addresses_are_compared_as_addresses() {
    for (base, url) in [
        (BASE, format!("https://EU1.Cloud.TheThings.Network{PATH}")),
        (BASE, format!("HTTPS://eu1.cloud.thethings.network:443{PATH}")),
        ("https://EU1.cloud.thethings.network:443/", format!("{BASE}{PATH}")),
        ("https://tts.example/stack/", format!("https://tts.example/stack{PATH}")),
        ("http://127.0.0.1:1885", format!("http://127.0.0.1:1885{PATH}")),
        ("https://[::1]:8885", format!("https://[::1]:8885{PATH}")),
        (BASE, format!("{BASE}/api/v3/as/applications/house/devices/cellar/down/push")),
    ] {
        let options = KeyOptions { base_url: Some(base.to_owned()), ..KeyOptions::default() };
        let keys = Keys::new(options).expect("valid");
        assert_eq!(keys.learn(&device("cellar"), offer("k", &url)), Learnt::New, "{base} {url}");
        assert_eq!(keys.learn(&device("cellar"), offer("k", &url)), Learnt::Known, "{base} {url}");
    }
    let keys = keys();
    let replace = format!("{BASE}{}", PATH.replace("push", "replace"));
    let only_replace = DownlinkOffer { api_key: "k", push: None, replace: Some(&replace) };
    assert_eq!(keys.learn(&device("cellar"), only_replace), Learnt::New);
    assert_eq!(keys.learn(&device("cellar"), only_replace), Learnt::Known);
}

#[test]
fn other_addresses_are_not_believed() {
    let keys = keys();
    for url in [
        format!("https://evil.example{PATH}"),
        format!("https://eu1.cloud.thethings.network.evil.example{PATH}"),
        format!("https://eu1.cloud.thethings.network.{PATH}"),
        format!("https://evil.example/eu1.cloud.thethings.network{PATH}"),
        format!("https://eu1.cloud.thethings.network:8443{PATH}"),
        format!("https://eu1.cloud.thethings.network:80{PATH}"),
        format!("http://eu1.cloud.thethings.network{PATH}"),
        format!("http://eu1.cloud.thethings.network:443{PATH}"),
        format!("https://xn--eu1-cloud-thethings-network{PATH}"),
        format!("https://127.0.0.1{PATH}"),
        format!("https://169.254.169.254{PATH}"),
        format!("https://localhost{PATH}"),
    ] {
        let learnt = keys.learn(&device("cellar"), offer("k", &url));
        assert_eq!(learnt, Learnt::Ignored(NotLearnt::Host), "{url}");
    }
    assert!(!keys.serves("house"));
}

#[test]
fn urls_that_only_look_right_are_not_read() {
    let keys = keys();
    for url in [
        format!("https://eu1.cloud.thethings.network@evil.example{PATH}"),
        format!("https://user:word@eu1.cloud.thethings.network{PATH}"),
        format!("https://eu1.cloud.thethings.network:443@evil.example{PATH}"),
        format!("https://evil.example\\@eu1.cloud.thethings.network{PATH}"),
        format!("https://evil.example#@eu1.cloud.thethings.network{PATH}"),
        format!("https://evil.example?@eu1.cloud.thethings.network{PATH}"),
        // Full-width and other letters, and dots, that become the real name when they are made normal.
        format!("https://ｅｕ１.cloud.thethings.network{PATH}"),
        format!("https://eu1。cloud。thethings。network{PATH}"),
        format!("https://eu1.cloud.thethings.networ\u{212a}{PATH}"),
        format!("https://eu1.cloud.thethings.net\u{ad}work{PATH}"),
        format!("https://eu1%2ecloud.thethings.network{PATH}"),
        format!("https://eu1\t.cloud.thethings.network{PATH}"),
        format!("https:eu1.cloud.thethings.network{PATH}"),
        format!("https:///eu1.cloud.thethings.network{PATH}"),
        format!("https:\\\\eu1.cloud.thethings.network{PATH}"),
        format!("//eu1.cloud.thethings.network{PATH}"),
        format!("eu1.cloud.thethings.network{PATH}"),
        format!("ftp://eu1.cloud.thethings.network{PATH}"),
        format!("javascript://eu1.cloud.thethings.network{PATH}"),
        format!("{BASE}{PATH}?a=b"),
        format!("{BASE}{PATH}#a"),
        format!("{BASE}{PATH}/"),
        format!("{BASE}{PATH}/push"),
        format!("{BASE}/{PATH}"),
        format!("{BASE}/x{PATH}"),
        format!("{BASE}/x/..{PATH}"),
        format!("{BASE}/%2e%2e{PATH}"),
        format!("{BASE}{}", PATH.replace("house", "barn")),
        format!("{BASE}{}", PATH.replace("house", "House")),
        format!("{BASE}{}", PATH.replace("house", "barn/../house")),
        format!("{BASE}{}", PATH.replace("cellar", "attic")),
        format!("{BASE}{}", PATH.replace("azure", "")),
        format!("{BASE}{}", PATH.replace("azure", "..")),
        format!("{BASE}{}", PATH.replace("azure", "a/b")),
        format!("{BASE}{}", PATH.replace("azure", "a%2fb")),
        format!("{BASE}{}", PATH.replace("azure", &"a".repeat(37))),
        format!("{BASE}{}", PATH.replace("push", "delete")),
        format!("{BASE}{}", PATH.replace("/as/", "/ns/")),
        format!("{BASE}{}", PATH.replace("v3", "v4")),
        format!("{BASE}/"),
        BASE.to_owned(),
        String::new(),
        format!("{BASE}{PATH}{}", " ".repeat(3000)),
    ] {
        let learnt = keys.learn(&device("cellar"), offer("k", &url));
        assert_eq!(learnt, Learnt::Ignored(NotLearnt::Url), "{url}");
    }
    let nothing = DownlinkOffer { api_key: "k", push: None, replace: None };
    assert_eq!(keys.learn(&device("cellar"), nothing), Learnt::Ignored(NotLearnt::Url));
    assert!(!keys.serves("house"));
}

/// Whether another reader than ours finds the configured host and the API's path for the device in it.
fn means_ours(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    let path: Vec<_> = url.path().split('/').collect();
    url.scheme() == "https"
        && url.host_str() == Some("eu1.cloud.thethings.network")
        && url.port_or_known_default() == Some(443)
        && url.username().is_empty()
        && path.len() == 12
        && path[..7] == ["", "api", "v3", "as", "applications", "house", "webhooks"]
        && path[8..11] == ["devices", "cellar", "down"]
}

#[test]
fn no_change_of_one_character_leads_elsewhere() {
    let real = format!("{BASE}{PATH}");
    let others = ['\u{ad}', '\u{212a}', '\u{ff0e}', '\u{3002}', '\u{2215}', 'ö'];
    let (mut believed, mut tried) = (0, 0);
    for at in 0..real.len() {
        for c in ('\0'..='\u{7f}').chain(others) {
            let replaced = format!("{}{c}{}", &real[..at], &real[at + 1..]);
            let inserted = format!("{}{c}{}", &real[..at], &real[at..]);
            for url in [replaced, inserted] {
                tried += 1;
                if keys().learn(&device("cellar"), offer("k", &url)) == Learnt::New {
                    believed += 1;
                    assert!(means_ours(&url), "{url:?}");
                }
            }
        }
    }
    // Another case of the host, another webhook.
    assert!(tried > 20_000 && (300..1000).contains(&believed), "{believed} of {tried}");
}

#[test]
fn what_can_be_no_key_is_not_kept() {
    let keys = keys();
    let url = format!("{BASE}{PATH}");
    for key in ["", "a b", "a\r\nx: y", "a\u{7f}", "clé", &"k".repeat(1025)] {
        let learnt = keys.learn(&device("cellar"), offer(key, &url));
        assert_eq!(learnt, Learnt::Ignored(NotLearnt::Key), "{key:?}");
    }
    assert!(!keys.serves("house"));
}

#[test]
fn a_configured_key_wins() {
    let configured = Access::new(Secret::new("NNSXS.OWN"), None);
    let options = KeyOptions {
        base_url: Some(BASE.to_owned()),
        configured: BTreeMap::from([("house".to_owned(), configured)]),
        ..KeyOptions::default()
    };
    let keys = Keys::new(options).expect("valid");
    let learnt = keys.learn(&device("cellar"), offer("NNSXS.1", &format!("{BASE}{PATH}")));
    assert_eq!(learnt, Learnt::Ignored(NotLearnt::Configured));
    assert_eq!(key_of(&keys, &device("cellar")).as_deref(), Some("NNSXS.OWN"));
}

#[test]
fn tenants_with_the_same_application_id_have_their_own_keys() {
    let keys = keys();
    let of = |tenant: &str| EndDevice::new(tenant, "house", "cellar").expect("valid");
    let url = format!("{BASE}{PATH}");
    assert_eq!(keys.learn(&of("a"), offer("NNSXS.A", &url)), Learnt::New);
    assert_eq!(keys.learn(&of("b"), offer("NNSXS.B", &url)), Learnt::New);
    assert_eq!(keys.learn(&of("a"), offer("NNSXS.A", &url)), Learnt::Known);
    assert_eq!(key_of(&keys, &of("a")).as_deref(), Some("NNSXS.A"));
    assert_eq!(key_of(&keys, &of("b")).as_deref(), Some("NNSXS.B"));
    assert_eq!(key_of(&keys, &of("")), None);
}

#[test]
fn there_is_an_end_to_learning() {
    let keys = keys();
    let learn = |n: usize, key: &str| {
        let device = EndDevice::new("", &format!("app-{n}"), "cellar").expect("valid");
        keys.learn(&device, offer(key, &format!("{BASE}{}", PATH.replace("house", &format!("app-{n}")))))
    };
    for n in 0..1000 {
        assert_eq!(learn(n, "k"), Learnt::New);
    }
    assert_eq!(learn(1000, "k"), Learnt::Ignored(NotLearnt::TooMany));
    assert_eq!(learn(0, "new"), Learnt::Renewed, "those known are still renewed");
    assert_eq!(learn(999, "k"), Learnt::Known);
}

#[test]
fn allowed_hosts_are_hosts_and_reached_safely() {
    for host in ["https://a.example", "a.example/path", "user@a.example", "", "a.example:port"] {
        let options = KeyOptions { allowed_hosts: vec![host.to_owned()], ..KeyOptions::default() };
        assert!(Keys::new(options).is_err(), "{host}");
    }
    let hosts = ["a.example", "b.example:8443", "127.0.0.1:1885", "localhost:1885"];
    let options = KeyOptions { allowed_hosts: hosts.map(str::to_owned).to_vec(), ..KeyOptions::default() };
    let keys = Keys::new(options).expect("valid");
    for (place, expected) in [
        ("https://a.example", Learnt::New),
        ("https://a.example:443", Learnt::Known),
        ("https://b.example:8443", Learnt::Renewed),
        ("https://127.0.0.1:1885", Learnt::Renewed),
        ("http://127.0.0.1:1885", Learnt::Renewed),
        ("http://localhost:1885", Learnt::Renewed),
        ("http://a.example", Learnt::Ignored(NotLearnt::Host)),
        ("http://a.example:443", Learnt::Ignored(NotLearnt::Host)),
        ("https://a.example:8443", Learnt::Ignored(NotLearnt::Host)),
        ("https://b.example", Learnt::Ignored(NotLearnt::Host)),
        ("https://sub.a.example", Learnt::Ignored(NotLearnt::Host)),
        ("http://127.0.0.2:1885", Learnt::Ignored(NotLearnt::Host)),
    ] {
        assert_eq!(keys.learn(&device("cellar"), offer("k", &format!("{place}{PATH}"))), expected, "{place}");
    }
}

#[tokio::test]
async fn each_key_goes_to_its_own_host_and_nowhere_else() {
    let base = Server::start(|_| answer(200, "")).await;
    let allowed = Server::start(|_| answer(200, "")).await;
    let configured = Access::new(Secret::new("NNSXS.OWN"), None);
    let keys = Keys::new(KeyOptions {
        base_url: Some(base.url()),
        allowed_hosts: vec![format!("127.0.0.1:{}", allowed.port)],
        configured: BTreeMap::from([("barn".to_owned(), configured)]),
    })
    .expect("valid");
    let client =
        client(ClientOptions { base_url: Some(base.url()), request_timeout: DEADLINE, max_in_flight: 8 });
    let push = async |device: &EndDevice| {
        let access = keys.access(device).expect("a key");
        client.push(&access, device, Operation::Push, &downlink()).await.expect("queued");
    };
    let barn = EndDevice::new("", "barn", "cellar").expect("valid");
    let stable = EndDevice::new("", "stable", "cellar").expect("valid");
    let cellar = device("cellar");

    let elsewhere = format!("{}{}", allowed.url(), PATH.replace("house", "barn"));
    assert_eq!(keys.learn(&barn, offer("NNSXS.X", &elsewhere)), Learnt::Ignored(NotLearnt::Configured));
    assert_eq!(keys.learn(&cellar, offer("NNSXS.ALLOWED", &format!("{}{PATH}", allowed.url()))), Learnt::New);
    let at_base = format!("{}{}", base.url(), PATH.replace("house", "stable"));
    assert_eq!(keys.learn(&stable, offer("NNSXS.BASE", &at_base)), Learnt::New);
    push(&barn).await;
    push(&cellar).await;
    push(&stable).await;

    let seen = |server: &Server| {
        let all = server.requests();
        all.iter()
            .map(|request| {
                (request.header("authorization").unwrap_or_default().to_owned(), request.target.clone())
            })
            .collect::<Vec<_>>()
    };
    let owned = |key: &str, path: &str| (format!("Bearer {key}"), path.to_owned());
    assert_eq!(
        seen(&base),
        [
            owned("NNSXS.OWN", "/api/v3/as/applications/barn/devices/cellar/down/push"),
            owned("NNSXS.BASE", &PATH.replace("house", "stable")),
        ]
    );
    assert_eq!(seen(&allowed), [owned("NNSXS.ALLOWED", PATH)]);
}

/// Remembers what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_key_is_never_shown_and_each_thing_is_said_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let keys = keys();
    tracing::subscriber::with_default(subscriber, || {
        for n in 0..5 {
            let key = format!("NNSXS.HUSH{n}");
            keys.learn(&device("cellar"), offer(&key, &format!("https://evil.example:8443{PATH}")));
            keys.learn(&device("cellar"), offer(&key, &format!("{BASE}{PATH}")));
        }
    });
    let url = format!("{BASE}{PATH}");
    let shown = format!("{keys:?} {:?} {:?}", keys.access(&device("cellar")), offer("NNSXS.HUSH", &url));
    let logged = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("text");
    assert!(!logged.contains("HUSH") && !shown.contains("HUSH"), "{logged} {shown}");
    assert_eq!(logged.matches("INFO").count(), 1, "{logged}");
    assert_eq!(logged.matches("WARN").count(), 1, "{logged}");
    assert!(
        logged.contains("evil.example") && logged.contains("8443") && logged.contains("house"),
        "{logged}"
    );
}
