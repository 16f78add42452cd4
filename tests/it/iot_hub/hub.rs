//! A small, scriptable IoT Hub on the AMQP crate's acceptor: says what it is told to and writes down what it sees.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SessionAcceptor,
};
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{self, ErrorCondition, Role};
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Modified, Properties, TargetArchetype,
};
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Value};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tti_connector::azure::HubAddress;
use tti_connector::iot_hub::IotHubOptions;
use tti_connector::net::tls::client_config_with;

/// What the hub does with a telemetry message.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Accept,
    Reject(&'static str),
    RejectBare,
    Release,
    Modify { undeliverable: bool },
    Silence,
    Detach(&'static str),
    End(&'static str),
    Close(&'static str),
    Kill,
    Freeze,
}

/// What the hub does with an Attach for telemetry.
#[derive(Clone, Debug)]
pub(super) enum Door {
    Open,
    Refuse(&'static str),
    Silence,
}

/// Something the hub saw; the number is the connection's.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Opened(usize),
    Put { connection: usize, audience: String, kind: String, token: String },
    Attached { connection: usize, address: String, properties: String },
    Got { message: Box<Message<Body<Value>>> },
    Detached { address: String },
    Ended,
    Gone,
}

type Script<I, O> = Mutex<Box<dyn FnMut(I) -> O + Send>>;

pub(super) struct State {
    seen: watch::Sender<Vec<Seen>>,
    put: Script<String, (i32, &'static str)>,
    door: Script<String, Door>,
    answer: Script<String, Answer>,
    limits: Limits,
    /// Command channels of the connections, in order.
    commands: Mutex<Vec<mpsc::UnboundedSender<Answer>>>,
}

/// What the hub advertises.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Idle time-out, enforced too.
    pub(super) idle_ms: Option<u32>,
    pub(super) max_message_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle_ms: None, max_message_bytes: 1_048_576 }
    }
}

pub(super) struct TestHub {
    pub(super) address: HubAddress,
    pub(super) state: Arc<State>,
    pub(super) roots: RootCertStore,
    pub(super) tls: TlsAcceptor,
    tasks: JoinSet<()>,
}

impl TestHub {
    /// A hub at a free port of 127.0.0.1 that takes everything.
    pub(super) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    /// The same with other limits.
    pub(super) async fn start_with(limits: Limits) -> Self {
        let (tls, roots) = certificate();
        let state = Arc::new(State {
            seen: watch::Sender::default(),
            put: Mutex::new(Box::new(|_| (200, "OK"))),
            door: Mutex::new(Box::new(|_| Door::Open)),
            answer: Mutex::new(Box::new(|_| Answer::Accept)),
            limits,
            commands: Mutex::default(),
        });
        let address = HubAddress { host: "127.0.0.1".into(), port: 0 };
        let mut hub = Self { address, state, roots, tls, tasks: JoinSet::new() };
        hub.listen(0).await;
        hub
    }

    /// Listens at `port`, again after `go_away`.
    pub(super) async fn listen(&mut self, port: u16) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
        self.address.port = listener.local_addr().unwrap().port();
        let (state, tls) = (self.state.clone(), self.tls.clone());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (state, tls) = (state.clone(), tls.clone());
                connections.spawn(async move {
                    if let Ok(stream) = tls.accept(tcp).await {
                        state.serve(stream).await;
                    }
                });
            }
        });
    }

    /// Closes the listener and cuts every connection.
    pub(super) async fn go_away(&mut self) {
        self.tasks.shutdown().await;
    }

    pub(super) fn options(&self) -> IotHubOptions {
        let mut options = IotHubOptions::new(client_config_with(self.roots.clone()).unwrap());
        options.connect_timeout = Duration::from_secs(5);
        options.send_timeout = Duration::from_secs(5);
        options
    }

    pub(super) fn on_put(&self, script: impl FnMut(String) -> (i32, &'static str) + Send + 'static) {
        *self.state.put.lock().unwrap() = Box::new(script);
    }

    pub(super) fn on_attach(&self, script: impl FnMut(String) -> Door + Send + 'static) {
        *self.state.door.lock().unwrap() = Box::new(script);
    }

    pub(super) fn on_message(&self, script: impl FnMut(String) -> Answer + Send + 'static) {
        *self.state.answer.lock().unwrap() = Box::new(script);
    }

    /// Does `answer` to a whole connection: close, kill or freeze.
    pub(super) fn command(&self, connection: usize, answer: Answer) {
        self.state.commands.lock().unwrap()[connection].send(answer).unwrap();
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.seen.borrow().clone()
    }

    pub(super) fn count(&self, wanted: impl Fn(&Seen) -> bool) -> usize {
        self.state.seen.borrow().iter().filter(|seen| wanted(seen)).count()
    }

    /// Waits until `count` of what was seen fit, at most ten seconds.
    pub(super) async fn wait(&self, count: usize, wanted: impl Fn(&Seen) -> bool) {
        let mut seen = self.state.seen.subscribe();
        let enough = seen.wait_for(|seen| seen.iter().filter(|seen| wanted(seen)).count() >= count);
        let waited = tokio::time::timeout(Duration::from_secs(10), enough).await.map(|ok| ok.is_ok());
        assert_eq!(waited, Ok(true), "seen only {:?}", self.seen());
    }
}

