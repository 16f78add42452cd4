//! A scriptable DPS: HTTPS over a real socket, HTTP/1.1 by hand, SAS verified with code of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What to do with it.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Status, `Retry-After`, body.
    Answer(u16, Option<String>, String),
    /// Close the connection without a word.
    Close,
    /// Never answer.
    Hang,
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// Runs until dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) roots: rustls::RootCertStore,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    script: Mutex<Arc<Script>>,
    requests: Mutex<Vec<Request>>,
    /// How long a request is held before its answer.
    delay: Mutex<Duration>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The registration id in the path.
    pub(crate) fn registration_id(&self) -> &str {
        self.target.split('/').nth(3).unwrap_or_default()
    }

    /// Whether its token is what DPS asks of a device of this enrollment group, at this time.
    pub(crate) fn is_signed(&self, id_scope: &str, group_key: &str, now_s: u64) -> bool {
        let Some(fields) =
            self.header("authorization").and_then(|v| v.strip_prefix("SharedAccessSignature "))
        else {
            return false;
        };
        let field = |name: &str| {
            let mut pairs = fields.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value).unwrap_or_default()
        };
        let expiry: u64 = field("se").parse().unwrap_or(0);
        let mac = |key: &[u8], message: &str| {
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
            mac.update(message.as_bytes());
            mac.finalize().into_bytes()
        };
        let id = self.registration_id();
        let device_key = mac(&STANDARD.decode(group_key).unwrap(), id);
        let signature = STANDARD.encode(mac(&device_key, &format!("{}\n{expiry}", field("sr"))));
        field("sr") == format!("{id_scope}%2Fregistrations%2F{id}")
            && field("skn") == "registration"
            && (now_s + 60..=now_s + 86_400).contains(&expiry)
            && field("sig") == signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
    }
}

impl Server {
    /// Listens on a free port of 127.0.0.1 with a certificate of its own CA.
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let (tls, root) = certificates();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            script: Mutex::new(Arc::new(script)),
            requests: Mutex::default(),
            delay: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&shared)));
        Self { port, roots, shared, task }
    }

    /// From now on answers like this.
    pub(crate) fn script(&self, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// From now on takes this long for each answer.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many devices asked to be registered.
    pub(crate) fn registrations(&self) -> usize {
        self.requests().iter().filter(|request| request.method == "PUT").count()
    }

    /// The most requests that were waiting for an answer at one time.
    pub(crate) fn most_under_way(&self) -> usize {
        self.shared.most_under_way.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) -> Option<()> {
    let mut stream = BufReader::new(tls.accept(stream).await.ok()?);
    loop {
        let request = read(&mut stream).await?;
        shared.requests.lock().unwrap().push(request.clone());
        let under_way = shared.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        let delay = *shared.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let script = Arc::clone(&shared.script.lock().unwrap());
        let reply = script(&request);
        shared.under_way.fetch_sub(1, Ordering::SeqCst);
        match reply {
            Reply::Close => return None,
            Reply::Hang => std::future::pending().await,
            Reply::Answer(status, retry_after, body) => {
                let retry_after = retry_after.map(|value| format!("Retry-After: {value}\r\n"));
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n{body}",
                    retry_after.unwrap_or_default(),
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.ok()?;
                stream.flush().await.ok()?;
            }
        }
    }
}

async fn read<S>(stream: &mut BufReader<S>) -> Option<Request>
where
    S: tokio::io::AsyncRead + Unpin,
{
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let mut first = lines.first()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let mut request = Request { method, target, headers, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    request.body = String::from_utf8(body).ok()?;
    Some(request)
}

/// A server certificate for `localhost`, and the root that signed it.
fn certificates() -> (rustls::ServerConfig, CertificateDer<'static>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap().der().clone();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().der().clone();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (config, root)
}
