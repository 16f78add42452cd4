//! A hub on a port of its own, and what a client needs to talk to it. Signs tokens with code of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::link::{DetachError, Receiver, SendError, Sender};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection, Sendable, Session};
use fe2o3_amqp_types::definitions::Error;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Batch, Body, Data, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Value};
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tti_connector::emulator::{AmqpOptions, Event, Hub, serve_amqp};
use tti_connector::model::Clock;

pub(super) const HOST: &str = "hub.example";
/// Where the manual clock stands at first.
pub(super) const NOW_S: u64 = 1_700_000_000;
pub(super) const IOTHUB_TYPE: &str = "azure-devices.net:sastoken";

/// Fails loudly instead of hanging.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("this takes too long")
}

/// A served hub; stops with the test.
pub(super) struct Rig {
    pub(super) hub: Arc<Hub>,
    pub(super) clock: Clock,
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::with(AmqpOptions::default()).await
    }

    pub(super) async fn with(options: AmqpOptions) -> Self {
        Self::of(options, |hub| hub).await
    }

    /// A hub as `made` makes it.
    pub(super) async fn of(options: AmqpOptions, made: impl FnOnce(Hub) -> Hub) -> Self {
        let options = AmqpOptions { token_check: Duration::from_millis(10), ..options };
        let clock = Clock::manual(i64::try_from(NOW_S).unwrap() * 1000);
        let hub = Arc::new(made(Hub::new(HOST, clock.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let served = Arc::clone(&hub);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let stop = CancellationToken::new();
                connections.spawn(serve_amqp(stream, Arc::clone(&served), options.clone(), stop));
            }
        });
        Self { hub, clock, address, _server: server }
    }

    pub(super) fn device(&self, id: &str) {
        self.hub.create_device(id, None).unwrap();
    }

    pub(super) async fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection without SASL, as C# and Node open it.
    pub(super) async fn connect(&self) -> ConnectionHandle<()> {
        let builder = Connection::builder().container_id("test").channel_max(1000);
        within(builder.open_with_stream(self.tcp().await)).await.unwrap()
    }

    pub(super) async fn connect_sasl(
        &self,
        profile: SaslProfile,
    ) -> Result<ConnectionHandle<()>, fe2o3_amqp::connection::OpenError> {
        let builder = Connection::builder().container_id("test").sasl_profile(profile);
        within(builder.open_with_stream(self.tcp().await)).await
    }

    /// A connection with one session and a `$cbs` pair on it.
    pub(super) async fn client(&self) -> Client {
        let mut connection = self.connect().await;
        let mut session = within(Session::begin(&mut connection)).await.unwrap();
        let cbs = Cbs::attach(&mut session).await;
        Client { connection, session, cbs }
    }

    /// A client that has shown the tokens of `devices`.
    pub(super) async fn client_of(&self, devices: &[&str]) -> Client {
        let mut client = self.client().await;
        for id in devices {
            assert_eq!(client.cbs.put(&self.device_token(id, 3600)).await.0, 200);
        }
        client
    }

    pub(super) fn device_token(&self, id: &str, life_s: u64) -> String {
        let key = self.hub.device(id).unwrap().primary_key;
        token(&format!("{HOST}/devices/{id}"), &key, self.now_s() + life_s, None)
    }

    pub(super) fn policy_token(&self, policy: &str, life_s: u64) -> String {
        token(HOST, self.hub.policy_key(policy).unwrap(), self.now_s() + life_s, Some(policy))
    }

    pub(super) fn now_s(&self) -> u64 {
        u64::try_from(self.clock.now_ms() / 1000).unwrap()
    }

    pub(super) fn events_of(&self, id: &str) -> Vec<Event> {
        self.hub.all_events().into_iter().filter(|event| event.device_id == id).collect()
    }
}

/// A SAS token, `sr` percent-encoded once.
pub(super) fn token(resource: &str, key: &str, expiry: u64, policy: Option<&str>) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(key).unwrap()).unwrap();
    mac.update(format!("{}\n{expiry}", encoded(resource)).as_bytes());
    let signature = encoded(&STANDARD.encode(mac.finalize().into_bytes()));
    let policy = policy.map(|policy| format!("&skn={policy}")).unwrap_or_default();
    format!("SharedAccessSignature sr={}&sig={signature}&se={expiry}{policy}", encoded(resource))
}

/// A connection, its first session, and its `$cbs` links.
pub(super) struct Client {
    pub(super) connection: ConnectionHandle<()>,
    pub(super) session: SessionHandle<()>,
    pub(super) cbs: Cbs,
}

impl Client {
    pub(super) async fn telemetry(&mut self, device: &str) -> Sender {
        telemetry(&mut self.session, device).await
    }
}

