//! The upgrade of `/$iothub/websocket` to AMQP over WebSocket.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::https::Site;
use super::hub::Hub;
use super::listeners::serve_amqp_connection;
use super::reply::{self, HubRefusal, Reply};
use crate::net::websocket::WebSocketBytes;

/// The path, decoded. Any query is ignored (Java sends one).
pub(super) const PATH: [&str; 2] = ["$iothub", "websocket"];
/// IoT Hub's WebSocket subprotocol for AMQP.
const SUBPROTOCOL: &str = "AMQPWSB10";

/// Answers 101 and serves AMQP on the connection, or says what is wrong with the request.
pub(super) fn upgrade(site: &Arc<Site>, hub: Arc<Hub>, request: &mut Request<Incoming>) -> Reply {
    let key = match check(request) {
        Ok(key) => key,
        Err(refused) => return refused.into_reply(),
    };
    let Ok(place) = Arc::clone(&site.amqp_places).try_acquire_owned() else {
        let text = "the emulator has no place for another AMQP connection";
        return HubRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", text).into_reply();
    };
    let (upgrade, stop) = (hyper::upgrade::on(request), site.stop.clone());
    site.tasks.spawn(async move {
        let upgraded = tokio::select! {
            upgraded = upgrade => upgraded,
            () = stop.cancelled() => return,
        };
        match upgraded {
            Ok(stream) => {
                let stream = WebSocketBytes::server(TokioIo::new(stream)).await;
                serve_amqp_connection(stream, hub, stop).await;
            }
            Err(error) => tracing::debug!(%error, "A WebSocket upgrade to the emulator was not finished."),
        }
        drop(place);
    });
    let mut reply = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    reply::set(&mut reply, CONNECTION, "Upgrade");
    reply::set(&mut reply, UPGRADE, "websocket");
    reply::set(&mut reply, SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes()));
    reply::set(&mut reply, SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    reply
}

/// The client's key, if the request is a WebSocket upgrade that offers our subprotocol.
fn check(request: &Request<Incoming>) -> Result<String, HubRefusal> {
    if request.method() != Method::GET {
        return Err(HubRefusal::wrong_method("GET"));
    }
    if !lists(request, &CONNECTION, "upgrade") || !lists(request, &UPGRADE, "websocket") {
        return Err(HubRefusal::bad("this path takes WebSocket upgrades only"));
    }
    if !lists(request, &SEC_WEBSOCKET_VERSION, "13") {
        let text = "Sec-WebSocket-Version must be 13";
        let refused = HubRefusal::new(StatusCode::UPGRADE_REQUIRED, "ArgumentInvalid", text);
        return Err(refused.with(SEC_WEBSOCKET_VERSION, "13"));
    }
    if !lists(request, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(HubRefusal::bad("Sec-WebSocket-Protocol must offer AMQPWSB10"));
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    key.map(str::to_owned).ok_or_else(|| HubRefusal::bad("Sec-WebSocket-Key is missing"))
}

/// Whether a header, which may be repeated, lists a word.
fn lists(request: &Request<Incoming>, name: &HeaderName, word: &str) -> bool {
    let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}
