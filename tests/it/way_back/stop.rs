//! A graceful stop while The Things Stack answers nothing.

use std::time::{Duration, Instant};

use serde_json::json;
use tti_connector::app::Connector;
use tti_connector::emulator::things_stack::{Calls, Effect, Fault};

use super::kit::{Stage, config, name};

#[tokio::test(flavor = "multi_thread")]
async fn a_things_stack_without_answers_holds_no_stop_up_to_its_end_and_nothing_is_queued_twice() {
    let grace = Duration::from_secs(13);
    let stage = Stage::with(|config| {
        config.shutdown.grace = grace;
        config.things_stack.request_timeout = Duration::from_secs(60);
        config.downlink.port = Some(1);
    })
    .await;
    stage.meet("valve-1").await;
    stage.meet("valve-2").await;
    let hangs = Fault {
        count: 1000,
        delay_ms: 600_000,
        effect: Effect::After,
        calls: Calls::Write,
        ..Fault::default()
    };
    stage.stack().fault(hangs).expect("a sound fault");
    stage.stack().set_webhook(None).expect("none");
    stage.send("valve-1", "open-7", &[], "AQI=");
    let desired = json!({"rawDownlink": {"framePayload": "01"}});
    stage.hub().update_desired("valve-2", &desired).expect("the hub takes it");
    stage.until(|| (stage.stack().pushed() == 2).then_some(())).await;
    let began = Instant::now();
    let Stage { world, connector } = stage;
    connector.stop().await;
    // Half of what is left of the grace for closing, and then the closing.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());

    let mut config = config(&world);
    config.downlink.port = Some(1);
    let connector = Connector::start(config).await.expect("the connector starts");
    let stage = Stage { world, connector };
    stage.stack().clear_faults();
    stage.point_webhook();
    stage.until(|| stage.hub().cloud_queue("valve-1").is_empty().then_some(())).await;
    stage
        .until(|| {
            let twin = stage.hub().twin("valve-2")?;
            (twin.reported.properties.get("rawDownlink")?["ac"] == 202).then_some(())
        })
        .await;
    assert_eq!((stage.stack().pushed(), stage.stack().queue(&name("valve-1")).len()), (2, 1));
    stage.end().await;
}
