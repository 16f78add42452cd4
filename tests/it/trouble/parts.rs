//! A part of the connector that ends: the operator's supervisor hears of it.

use tokio::time::timeout;
use tti_connector::app::Connector;

use crate::messages::DEADLINE;
use crate::world::{Poster, World};

#[tokio::test]
async fn a_part_that_ends_by_itself_is_named_by_ready_and_ends_the_connector() {
    let world = World::new(1).await;
    let connector = Connector::start(world.config()).await.expect("the connector starts");
    let poster = Poster::to(&connector);
    poster.until_ready(&connector).await;
    // Nothing but a defect takes the spool from the pump.
    connector.spool().close().await;
    assert_eq!(timeout(DEADLINE, connector.missed()).await.expect("it is noticed"), "pump");
    let (status, body) = poster.ready(&connector).await;
    assert_eq!(status, 503);
    assert!(body.contains("\"part\":\"pump\""), "{body}");
    connector.stop().await;
    world.emulator.shutdown().await;
}
