//! Every class of answer, over the wire, and what becomes of the device.

use std::time::Duration;

use tti_connector::devices::ResolveError;
use tti_connector::model::ParkReason;

use super::{
    Reply, Request, Server, answer, assigned, assigning, device, parked, retried, working, world_of,
};
use crate::devices::world::{World, trusting};

const ERROR: &str = r#"{"errorCode":400004,"trackingId":"track-9","message":"some words"}"#;

async fn resolve(world: &World) -> Result<(), ResolveError> {
    world.directory().await.resolve(&device("app", "dev"), None).await.map(drop)
}

async fn outcome_of(reply: Reply) -> Result<(), ResolveError> {
    let server = Server::start(move |_: &Request| reply.clone()).await;
    resolve(&world_of(&server)).await
}

#[tokio::test]
async fn refusals_park_the_device_with_dpss_own_words() {
    for status in [400, 401, 403, 404, 405, 410, 413, 415] {
        let (reason, detail) = parked(outcome_of(answer(status, ERROR)).await);
        assert_eq!(reason, ParkReason::NotAssigned, "{status}");
        for piece in [&status.to_string(), "400004", "track-9", "some words"] {
            assert!(detail.contains(piece), "{detail}");
        }
    }
    let failed = r#"{"status":"failed","registrationState":{"errorCode":400209,"errorMessage":"no hub"}}"#;
    let (reason, detail) = parked(outcome_of(answer(200, failed)).await);
    assert_eq!(reason, ParkReason::NotAssigned);
    assert!(detail.contains("400209 no hub"), "{detail}");
    let (reason, detail) = parked(outcome_of(answer(200, r#"{"status":"disabled"}"#)).await);
    assert_eq!(reason, ParkReason::NotAssigned);
    assert!(detail.contains("disabled"), "{detail}");
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    for status in [301, 407, 408, 409, 412, 429, 500, 502, 503, 504] {
        let (detail, _) = retried(outcome_of(answer(status, ERROR)).await);
        assert!(detail.contains(&status.to_string()) && detail.contains("track-9"), "{detail}");
    }
    let busy = r#"{"status":"failed","registrationState":{"errorCode":429001,"errorMessage":"busy"}}"#;
    assert!(retried(outcome_of(answer(200, busy)).await).0.contains("429001 busy"));
}

#[tokio::test]
async fn answers_that_are_none_are_tried_again() {
    for body in ["", "<html>", "{}", "[1]", r#"{"status":"assigned"}"#, r#"{"status":"dancing"}"#] {
        let (detail, after) = retried(outcome_of(answer(200, body)).await);
        assert!(detail.contains("no registration"), "{detail}");
        assert!(after.is_some(), "the endpoint is held back");
    }
    let (detail, _) = retried(outcome_of(answer(200, "x".repeat(70_000))).await);
    assert!(detail.contains("more than 65536 bytes"), "{detail}");
    let (detail, _) = retried(outcome_of(assigned("https://h/x", "dev")).await);
    assert!(detail.contains("assignedHub"), "{detail}");
    assert_eq!(parked(outcome_of(assigned("h", "a/b")).await).0, ParkReason::InvalidHubId);
}

#[tokio::test]
async fn a_poll_whose_operation_is_gone_is_tried_again() {
    let server = Server::start(|request: &Request| match request.method.as_str() {
        "PUT" => assigning(),
        _ => answer(404, ERROR),
    })
    .await;
    let (_, after) = retried(resolve(&world_of(&server)).await);
    assert_eq!(after, None, "the endpoint is not held back");
}

#[tokio::test]
async fn the_wait_that_dps_asks_for_reaches_the_caller() {
    let reply = Reply::Answer(429, Some("7".to_owned()), ERROR.to_owned());
    assert_eq!(retried(outcome_of(reply).await).1, Some(Duration::from_secs(7)));
    // Thursday, 2026-01-01 00:00:00 is the world's present.
    let date = "Thu, 01 Jan 2026 00:00:09 GMT".to_owned();
    let reply = Reply::Answer(503, Some(date), ERROR.to_owned());
    assert_eq!(retried(outcome_of(reply).await).1, Some(Duration::from_secs(9)));
}

#[tokio::test]
async fn a_dps_that_never_finishes_is_left_after_the_total_time() {
    let server = Server::start(|_: &Request| assigning()).await;
    let mut world = world_of(&server);
    world.options.pace.total_timeout = Duration::from_millis(200);
    let (detail, _) = retried(resolve(&world).await);
    assert!(detail.contains("did not finish within 200ms"), "{detail}");
    assert!(server.requests().len() > 2);
}

#[tokio::test]
async fn a_dps_that_does_not_answer_or_hangs_up_is_tried_again() {
    let server = Server::start(|_: &Request| Reply::Hang).await;
    let mut world = world_of(&server);
    world.options.pace.request_timeout = Duration::from_millis(200);
    assert!(retried(resolve(&world).await).0.contains("no answer in time"));
    let (detail, _) = retried(outcome_of(Reply::Close).await);
    assert!(detail.contains("can't be reached"), "{detail}");
}

#[tokio::test]
async fn a_dps_that_is_not_there_or_not_trusted_is_tried_again() {
    let server = Server::start(working("h")).await;
    let mut world = world_of(&server);
    world.tls = trusting(rustls::RootCertStore::empty());
    let (detail, _) = retried(resolve(&world).await);
    assert!(detail.contains("certificate"), "{detail}");
    assert!(server.requests().is_empty());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.azure.dps.endpoint = Some(format!("localhost:{}", listener.local_addr().unwrap().port()));
    drop(listener);
    assert!(retried(resolve(&world).await).0.contains("refused"));
}

#[tokio::test]
async fn a_wrong_key_is_asked_about_once_in_a_while_and_never_shown() {
    let server = Server::start(working("h")).await;
    let mut world = world_of(&server);
    let wrong = "d3Jvbmctd3Jvbmctd3Jvbmc=";
    world.azure.dps.group_enrollment_key = Some(tti_connector::model::Secret::new(wrong));
    let directory = world.directory().await;
    let one = device("app", "dev");
    for _ in 0..10 {
        let (reason, detail) = parked(directory.resolve(&one, None).await);
        assert_eq!(reason, ParkReason::NotAssigned);
        assert!(detail.contains("group_enrollment_key") && !detail.contains(wrong), "{detail}");
        parked(directory.cached(&one, None));
    }
    assert_eq!(server.registrations(), 1);
    world.pass(Duration::from_secs(30));
    parked(directory.resolve(&one, None).await);
    assert_eq!(server.registrations(), 2);
}
