//! Where a downlink is: in the queue, taken by the Network Server, or nowhere that the key may look.

use tti_connector::things_stack::{ApiError, Whereabouts};

use super::server::{End, Reply, Request, Server, access, answer, device, half};

const OURS: &str = "tti-connector:0123456789abcdef0123456789abcdef";

/// What is found when queue and Network Server answer so.
async fn found(queue: Reply, network_server: Reply) -> (Result<Whereabouts, ApiError>, Vec<Request>) {
    let server = Server::start(move |request| {
        if request.target.starts_with("/api/v3/ns/") { network_server.clone() } else { queue.clone() }
    })
    .await;
    let result = server.client().whereabouts(&access(), &device("cellar"), OURS).await;
    (result, server.requests())
}

#[tokio::test]
async fn a_queued_one_is_found_without_asking_further() {
    let queue = answer(200, format!(r#"{{"downlinks":[{{}},{{"correlation_ids":["a","{OURS}"]}}]}}"#));
    let (result, requests) = found(queue, answer(500, "")).await;
    assert_eq!((result, requests.len()), (Ok(Whereabouts::Queued), 1));
}

#[tokio::test]
async fn one_that_the_network_server_took_is_found_there() {
    for device_body in [
        format!(
            r#"{{"ids":{{}},"mac_state":{{"recent_downlinks":[{{"correlation_ids":["b"]}},{{"payload":{{"m_hdr":{{}}}},"correlation_ids":["ns:x","{OURS}"]}}]}}}}"#
        ),
        format!(
            r#"{{"mac_state":{{"recent_downlinks":null,"pending_application_downlink":{{"f_port":3,"correlation_ids":["{OURS}"]}}}}}}"#
        ),
    ] {
        let (result, requests) = found(answer(200, "{}"), answer(200, device_body)).await;
        assert_eq!(result, Ok(Whereabouts::Taken));
        assert_eq!(
            requests[1].target,
            "/api/v3/ns/applications/house/devices/cellar?field_mask=mac_state.recent_downlinks,mac_state.pending_application_downlink"
        );
        assert_eq!(requests[1].header("authorization"), Some("Bearer NNSXS.KEY"));
    }
}

#[tokio::test]
async fn others_ids_and_ids_in_other_places_are_not_ours() {
    for device_body in [
        "{}".to_owned(),
        r#"{"mac_state":null}"#.to_owned(),
        format!(r#"{{"mac_state":{{"recent_downlinks":[{{"correlation_ids":["{OURS}0","x{OURS}"]}}]}}}}"#),
        format!(
            r#"{{"name":"{OURS}","attributes":{{"a":"{OURS}"}},"mac_state":{{"recent_uplinks":[{{"correlation_ids":["{OURS}"]}}]}}}}"#
        ),
    ] {
        let (result, requests) = found(answer(200, "{}"), answer(200, device_body)).await;
        assert_eq!((result, requests.len()), (Ok(Whereabouts::Nowhere), 2));
    }
}

#[tokio::test]
async fn a_network_server_that_may_not_be_asked_leaves_it_nowhere() {
    for status in [400, 401, 403, 404, 501] {
        let (result, _) = found(answer(200, "{}"), answer(status, "{}")).await;
        assert_eq!(result, Ok(Whereabouts::Nowhere), "{status}");
    }
}

#[tokio::test]
async fn a_failure_that_may_pass_is_no_answer() {
    for network_server in [answer(500, ""), answer(503, ""), half(200, "{", End::Close), answer(200, "[]")] {
        let (result, _) = found(answer(200, "{}"), network_server.clone()).await;
        assert!(matches!(result, Err(ApiError::Unsure { .. })), "{network_server:?}: {result:?}");
    }
    let (result, _) = found(answer(200, "{}"), answer(429, "")).await;
    assert!(matches!(result, Err(ApiError::NotNow { .. })), "{result:?}");
    let (result, requests) = found(answer(403, ""), answer(200, "{}")).await;
    assert!(matches!(result, Err(ApiError::Refused { status: Some(403), .. })), "{result:?}");
    assert_eq!(requests.len(), 1, "who may not see the queue knows nothing");
}
