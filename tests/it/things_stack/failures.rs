//! Every way a call can fail, and what the caller is told to do next.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tti_connector::model::{EndDevice, Secret};
use tti_connector::things_stack::{Access, ApiError, ClientOptions, Operation};

use super::server::{DEADLINE, End, Reply, Server, access, answer, client, device, downlink, half};

/// A client's patience where it must end; long enough for a busy machine to answer within.
const SHORT: Duration = Duration::from_secs(1);
const REASON: &str =
    r#"{"code":9,"message":"error:pkg/x:y (because)","details":[{"message_format":"other"}]}"#;

/// What `push` gives when the server answers so.
async fn pushed(reply: Reply) -> Result<(), ApiError> {
    pushed_within(DEADLINE, reply).await
}

async fn pushed_within(patience: Duration, reply: Reply) -> Result<(), ApiError> {
    let server = Server::start(move |_| reply.clone()).await;
    let client = server.client_with(patience, 1);
    let result = client.push(&access(), &device("cellar"), Operation::Push, &downlink()).await;
    assert_eq!(server.requests().len(), 1, "nothing is tried twice");
    result
}

async fn listed(reply: Reply) -> Result<usize, ApiError> {
    listed_within(DEADLINE, reply).await
}

async fn listed_within(patience: Duration, reply: Reply) -> Result<usize, ApiError> {
    let server = Server::start(move |_| reply.clone()).await;
    server.client_with(patience, 1).queue(&access(), &device("cellar")).await.map(|queue| queue.len())
}

#[tokio::test]
async fn each_status_is_one_of_three_things_to_do() {
    for (status, expected) in [
        (200, "ok"),
        (202, "ok"),
        (301, "refused"),
        (400, "refused"),
        (401, "refused"),
        (403, "refused"),
        (404, "refused"),
        (405, "refused"),
        (406, "not now"),
        (409, "not now"),
        (413, "refused"),
        (429, "not now"),
        (499, "unsure"),
        (500, "unsure"),
        (501, "unsure"),
        (502, "unsure"),
        (503, "unsure"),
        (504, "unsure"),
    ] {
        let result = pushed(answer(status, REASON)).await;
        let seen = match &result {
            Ok(()) => "ok",
            Err(ApiError::NotNow { after: None, .. }) => "not now",
            Err(ApiError::NotNow { after: Some(_), .. }) => "later",
            Err(ApiError::Unsure { .. }) => "unsure",
            Err(ApiError::Refused { status: Some(seen), .. }) if *seen == status => "refused",
            Err(ApiError::Refused { .. }) => "refused otherwise",
        };
        assert_eq!(seen, expected, "{status}: {result:?}");
        if let Err(error) = result {
            let text = error.to_string();
            assert!(text.contains("error:pkg/x:y (because)") && !text.contains("NNSXS"), "{text}");
        }
    }
}

#[tokio::test]
async fn lack_of_a_right_names_it() {
    let text = pushed(answer(403, "{}")).await.expect_err("refused").to_string();
    assert!(text.contains("RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE"), "{text}");
    let text = listed(answer(403, "{}")).await.expect_err("refused").to_string();
    assert!(text.contains("RIGHT_APPLICATION_TRAFFIC_READ"), "{text}");
}