fn certificate() -> (TlsAcceptor, RootCertStore) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), roots)
}

impl State {
    fn note(&self, seen: Seen) {
        self.seen.send_modify(|all| all.push(seen));
    }

    /// Waits until a connection has ended.
    pub(super) async fn wait_for_end(&self) {
        let gone = |seen: &Vec<Seen>| seen.iter().any(|seen| matches!(seen, Seen::Gone));
        self.seen.subscribe().wait_for(gone).await.unwrap();
    }

    /// Serves one connection over a stream that is past TLS, until it ends.
    pub(super) async fn serve<S>(self: Arc<Self>, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The engine gets one end of a pipe, so that the real stream can be cut or frozen behind its back.
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let (commands, mut orders) = mpsc::unbounded_channel();
        let number = {
            let mut all = self.commands.lock().unwrap();
            all.push(commands.clone());
            all.len() - 1
        };
        let (stop, mut stopped) = watch::channel(Answer::Accept);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let pump = copy_bidirectional(&mut stream, &mut far);
            tokio::pin!(pump);
            tokio::select! {
                _ = &mut pump => return,
                _ = stopped.changed() => {}
            }
            let freeze = matches!(*stopped.borrow(), Answer::Freeze);
            if freeze {
                std::future::pending::<()>().await;
            }
        });
        let mut builder = ConnectionAcceptor::builder().container_id("DeviceGateway_test").channel_max(8191);
        if let Some(idle_ms) = self.limits.idle_ms {
            builder = builder.idle_time_out(idle_ms);
        }
        let Ok(mut connection) = builder.build().accept(near).await else { return };
        self.note(Seen::Opened(number));
        let acceptor = SessionAcceptor::new();
        loop {
            tokio::select! {
                session = connection.next_incoming_session() => {
                    let Some(session) = session else { break };
                    let session = acceptor.accept_incoming_session(session, &mut connection).await.unwrap();
                    tasks.spawn(self.clone().session(number, session, commands.clone()));
                }
                Some(order) = orders.recv() => match order {
                    Answer::Close(condition) => {
                        _ = connection.close_with_error(error(condition)).await;
                        break;
                    }
                    Answer::Kill => {
                        stop.send(Answer::Kill).unwrap();
                        break;
                    }
                    Answer::Freeze => stop.send(Answer::Freeze).unwrap(),
                    other => panic!("{other:?} is no order for a connection"),
                }
            }
        }
        self.note(Seen::Gone);
        while tasks.join_next().await.is_some() {}
    }

    async fn session(
        self: Arc<Self>,
        number: usize,
        mut session: ListenerSessionHandle,
        commands: mpsc::UnboundedSender<Answer>,
    ) {
        let mut links = JoinSet::new();
        let (replies, mut reply_queue) = mpsc::unbounded_channel();
        let mut reply_queue_taken = false;
        let (end, mut ends) = mpsc::unbounded_channel::<&'static str>();
        loop {
            let attach = tokio::select! {
                attach = session.next_incoming_attach() => attach,
                Some(condition) = ends.recv() => {
                    _ = session.end_with_error(error(condition)).await;
                    break;
                }
            };
            let Some(attach) = attach else { break };
            let (address, properties) = described(&attach);
            let telemetry = address != "$cbs";
            if telemetry {
                self.note(Seen::Attached { connection: number, address: address.clone(), properties });
            }
            let door = if telemetry { (self.door.lock().unwrap())(address.clone()) } else { Door::Open };
            if matches!(door, Door::Silence) {
                continue;
            }
            let acceptor = LinkAcceptor::builder().max_message_size(self.limits.max_message_bytes).build();
            let Ok(link) = acceptor.accept_incoming_attach(attach, &mut session).await else {
                break;
            };
            match (link, door) {
                (LinkEndpoint::Receiver(receiver), Door::Refuse(condition)) => {
                    _ = receiver.close_with_error(error(condition)).await;
                }
                (LinkEndpoint::Receiver(receiver), _) if telemetry => {
                    let link = Telemetry { address, commands: commands.clone(), end: end.clone() };
                    links.spawn(self.clone().telemetry(link, receiver));
                }
                (LinkEndpoint::Receiver(receiver), _) => {
                    links.spawn(self.clone().tokens(number, receiver, replies.clone()));
                }
                (LinkEndpoint::Sender(sender), _) => {
                    assert!(!reply_queue_taken, "a second reply link");
                    reply_queue_taken = true;
                    let (_, empty) = mpsc::unbounded_channel();
                    links.spawn(answer_tokens(sender, std::mem::replace(&mut reply_queue, empty)));
                }
            }
        }
        self.note(Seen::Ended);
        while links.join_next().await.is_some() {}
    }

    async fn tokens(
        self: Arc<Self>,
        connection: usize,
        mut receiver: Receiver,
        replies: mpsc::UnboundedSender<(MessageId, i32, &'static str)>,
    ) {
        while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
            receiver.accept(&delivery).await.unwrap();
            let message = delivery.into_message();
            let properties = message.application_properties.unwrap();
            let text = |name: &str| match properties.0.get(name) {
                Some(SimpleValue::String(text)) => text.clone(),
                other => panic!("{name} is {other:?}"),
            };
            assert_eq!(text("operation"), "put-token");
            let Body::Value(AmqpValue(Value::String(token))) = message.body else { panic!("no token") };
            let audience = text("name");
            let (status, description) = (self.put.lock().unwrap())(audience.clone());
            self.note(Seen::Put { connection, audience, kind: text("type"), token });
            let id = message.properties.unwrap().message_id.unwrap();
            if status != 0 {
                _ = replies.send((id, status, description));
            }
        }
        _ = receiver.close().await;
    }

    async fn telemetry(self: Arc<Self>, link: Telemetry, mut receiver: Receiver) {
        while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
            let answer = (self.answer.lock().unwrap())(link.address.clone());
            match &answer {
                Answer::Accept => receiver.accept(&delivery).await.unwrap(),
                Answer::Reject(condition) => receiver.reject(&delivery, error(condition)).await.unwrap(),
                Answer::RejectBare => receiver.reject(&delivery, None).await.unwrap(),
                Answer::Release => receiver.release(&delivery).await.unwrap(),
                Answer::Modify { undeliverable } => {
                    let modified = Modified {
                        delivery_failed: None,
                        undeliverable_here: Some(*undeliverable),
                        message_annotations: None,
                    };
                    receiver.modify(&delivery, modified).await.unwrap();
                }
                Answer::End(condition) => link.end.send(condition).unwrap(),
                Answer::Close(_) | Answer::Kill | Answer::Freeze => {
                    link.commands.send(answer.clone()).unwrap()
                }
                Answer::Silence | Answer::Detach(_) => {}
            }
            self.note(Seen::Got { message: Box::new(delivery.into_message()) });
            if let Answer::Detach(condition) = answer {
                _ = receiver.close_with_error(error(condition)).await;
                return self.note(Seen::Detached { address: link.address });
            }
        }
        _ = receiver.close().await;
        self.note(Seen::Detached { address: link.address });
    }
}

