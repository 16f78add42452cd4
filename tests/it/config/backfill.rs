//! The keys of `[backfill]` and the switch of each application.

use std::time::Duration;

use super::Given;

#[test]
fn every_backfill_key_is_read_and_off_is_the_default() {
    let config = Given::with_hub(
        "[things_stack]\nbase_url = 'https://eu1.example'\n[things_stack.applications.cold-chain]\napi_key = 'NNSXS.A'\n\
         backfill = true\n[things_stack.applications.vineyard]\napi_key = 'NNSXS.B'\n\
         [backfill]\nrate = 5\nwindow = '72h'\ndelay = '0s'\n",
    )
    .config();
    assert!(config.things_stack.applications["cold-chain"].backfill);
    assert!(!config.things_stack.applications["vineyard"].backfill);
    assert_eq!((config.backfill.rate, config.backfill.window), (5, Duration::from_secs(72 * 3600)));
    assert_eq!(config.backfill.delay, Duration::ZERO);
    let summary =
        tti_connector::cli::summary(&config, &tti_connector::config::Sources { file: None, variables: 0 });
    assert!(summary.contains("backfill   cold-chain: what its webhook missed in the last 3d"), "{summary}");
    assert!(summary.contains("RIGHT_APPLICATION_TRAFFIC_READ"), "{summary}");
    assert!(summary.contains("off for every other application"), "{summary}");
}

#[test]
fn limits_and_the_missing_key_are_refused() {
    for (toml, key) in [
        ("[backfill]\nrate = 0", "backfill.rate"),
        ("[backfill]\nrate = 1001", "backfill.rate"),
        ("[backfill]\nwindow = '9m'", "backfill.window"),
        ("[backfill]\nwindow = '31d'", "backfill.window"),
        ("[backfill]\ndelay = '2h'", "backfill.delay"),
        (
            "[things_stack.applications.cold-chain]\nbackfill = true",
            "things_stack.applications.cold-chain.api_key",
        ),
        (
            "[things_stack.applications.cold-chain]\nbackfill = 'yes'",
            "things_stack.applications.cold-chain.backfill",
        ),
    ] {
        let problem = Given::with_hub(toml).problem();
        assert_eq!(problem.key, key, "{problem}");
    }
}
