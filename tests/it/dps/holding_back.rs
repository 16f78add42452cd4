//! A DPS that throttles or is down is left alone by all devices, and those that have a hub do not notice.

use std::time::Duration;

use super::{Reply, Request, Server, answer, assigning, device, retried, working, world_of};

#[tokio::test]
async fn one_429_holds_back_all_new_devices_and_no_known_one() {
    let server = Server::start(working("h")).await;
    let world = world_of(&server);
    let directory = world.directory().await;
    let known = device("app", "known");
    directory.resolve(&known, None).await.unwrap();
    server.script(|_: &Request| Reply::Answer(429, Some("5".to_owned()), String::new()));
    let devices: Vec<_> = (0..200).map(|n| device("app", &format!("dev-{n}"))).collect();
    let all = devices.iter().map(|one| directory.resolve(one, None));
    for resolved in futures_util::future::join_all(all).await {
        let (detail, after) = retried(resolved);
        assert!(detail.contains("429"), "{detail}");
        let after = after.expect("DPS said for how long");
        assert!((3..=5).contains(&after.as_secs()), "{after:?}");
    }
    let asked = server.registrations() - 1;
    assert!(asked <= 16, "{asked} asked although 16 may be under way");
    assert!(directory.resolve(&known, None).await.is_ok());
}

#[tokio::test]
async fn registrations_go_on_when_the_time_is_over() {
    let server = Server::start(|_: &Request| answer(503, "")).await;
    let directory = world_of(&server).directory().await;
    let one = device("app", "dev");
    let (_, after) = retried(directory.resolve(&one, None).await);
    server.script(working("h"));
    let (detail, _) = retried(directory.resolve(&one, None).await);
    assert!(detail.contains("held back: DPS answered 503"), "{detail}");
    assert_eq!(server.requests().len(), 1);
    tokio::time::sleep(after.expect("the first wait")).await;
    assert!(directory.resolve(&one, None).await.is_ok());
}

#[tokio::test]
async fn devices_on_which_dps_works_for_ever_hold_up_no_others() {
    let well = working("h");
    let server =
        Server::start(
            move |request: &Request| {
                if request.registration_id().starts_with("ill") { assigning() } else { well(request) }
            },
        )
        .await;
    let mut world = world_of(&server);
    world.options.max_registrations = 4;
    world.options.pace.slow_after = Duration::from_millis(400);
    world.options.pace.poll_default = Duration::from_millis(200);
    world.options.pace.total_timeout = Duration::from_secs(40);
    let directory = world.directory().await;
    let ill: Vec<_> = (0..40).map(|n| device("app", &format!("ill-{n}"))).collect();
    let ill = futures_util::future::join_all(ill.iter().map(|one| directory.resolve(one, None)));
    let well: Vec<_> = (0..20).map(|n| device("app", &format!("well-{n}"))).collect();
    let resolve = async |one| {
        // On a busy machine one of these may take long, too, and is asked to come again.
        while directory.resolve(one, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let well = futures_util::future::join_all(well.iter().map(resolve));
    tokio::select! {
        biased;
        // Sixteen of them stand aside until their time is over.
        _ = ill => panic!("those that DPS works on for ever must not end first"),
        well = tokio::time::timeout(Duration::from_secs(30), well) => {
            well.expect("they wait for no other");
        }
    }
}
