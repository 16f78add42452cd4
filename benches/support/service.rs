//! The cloud's side of the hub for the benches: sends cloud-to-device messages over AMQP and calls methods over HTTPS, as
//! a service with a policy's key does. On TLS, like everything of the hub.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection, Session};
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Batch, Body, Data, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, Value};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tti_connector::azure::{ConnectionString, Credential, sas};

/// One hub as a service sees it.
#[derive(Clone)]
pub(crate) struct Service {
    host: String,
    amqp_port: u16,
    https_port: u16,
    token: String,
    tls: Arc<rustls::ClientConfig>,
    http: reqwest::Client,
}

/// A link for messages, with what it lives on.
pub(crate) struct Messages {
    pub(crate) link: Sender,
    _session: SessionHandle<()>,
    _connection: ConnectionHandle<()>,
}

impl Service {
    /// From ready.json.
    pub(crate) fn of(ready: &serde_json::Value) -> Self {
        let hub = &ready["hubs"][0];
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let port =
            |value: &serde_json::Value| u16::try_from(value.as_u64().expect("a port")).expect("a port");
        let string = ConnectionString::parse(&text(&hub["serviceConnectionString"])).expect("valid");
        let Credential::Policy { name, key } = string.credential() else { panic!("not a policy's") };
        let host = text(&hub["hostName"]);
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let ca_file = text(&ready["caFile"]);
        let tls = tti_connector::net::tls::client_config(Some(Path::new(&ca_file))).expect("a CA");
        let http = reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).no_proxy();
        Self {
            token: sas::sign(&host, &key, now_s + 3600, Some(&name)),
            amqp_port: port(&hub["amqpPort"]),
            https_port: port(&ready["httpsPort"]),
            host,
            tls,
            http: http.build().expect("a client"),
        }
    }

    /// A client that trusts the emulator.
    pub(crate) fn http(&self) -> reqwest::Client {
        self.http.clone()
    }

    /// Opens a connection, shows the token, and opens the link.
    pub(crate) async fn messages(&self) -> Messages {
        let tcp = TcpStream::connect((self.host.as_str(), self.amqp_port)).await.expect("the hub listens");
        tcp.set_nodelay(true).expect("a socket");
        let name = self.host.clone().try_into().expect("a server name");
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.expect("TLS");
        let builder = Connection::builder().container_id("bench").hostname(self.host.as_str());
        let mut connection = builder.scheme("amqp").open_with_stream(stream).await.expect("AMQP");
        let mut session = Session::begin(&mut connection).await.expect("a session");
        let mut requests = Sender::attach(&mut session, "cbs-out", "$cbs").await.expect("attached");
        let mut replies = Receiver::attach(&mut session, "cbs-in", "$cbs").await.expect("attached");
        let operation = ApplicationProperties::builder()
            .insert("operation", "put-token")
            .insert("type", "azure-devices.net:sastoken")
            .insert("name", self.host.as_str());
        let put = Message::builder()
            .properties(Properties::builder().message_id(MessageId::Ulong(1)).build())
            .application_properties(operation.build())
            .body(Body::Value(AmqpValue(Value::from(self.token.as_str()))))
            .build();
        requests.send(put).await.expect("the token is taken");
        let reply = replies.recv::<Body<Value>>().await.expect("an answer");
        replies.accept(&reply).await.expect("settled");
        let link = Sender::attach(&mut session, "messages", "/messages/devicebound").await.expect("attached");
        Messages { link, _session: session, _connection: connection }
    }

    /// Calls a method; gives the device's status.
    pub(crate) async fn call(&self, device: &str, name: &str, payload: serde_json::Value) -> u64 {
        let Self { host, https_port, .. } = self;
        let url = format!("https://{host}:{https_port}/twins/{device}/methods?api-version=2021-04-12");
        let body = json!({ "methodName": name, "responseTimeoutInSeconds": 30, "payload": payload });
        let request = self.http.post(url).header("authorization", &self.token).json(&body);
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
        let answer: serde_json::Value = answer.json().await.expect("JSON");
        answer["status"].as_u64().expect("a status")
    }
}

/// A message for a device.
pub(crate) fn message(device: &str, id: &str, body: &str) -> Message<Body<Value>> {
    let to = format!("/devices/{device}/messages/devicebound");
    Message::builder()
        .properties(Properties::builder().to(to).message_id(MessageId::String(id.to_owned())).build())
        .application_properties(ApplicationProperties::builder().insert("Port", "10").build())
        .body(Body::Data(Batch::new(vec![Data(Binary::from(body.as_bytes().to_vec()))])))
        .build()
}

/// The hub has it.
pub(crate) fn is_accepted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accepted(_))
}