#[tokio::test]
async fn a_429_says_when_and_holds_back_this_device_alone() {
    for (headers, wait) in [
        ("x-rate-limit-retry: 7\r\nx-rate-limit-reset: 9\r\nRetry-After: 11\r\n", 7),
        ("X-Rate-Limit-Reset: 9\r\nretry-after: 11\r\n", 9),
        ("Retry-After: 11\r\n", 11),
        ("x-rate-limit-retry: 0\r\nretry-after: 999999\r\n", 600),
    ] {
        let server = Server::start(move |_| Reply::Answer(429, headers, String::new())).await;
        let client = server.client();
        let push = async |id: &str| client.push(&access(), &device(id), Operation::Push, &downlink()).await;
        let error = push("cellar").await.expect_err("told to wait");
        let expected = Some(Duration::from_secs(wait));
        assert!(matches!(&error, ApiError::NotNow { after, .. } if *after == expected), "{error:?}");

        server.script(|_| answer(200, ""));
        let error = push("cellar").await.expect_err("held back");
        assert!(
            matches!(&error, ApiError::NotNow { after: Some(left), .. } if *left <= Duration::from_secs(wait)),
            "{error:?}"
        );
        assert_eq!(server.requests().len(), 1, "a device told to wait is not asked for");
        push("attic").await.expect("another device");
        client.queue(&access(), &device("cellar")).await.expect_err("asked, and no JSON came");
        assert_eq!(server.requests().len(), 3);

        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(wait)).await;
        tokio::time::resume();
        push("cellar").await.expect("the wait is over");
    }
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    drop(listener);
    let options = ClientOptions {
        base_url: Some(format!("http://127.0.0.1:{port}")),
        request_timeout: DEADLINE,
        max_in_flight: 1,
    };
    let error = client(options).clear(&access(), &device("cellar")).await.expect_err("nobody listens");
    assert!(matches!(&error, ApiError::NotNow { after: None, .. }), "{error:?}");
    assert!(error.to_string().contains("can't be reached"), "{error}");
}

#[tokio::test]
async fn a_tls_handshake_that_fails_sent_nothing_either() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let closing = tokio::spawn(async move { drop(listener.accept().await.expect("a client")) });
    let options = ClientOptions {
        base_url: Some(format!("https://127.0.0.1:{port}")),
        request_timeout: DEADLINE,
        max_in_flight: 1,
    };
    let error = client(options).clear(&access(), &device("cellar")).await.expect_err("no TLS there");
    assert!(matches!(&error, ApiError::NotNow { .. }), "{error:?}");
    closing.await.expect("accepted");
}