struct Telemetry {
    address: String,
    commands: mpsc::UnboundedSender<Answer>,
    end: mpsc::UnboundedSender<&'static str>,
}

async fn answer_tokens(
    mut sender: Sender,
    mut queue: mpsc::UnboundedReceiver<(MessageId, i32, &'static str)>,
) {
    while let Some((id, status, description)) = queue.recv().await {
        let message = Message::builder()
            .properties(Properties::builder().correlation_id(id).build())
            .application_properties(
                ApplicationProperties::builder()
                    .insert("status-code", SimpleValue::Int(status))
                    .insert("status-description", SimpleValue::String(description.to_owned()))
                    .build(),
            )
            .value(Value::Null)
            .build();
        if sender.send(message).await.is_err() {
            return;
        }
    }
    _ = sender.close().await;
}

fn described(attach: &Attach) -> (String, String) {
    let address = match attach.role {
        Role::Sender => match attach.target.as_deref() {
            Some(TargetArchetype::Target(target)) => target.address.clone(),
            None => None,
        },
        Role::Receiver => attach.source.as_ref().and_then(|source| source.address.clone()),
    };
    (address.unwrap_or_default(), format!("{:?}", attach.properties))
}

fn error(condition: &str) -> definitions::Error {
    let condition = ErrorCondition::Custom(Symbol::from(condition));
    definitions::Error::new(condition, Some("said by the test hub".to_owned()), None)
}
