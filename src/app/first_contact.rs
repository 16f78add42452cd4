//! Tries the configured hubs and DPS from the start until one of them answers, so that readiness does not wait for a
//! first message that comes only once we are ready. Sends nothing and signs nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::devices::{Routes, Target};
use crate::iot_hub::{IotHubOptions, Transport};
use crate::net::proxy::Proxy;
use crate::net::transport;

/// Pause after the first round without an answer; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Tried at once; a round takes longer with more applications than that.
const AT_ONCE: usize = 16;
const HTTPS: u16 = 443;

/// Whether any of them answered, ever.
pub(super) type Answered = Arc<AtomicBool>;

/// Where to knock, and how.
pub(super) struct FirstContact {
    /// Host and TCP port, each once.
    peers: Vec<(String, u16)>,
    proxy: Option<Proxy>,
    tls: Arc<ClientConfig>,
    patience: Duration,
}

impl FirstContact {
    pub(super) fn new(routes: &Routes, options: &IotHubOptions) -> Self {
        let mut peers: Vec<_> = routes
            .targets()
            .map(|target| match target {
                Target::Hub(hub) => {
                    let hub = hub.address(routes.amqp_port());
                    let port = match options.transport {
                        Transport::Tls => hub.port,
                        Transport::WebSocket => options.websocket_port,
                    };
                    (hub.host.to_string(), port)
                }
                // Which hubs there are only DPS knows, and only once a device comes.
                Target::Dps(scope) => {
                    let authority = scope.endpoint.authority();
                    let split = authority.rsplit_once(':');
                    let (host, port) = split
                        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
                        .unwrap_or((authority, HTTPS));
                    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port)
                }
            })
            .collect();
        peers.sort_unstable();
        peers.dedup();
        Self {
            peers,
            proxy: options.proxy.clone(),
            tls: options.tls.clone(),
            patience: options.connect_timeout,
        }
    }

    /// Until one answers, or `stop`.
    pub(super) async fn run(self, answered: Answered, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut pause = FIRST_PAUSE;
            while !self.round(pause).await {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answered.store(true, Ordering::Relaxed);
        })
        .await;
    }

    /// Knocks once at each, and stops at the first that answers.
    async fn round(&self, pause: Duration) -> bool {
        let mut failure = None;
        for some in self.peers.chunks(AT_ONCE) {
            let mut knocks: FuturesUnordered<_> =
                some.iter().map(|peer| async move { (peer, self.knock(peer).await) }).collect();
            while let Some(((host, port), result)) = knocks.next().await {
                match result {
                    Ok(()) => {
                        info!(hub = %format_args!("{host}:{port}"), "A hub or DPS answers.");
                        return true;
                    }
                    Err(error) => failure = Some((host, port, error)),
                }
            }
        }
        if let Some((host, port, error)) = failure {
            let delay_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            warn!(hub = %format_args!("{host}:{port}"), %error, delay_ms, "No hub and no DPS answers yet; not ready.");
        }
        false
    }

    /// TLS with a certificate that we trust proves that it is the peer that we mean.
    async fn knock(&self, (host, port): &(String, u16)) -> io::Result<()> {
        timeout(self.patience, transport::tls(host, *port, self.proxy.as_ref(), &self.tls))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))?
            .map(drop)
    }
}
