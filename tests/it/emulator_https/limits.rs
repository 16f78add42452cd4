//! A tier's limits over HTTPS: 429 with `Retry-After`, each kind of call by itself.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tti_connector::emulator::{Tier, TierSettings};

use super::support::{read, start};

#[tokio::test]
async fn too_many_calls_of_one_kind_get_429_with_retry_after_and_the_others_go_on() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    hub.create_device("dev", None).unwrap();
    hub.set_tier(TierSettings {
        speed: 0.001,
        burst: Duration::ZERO,
        max_delay: Duration::ZERO,
        ..TierSettings::new(Tier::S1, 1)
    });
    let owner = running.policy(0, "iothubowner");
    let call = async |method: Method, path: &str, body| {
        running.call(0, method, path, &[("authorization", &owner)], body).await
    };
    let query = json!({ "query": "SELECT * FROM devices" });
    for (method, path, body) in [
        (Method::GET, "/devices/dev?api-version=2021-04-12", None),
        (Method::GET, "/twins/dev?api-version=2021-04-12", None),
        (Method::PATCH, "/twins/dev?api-version=2021-04-12", Some(json!({ "tags": { "a": 1 } }))),
        (Method::POST, "/devices/query?api-version=2021-04-12", Some(query)),
    ] {
        let first = call(method.clone(), path, body.clone()).await;
        assert_eq!(first.status(), StatusCode::OK, "{method} {path}");
        let second = call(method.clone(), path, body).await;
        assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS, "{method} {path}");
        let after: u64 = second.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(after >= 1);
        assert!(read(second).await.1["Message"].as_str().unwrap().contains("429001"));
    }
    let traffic = hub.traffic();
    for count in [traffic.registry, traffic.twin_reads, traffic.twin_updates, traffic.queries] {
        assert_eq!((count.accepted, count.throttled), (1, 1));
    }
    // A twin read and a twin update count as messages; the registry and queries do not.
    assert_eq!(traffic.used_today, 2);
    hub.set_tier(TierSettings { daily_messages: Some(2), ..TierSettings::new(Tier::S1, 1) });
    let over = call(Method::GET, "/twins/dev?api-version=2021-04-12", None).await;
    assert_eq!(over.status(), StatusCode::FORBIDDEN);
    assert_eq!(over.headers()["iothub-errorcode"], "IotHubQuotaExceeded");
}
