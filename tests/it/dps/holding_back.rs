//! A DPS that throttles or is down is left alone by all devices, and those that have a hub do not notice.

use super::{Reply, Request, Server, answer, device, retried, working, world_of};

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