pub(super) async fn telemetry(session: &mut SessionHandle<()>, device: &str) -> Sender {
    let address = format!("/devices/{device}/messages/events");
    attach(session, &format!("telemetry-{device}"), &address).await
}

pub(super) async fn attach(session: &mut SessionHandle<()>, name: &str, address: &str) -> Sender {
    within(Sender::attach(session, name, address)).await.unwrap()
}

/// What an attached but refused sender is told.
pub(super) async fn refusal_of(mut sender: Sender) -> Error {
    match within(sender.on_detach()).await {
        DetachError::RemoteClosedWithError(error) => error,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub(super) async fn receiver_refusal(mut receiver: Receiver) -> Error {
    let error = within(receiver.recv::<Body<Value>>()).await.unwrap_err();
    match error {
        fe2o3_amqp::link::RecvError::LinkStateError(
            fe2o3_amqp::link::LinkStateError::RemoteClosedWithError(error),
        ) => error,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The condition of an error as it is on the wire.
pub(super) fn condition(error: &Error) -> String {
    let condition = serde_amqp::to_vec(&error.condition).unwrap();
    String::from_utf8_lossy(&condition[2..]).into_owned()
}

/// A link on which the hub sends.
pub(super) async fn receive(session: &mut SessionHandle<()>, name: &str, address: &str) -> Receiver {
    within(Receiver::attach(session, name, address)).await.unwrap()
}

/// The next message of a link, and what is needed to answer it.
pub(super) async fn next(receiver: &mut Receiver) -> (DeliveryInfo, Message<Body<Value>>) {
    within(receiver.recv::<Body<Value>>()).await.unwrap().into_parts()
}

/// The bytes of a message's body.
pub(super) fn bytes(message: &Message<Body<Value>>) -> Vec<u8> {
    message.body.try_as_data().unwrap().flat_map(|part| part.to_vec()).collect()
}

/// The `$cbs` pair.
pub(super) struct Cbs {
    pub(super) requests: Sender,
    pub(super) replies: Receiver,
    next_id: u64,
}

impl Cbs {
    pub(super) async fn attach(session: &mut SessionHandle<()>) -> Self {
        let requests = within(Sender::attach(session, "cbs-sender", "$cbs")).await.unwrap();
        let replies = within(Receiver::attach(session, "cbs-receiver", "$cbs")).await.unwrap();
        Self { requests, replies, next_id: 1 }
    }

    /// Puts a token; status and description.
    pub(super) async fn put(&mut self, token: &str) -> (i32, String) {
        self.next_id += 1;
        let reply = self.ask(put_token(token, IOTHUB_TYPE, MessageId::Ulong(self.next_id))).await;
        assert_eq!(reply.properties.unwrap().correlation_id, Some(MessageId::Ulong(self.next_id)));
        status_of(reply.application_properties.as_ref())
    }

    pub(super) async fn ask(&mut self, request: Message<Body<Value>>) -> Message<Body<Value>> {
        let outcome = within(self.requests.send(request)).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        let reply = within(self.replies.recv::<Body<Value>>()).await.unwrap();
        reply.into_message()
    }
}

pub(super) fn put_token(token: &str, kind: &str, id: MessageId) -> Message<Body<Value>> {
    let properties = ApplicationProperties::builder()
        .insert("operation", "put-token")
        .insert("type", kind)
        .insert("name", "audience");
    Message::builder()
        .properties(Properties::builder().message_id(id).build())
        .application_properties(properties.build())
        .body(Body::Value(AmqpValue(Value::from(token))))
        .build()
}

/// `status-code`, which must be an AMQP int, and `status-description`.
pub(super) fn status_of(properties: Option<&ApplicationProperties>) -> (i32, String) {
    let properties = properties.unwrap();
    match (properties.0.get("status-code"), properties.0.get("status-description")) {
        (Some(SimpleValue::Int(code)), Some(SimpleValue::String(text))) => (*code, text.clone()),
        other => panic!("not a status: {other:?}"),
    }
}

pub(super) fn data(body: impl AsRef<[u8]>) -> Body<Value> {
    Body::Data(Batch::new(vec![Data(Binary::from(body.as_ref().to_vec()))]))
}

pub(super) fn message(body: Body<Value>) -> Message<Body<Value>> {
    Message::builder().body(body).build()
}

/// Sends and waits for the outcome or the end of the link.
pub(super) async fn send(
    sender: &mut Sender,
    message: impl Into<Sendable<Body<Value>>>,
) -> Result<Outcome, SendError> {
    within(sender.send(message)).await
}

/// The error of a rejected message.
pub(super) fn rejection(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Rejected(rejected) => rejected.error.expect("a rejection says why"),
        other => panic!("expected rejected, got {other:?}"),
    }
}
