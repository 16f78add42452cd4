//! The way back from end to end: emulated hub, connector, emulated Things Stack, all on real sockets.

mod complete_on;
mod faults;
mod hubs;
mod invalid;
pub(crate) mod kit;
mod life_cycle;
mod methods;
mod restart;
mod routes;
mod stop;
mod twins;

use serde_json::json;
use tti_connector::emulator::things_stack::Uplink;

use kit::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_message_gives_one_downlink_and_reports_queued_sent_and_ack() {
    let stage = Stage::new().await;
    stage.meet("valve-1").await;
    stage.send("valve-1", "open-7", &[("Port", "10"), ("confirmed", "true"), ("PRIORITY", "high")], "AQI=");
    stage.reported("open-7", &["queued"]).await;
    let stack = stage.stack();
    let pushes = stack.pushes();
    assert_eq!(pushes.len(), 1);
    let downlink = serde_json::to_value(&pushes[0].downlink).expect("JSON");
    assert_eq!((&downlink["f_port"], &downlink["confirmed"]), (&json!(10), &json!(true)), "{downlink}");
    stage.completed("valve-1").await;

    stage.uplink("valve-1", Uplink::default());
    stage.reported("open-7", &["queued", "sent"]).await;
    stage.uplink("valve-1", Uplink::default());
    stage.reported("open-7", &["queued", "sent", "ack"]).await;
    assert_eq!(stack.pushes().len(), 1);
    stage.end().await;
}
