//! A scriptable API: HTTP/1.1 by hand over a real socket, so that it can also break the rules. Knows no test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tti_connector::model::{EndDevice, Secret};
use tti_connector::things_stack::{Access, Client, ClientOptions, Downlink, Payload, Priority};

/// Nothing here takes longer unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A whole answer: status, further header lines, body. The connection stays open.
    Answer(u16, &'static str, String),
    /// These bytes, then the end.
    Bytes(String, End),
    /// `HTTP/1.1 200`, then a chunked body without end.
    Endless,
}

/// How a connection ends after some bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Close,
    /// RST.
    Reset,
    /// It does not; no byte follows.
    Hang,
}

pub(crate) fn answer(status: u16, body: impl Into<String>) -> Reply {
    Reply::Answer(status, "", body.into())
}

/// An answer whose body breaks off after some bytes.
pub(crate) fn half(status: u16, body: &str, end: End) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len() + 10), end)
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// Runs until dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    script: Arc<Mutex<Arc<Script>>>,
    requests: watch::Receiver<Vec<Request>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers every request so.
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script: Arc<Mutex<Arc<Script>>> = Arc::new(Mutex::new(Arc::new(script)));
        let (seen, requests) = watch::channel(Vec::new());
        let task = tokio::spawn(accept(listener, Arc::clone(&script), Arc::new(seen)));
        Self { port, script, requests, task }
    }

    pub(crate) fn script(&self, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    pub(crate) fn last(&self) -> Request {
        self.requests().pop().expect("a request came")
    }

    /// Waits until so many requests came.
    pub(crate) async fn heard(&self, count: usize) {
        let mut requests = self.requests.clone();
        let heard = requests.wait_for(|requests| requests.len() >= count);
        tokio::time::timeout(DEADLINE, heard).await.expect("in time").expect("serves");
    }

    /// A client with this server as `base_url`.
    pub(crate) fn client(&self) -> Client {
        self.client_with(DEADLINE, 64)
    }

    pub(crate) fn client_with(&self, request_timeout: Duration, max_in_flight: usize) -> Client {
        client(ClientOptions { base_url: Some(self.url()), request_timeout, max_in_flight })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// No proxy, no redirects, as the connector's own HTTP client.
pub(crate) fn client(options: ClientOptions) -> Client {
    let provider = rustls::crypto::ring::default_provider();
    let tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_backend_preconfigured(tls)
        .build()
        .unwrap();
    Client::new(http, options).expect("an address")
}

pub(crate) fn device(id: &str) -> EndDevice {
    EndDevice::new("", "house", id).unwrap()
}

pub(crate) fn access() -> Access {
    Access::new(Secret::new("NNSXS.KEY"), Some("azure".to_owned()))
}

pub(crate) fn downlink() -> Downlink {
    Downlink {
        f_port: 20,
        payload: Payload::Raw(vec![1, 15]),
        confirmed: true,
        priority: Priority::Normal,
        class_b_c: None,
        correlation_ids: vec!["tti-connector:00".to_owned()],
    }
}

async fn accept(
    listener: TcpListener,
    script: Arc<Mutex<Arc<Script>>>,
    seen: Arc<watch::Sender<Vec<Request>>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
    }
}

async fn serve(
    stream: TcpStream,
    script: Arc<Mutex<Arc<Script>>>,
    seen: Arc<watch::Sender<Vec<Request>>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let request = read(&mut stream).await?;
        seen.send_modify(|requests| requests.push(request.clone()));
        let current = Arc::clone(&script.lock().unwrap());
        match current(&request) {
            Reply::Answer(status, headers, body) => {
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.ok()?;
            }
            Reply::Bytes(bytes, end) => {
                stream.write_all(bytes.as_bytes()).await.ok()?;
                match end {
                    End::Close => {}
                    End::Reset => SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap(),
                    End::Hang => std::future::pending().await,
                }
                return None;
            }
            Reply::Endless => {
                let head = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await.ok()?;
                let chunk = format!("{:x}\r\n{}\r\n", 65_536, " ".repeat(65_536));
                loop {
                    stream.write_all(chunk.as_bytes()).await.ok()?;
                }
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
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
