//! The connector's clock jumps by an hour either way, or is an hour behind from the start; the hub's does not.

use futures_util::future::join_all;
use tti_connector::app::Connector;
use tti_connector::model::Clock;

use super::relay::{Relay, until};
use crate::messages::uplink;
use crate::world::{Poster, World, frame_counter};

const HOUR_MS: i64 = 3_600_000;
const DEVICES: u32 = 8;

async fn post_all(poster: &Poster, f_cnt: u32) {
    let posts = (0..DEVICES)
        .map(async |number| poster.post(&uplink("field", &format!("probe-{number}"), f_cnt)).await);
    assert!(join_all(posts).await.iter().all(|status| *status == 202));
}

/// Every device's counters at the hub, which must be all that were sent, once and in order.
fn assert_whole(world: &World, last: u32) {
    for number in 0..DEVICES {
        let name = format!("probe-{number}");
        let events = world.hub(0).all_events().into_iter().filter(|event| event.device_id == name);
        let counters: Vec<_> = events.map(|event| frame_counter(&event)).collect();
        assert_eq!(counters, (1..=u64::from(last)).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jumps_of_an_hour_lose_nothing_double_nothing_and_cost_no_connection() {
    for by_dps in [true, false] {
        let world = World::new(1).await;
        let relay = Relay::to_port(world.emulator.ready().hubs[0].amqp_port).await;
        let mut config = if by_dps { world.config() } else { world.config_with_policy() };
        if !by_dps {
            for number in 0..DEVICES {
                world.hub(0).create_device(&format!("probe-{number}"), None).expect("new");
            }
        }
        config.azure.amqp_port = relay.port();
        let clock = Clock::shifted(0);
        let connector = Connector::start_at(config, clock.clone()).await.expect("the connector starts");
        let poster = Poster::to(&connector);
        let (mut f_cnt, jumps) = (0, [0, 1, -1, -1, 1]);
        for jump in jumps {
            clock.advance(jump * HOUR_MS);
            // First over links that are open, then with new tokens by the present clock.
            for cut in [true, false] {
                for _ in 0..3 {
                    f_cnt += 1;
                    post_all(&poster, f_cnt).await;
                    // Posted again: nothing comes of it.
                    post_all(&poster, f_cnt).await;
                }
                world.arrived((f_cnt * DEVICES) as usize).await;
                until("all is settled", || connector.spool().stats().pending == 0).await;
                if cut {
                    relay.cut();
                }
            }
        }
        assert_whole(&world, f_cnt);
        assert_eq!(connector.spool().stats().parked, 0);
        // One to begin with, one to see whether the hub is there at all, and one after each cut.
        assert!(relay.accepted() <= jumps.len() + 2, "{} connects", relay.accepted());
        connector.stop().await;
        world.emulator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_behind_from_the_start_is_made_up_for_by_what_dps_says() {
    let world = World::new(1).await;
    let clock = Clock::shifted(-2 * HOUR_MS);
    let connector = Connector::start_at(world.config(), clock.clone()).await.expect("the connector starts");
    let poster = Poster::to(&connector);
    post_all(&poster, 1).await;
    world.arrived(DEVICES as usize).await;
    clock.advance(2 * HOUR_MS);
    post_all(&poster, 2).await;
    world.arrived(2 * DEVICES as usize).await;
    assert_whole(&world, 2);
    assert_eq!(connector.spool().stats().parked, 0);
    connector.stop().await;
    world.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_policy_messages_wait_until_the_clock_is_set() {
    let world = World::new(1).await;
    for number in 0..DEVICES {
        world.hub(0).create_device(&format!("probe-{number}"), None).expect("new");
    }
    let relay = Relay::to_port(world.emulator.ready().hubs[0].amqp_port).await;
    let mut config = world.config_with_policy();
    config.azure.amqp_port = relay.port();
    let clock = Clock::shifted(-2 * HOUR_MS);
    let connector = Connector::start_at(config, clock.clone()).await.expect("the connector starts");
    let poster = Poster::to(&connector);
    post_all(&poster, 1).await;
    until("three connects", || relay.accepted() >= 3).await;
    assert_eq!((world.total(), connector.spool().stats().parked), (0, 0));
    clock.advance(2 * HOUR_MS);
    world.arrived(DEVICES as usize).await;
    assert_whole(&world, 1);
    assert!(relay.accepted() < 20, "{} connects", relay.accepted());
    connector.stop().await;
    world.emulator.shutdown().await;
}
