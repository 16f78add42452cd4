//! A small, scriptable IoT Hub: says what it is told to and writes down what it sees. Its AMQP is next door.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::Value;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tti_connector::azure::HubAddress;
use tti_connector::iot_hub::IotHubOptions;
use tti_connector::net::tls::client_config_with;

use super::inbound_hub::{Say, TwinSays, default_twin};
use crate::ports::free_port;

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
    /// Opens, but only after this long.
    Late(Duration),
    /// Ends the session.
    End(&'static str),
    Silence,
}

/// Something the hub saw; the number is the connection's.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Opened(usize),
    Put {
        connection: usize,
        audience: String,
        kind: String,
        token: String,
    },
    Attached {
        connection: usize,
        address: String,
        properties: String,
    },
    Got {
        message: Box<Message<Body<Value>>>,
    },
    /// What the client made of a cloud-to-device message: its message-id and outcome.
    Settled {
        id: String,
        outcome: String,
        at: Instant,
    },
    /// Something came over a device's method or twin link.
    Came {
        address: String,
        message: Box<Message<Body<Value>>>,
    },
    Detached {
        address: String,
    },
    Ended,
    Gone,
}

pub(super) type Script<I, O> = Mutex<Box<dyn FnMut(I) -> O + Send>>;

pub(super) struct State {
    pub(super) seen: watch::Sender<Vec<Seen>>,
    pub(super) put: Script<String, (i32, &'static str)>,
    pub(super) door: Script<String, Door>,
    pub(super) answer: Script<String, Answer>,
    pub(super) twin: Script<(String, String), TwinSays>,
    /// What is to be done on the link from the hub to an address, as far as it is open.
    pub(super) inbound: Mutex<HashMap<String, mpsc::UnboundedSender<Say>>>,
    pub(super) limits: Limits,
    /// How long each answer travels.
    pub(super) lag: Mutex<Duration>,
    /// The longest time that nothing came from a client.
    pub(super) longest_silence: Mutex<Duration>,
    /// Command channels of the connections, in order.
    pub(super) commands: Mutex<Vec<mpsc::UnboundedSender<Answer>>>,
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
    /// The certificate that clients must trust.
    pub(super) pem: String,
    tasks: JoinSet<()>,
}

impl TestHub {
    /// A hub at a free port of 127.0.0.1 that takes everything.
    pub(super) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    /// The same with other limits.
    pub(super) async fn start_with(limits: Limits) -> Self {
        let (tls, roots, pem) = certificate();
        let state = Arc::new(State {
            seen: watch::Sender::default(),
            put: Mutex::new(Box::new(|_| (200, "OK"))),
            door: Mutex::new(Box::new(|_| Door::Open)),
            answer: Mutex::new(Box::new(|_| Answer::Accept)),
            twin: Mutex::new(Box::new(|(operation, _)| default_twin(&operation))),
            inbound: Mutex::default(),
            limits,
            lag: Mutex::default(),
            longest_silence: Mutex::default(),
            commands: Mutex::default(),
        });
        let address = HubAddress { host: "127.0.0.1".into(), port: 0 };
        let mut hub = Self { address, state, roots, tls, pem, tasks: JoinSet::new() };
        hub.listen(free_port(&[Ipv4Addr::LOCALHOST.into()])).await;
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
                // Else its answers wait for the acknowledgement of earlier ones, which takes a client 40 ms.
                tcp.set_nodelay(true).unwrap();
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

fn certificate() -> (TlsAcceptor, RootCertStore, String) {
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
    (TlsAcceptor::from(Arc::new(config)), roots, certificate.pem())
}
