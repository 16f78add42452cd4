//! Pages of stored uplinks: rows, limits, refusals.

use std::time::Duration;

use jiff::Timestamp;
use tti_connector::things_stack::{ApiError, StoredPage, StoredQuery};

use super::server::{End, Reply, Server, access, answer, half};

async fn page(server: &Server, device_id: Option<&str>) -> Result<StoredPage, ApiError> {
    let after = Timestamp::from_millisecond(1_772_366_400_250).unwrap();
    let query = StoredQuery { application_id: "house", device_id, after, limit: 3 };
    server.client_with(Duration::from_millis(300), 4).stored_uplinks(&access(), &query).await
}

fn row(n: usize) -> String {
    format!("{{\"result\":{{\"n\":{n}}}}}\n\n")
}

#[tokio::test]
async fn a_page_is_asked_for_as_the_api_wants_it_and_rows_come_as_they_are() {
    let server = Server::start(|_| answer(200, [row(1), "data: ".to_owned() + &row(2)].concat())).await;
    let page_of_all = page(&server, None).await.unwrap();
    assert_eq!(page_of_all.rows, ["{\"n\":1}", "{\"n\":2}"]);
    let request = server.last();
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        (
            "GET",
            "/api/v3/as/applications/house/packages/storage/uplink_message?order=received_at&limit=3&after=2026-03-01T12:00:00.250000000Z"
        )
    );
    assert_eq!(request.header("accept"), Some("text/event-stream"));
    page(&server, Some("cellar")).await.unwrap();
    assert!(
        server.last().target.starts_with("/api/v3/as/applications/house/devices/cellar/packages/storage/")
    );
    assert!(matches!(page(&server, Some("..")).await, Err(ApiError::Refused { status: None, .. })));
}

#[tokio::test]
async fn bad_rows_are_counted_and_an_empty_answer_is_an_empty_page() {
    let body = ["nonsense\n", "{\"result\":7}\n", &row(1), "{}\n", "{\"result\":{\"n\":2}"].concat();
    let server = Server::start(move |_| answer(200, body.clone())).await;
    let found = page(&server, None).await.unwrap();
    assert_eq!((found.rows.len(), found.bad), (1, 4));
    server.script(|_| answer(200, ""));
    let found = page(&server, None).await.unwrap();
    assert_eq!((found.rows.len(), found.bad), (0, 0));
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_fails_gives_what_came_whole() {
    let server = Server::start(|_| half(200, &(row(1) + "{\"result\":{"), End::Reset)).await;
    assert_eq!(page(&server, None).await.unwrap().rows.len(), 1);
    server.script(|_| half(200, &row(1), End::Hang));
    assert_eq!(page(&server, None).await.unwrap().rows.len(), 1);
    server.script(|_| half(200, "{\"result\":{", End::Reset));
    assert!(matches!(page(&server, None).await, Err(ApiError::Unsure { .. })));
    let failing = "{\"error\":{\"code\":14,\"message\":\"the database is away\"}}\n";
    server.script(move |_| answer(200, failing));
    let error = page(&server, None).await.unwrap_err();
    assert!(
        matches!(&error, ApiError::Unsure { detail } if detail.contains("the database is away")),
        "{error}"
    );
    server.script(move |_| answer(200, row(1) + failing));
    assert_eq!(page(&server, None).await.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn neither_an_endless_answer_nor_an_endless_row_takes_memory_or_time() {
    let server = Server::start(|_| Reply::Endless).await;
    // Not one row of it ends; the patience for a page does.
    assert!(matches!(page(&server, None).await, Err(ApiError::Unsure { .. })));
    let many: String = (0..500).map(row).collect();
    server.script(move |_| answer(200, many.clone()));
    let found = page(&server, None).await.unwrap();
    assert!((3..=500).contains(&found.rows.len()), "{}", found.rows.len());
}

#[tokio::test]
async fn refusals_say_what_the_key_or_the_application_lacks() {
    for (status, needs) in [
        (401, "RIGHT_APPLICATION_TRAFFIC_READ"),
        (403, "RIGHT_APPLICATION_TRAFFIC_READ"),
        (404, "add the Storage Integration"),
        (501, "add the Storage Integration"),
    ] {
        let server = Server::start(move |_| answer(status, "{}")).await;
        let error = page(&server, None).await.unwrap_err();
        assert!(matches!(error, ApiError::Refused { status: Some(seen), .. } if seen == status), "{error}");
        assert!(error.to_string().contains(needs), "{error}");
    }
    let server = Server::start(|_| Reply::Answer(429, "Retry-After: 7\r\n", String::new())).await;
    let seven = Some(Duration::from_secs(7));
    assert!(matches!(page(&server, None).await, Err(ApiError::NotNow { after, .. }) if after == seven));
    server.script(|_| answer(503, ""));
    assert!(matches!(page(&server, None).await, Err(ApiError::Unsure { .. })));
}