#[tokio::test]
async fn what_breaks_off_after_the_request_is_unsure() {
    for end in [End::Close, End::Reset] {
        for bytes in ["", "HTTP/1.1 ", "HTTP/1.1 200 OK\r\nContent-"] {
            let error = pushed(Reply::Bytes(bytes.to_owned(), end)).await.expect_err("no whole head");
            assert!(matches!(&error, ApiError::Unsure { .. }), "{end:?} after {bytes:?}: {error:?}");
        }
        let error = listed(half(200, r#"{"downlinks":[]}"#, end)).await.expect_err("half a body");
        assert!(matches!(&error, ApiError::Unsure { .. }), "{end:?}: {error:?}");
    }
    let error = pushed(Reply::Bytes("SSH-2.0-x\r\n\r\n".to_owned(), End::Close)).await.expect_err("no HTTP");
    assert!(matches!(&error, ApiError::Unsure { .. }), "{error:?}");
}

#[tokio::test]
async fn what_takes_too_long_is_unsure() {
    let began = Instant::now();
    for bytes in ["", "HTTP/1.1 200 OK\r\n"] {
        let error =
            pushed_within(SHORT, Reply::Bytes(bytes.to_owned(), End::Hang)).await.expect_err("no answer");
        assert!(matches!(&error, ApiError::Unsure { .. }), "{error:?}");
    }
    let error =
        listed_within(SHORT, half(200, r#"{"downlinks":["#, End::Hang)).await.expect_err("a slow body");
    assert!(matches!(&error, ApiError::Unsure { .. }), "{error:?}");
    assert!(began.elapsed() >= 3 * SHORT && began.elapsed() < DEADLINE);
}

#[tokio::test]
async fn once_the_status_is_known_the_body_changes_nothing() {
    for end in [End::Close, End::Reset, End::Hang] {
        pushed_within(SHORT, half(200, "", end)).await.expect("200 says that it is queued");
        let error = pushed_within(SHORT, half(404, REASON, end)).await.expect_err("404");
        assert!(matches!(&error, ApiError::Refused { status: Some(404), .. }), "{end:?}: {error:?}");
    }
}

#[tokio::test]
async fn answers_that_are_too_long_are_not_read_to_their_end() {
    let error = listed(Reply::Endless).await.expect_err("too long");
    assert!(matches!(&error, ApiError::Unsure { detail } if detail.contains("4194304 bytes")), "{error:?}");
    pushed(Reply::Endless).await.expect("200 says that it is queued");
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(100_000));
    let text = pushed(answer(400, long)).await.expect_err("400").to_string();
    assert_eq!(text, "The Things Stack answered 400");
}

#[tokio::test]
async fn answers_that_are_no_list_are_unsure() {
    let deep = format!(r#"{{"downlinks":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    for body in ["", "[]", "null", "<html>", r#"{"downlinks":7}"#, r#"{"downlinks":[{"f_port":256}]}"#, &deep]
    {
        let error = listed(answer(200, body)).await.expect_err(body);
        assert!(matches!(&error, ApiError::Unsure { .. }), "{error:?}");
    }
    let deep = format!(
        r#"{{"x":{0}1{1},"downlinks":[{{"decoded_payload":{{"a":{0}1{1}}}}}]}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert_eq!(listed(answer(200, deep)).await, Ok(1));
}

#[tokio::test]
async fn a_redirect_does_not_take_the_key_along() {
    let other = Server::start(|_| answer(200, "")).await;
    for status in ["301", "302", "303", "307", "308"] {
        let redirect =
            format!("HTTP/1.1 {status} X\r\nLocation: {}/api\r\nContent-Length: 0\r\n\r\n", other.url());
        let error = pushed(Reply::Bytes(redirect, End::Close)).await.expect_err("a redirect");
        assert!(matches!(&error, ApiError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("things_stack.base_url"), "{error}");
    }
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn who_gets_no_turn_in_time_has_sent_nothing() {
    let server = Server::start(|_| Reply::Bytes(String::new(), End::Hang)).await;
    let client = server.client_with(SHORT, 1);
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.clear(&access(), &device("cellar")).await }
    });
    server.heard(1).await;
    let (attic, roof, access) = (device("attic"), device("roof"), access());
    let (second, third) = tokio::join!(client.clear(&access, &attic), client.clear(&access, &roof));
    let first = first.await.expect("no panic");
    assert!(matches!(first, Err(ApiError::Unsure { .. })), "{first:?}");
    // The first's permit is free when its time is over, when the others' patience may just be over, too.
    for (name, other) in [("attic", second), ("roof", third)] {
        let asked = server.requests().iter().any(|request| request.target.contains(name));
        match other {
            Err(ApiError::NotNow { after: None, .. }) => assert!(!asked, "{name}"),
            Err(ApiError::Unsure { .. }) => assert!(asked, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(server.requests().len() < 3);
}

#[tokio::test]
async fn what_can_not_be_asked_is_refused_without_a_call() {
    let server = Server::start(|_| answer(200, "")).await;
    let client_here = server.client();
    let bad_key = Access::new(Secret::new("key\r\nx: y"), None);
    let up = EndDevice::new("", "house", "..").expect("valid");
    let bad_hook = Access::new(Secret::new("key"), Some("..".to_owned()));
    let nowhere = client(ClientOptions { base_url: None, request_timeout: DEADLINE, max_in_flight: 1 });
    for error in [
        client_here.clear(&bad_key, &device("cellar")).await,
        client_here.clear(&access(), &up).await,
        client_here.clear(&bad_hook, &device("cellar")).await,
        nowhere.clear(&access(), &device("cellar")).await,
    ] {
        assert!(matches!(&error, Err(ApiError::Refused { status: None, .. })), "{error:?}");
    }
    assert!(server.requests().is_empty());
}
