//! Who may post.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::desk::{DEADLINE, Desk, read, send, uplink};

fn forms(secret: &str) -> [(&'static str, String); 3] {
    [
        ("authorization", format!("Bearer {secret}")),
        ("authorization", format!("Basic {}", BASE64_STANDARD.encode(format!("anyone:{secret}")))),
        ("x-api-key", secret.to_owned()),
    ]
}

#[tokio::test]
async fn both_secrets_of_a_rotation_pass_in_all_three_forms() {
    let mut desk = Desk::with_secrets(&["old secret", "new:secret"]).await;
    for secret in ["old secret", "new:secret"] {
        for (name, value) in forms(secret) {
            let (status, _) = read(send(desk.post(uplink(1)).header(name, &value)).await).await;
            assert_eq!(status, 202, "{name}: {value}");
            desk.next_kept().await;
        }
    }
}

#[tokio::test]
async fn a_wrong_or_missing_secret_is_refused_and_told_how() {
    let mut desk = Desk::with_secrets(&["right", "also right"]).await;
    let wrong = ["wrong", "", "righ", "right2", "Right", "right, also right"];
    for (name, value) in wrong.iter().flat_map(|secret| forms(secret)) {
        let response = send(desk.post(uplink(1)).header(name, &value)).await;
        assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"tti-connector\", Bearer");
        let (status, body) = read(response).await;
        assert_eq!(status, 401, "{name}: {value}");
        assert!(!body.to_string().contains("also"), "no secret in {body}");
    }
    assert_eq!(read(send(desk.post(uplink(1))).await).await.0, 401);
    desk.assert_nothing_kept();
    assert_eq!(desk.metric("tti_connector_webhook_refused_requests_total{status=\"401\"}"), 19);
}

#[tokio::test]
async fn strangers_are_refused_before_their_body_is_read() {
    let desk = Desk::with_secrets(&["right"]).await;
    let head =
        "POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\n";
    let answer = post_only_head(desk.address, head).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn without_configured_secrets_everybody_passes() {
    let desk = Desk::open().await;
    assert_eq!(read(send(desk.post(uplink(1)).header("x-api-key", "any")).await).await.0, 202);
    assert_eq!(read(send(desk.post(uplink(2))).await).await.0, 202);
}

async fn post_only_head(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(head.as_bytes()).await.expect("write");
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("in time").expect("read");
    answer
}
