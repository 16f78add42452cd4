//! How to reach hubs: transport, limits and time-outs, with the defaults that suit IoT Hub.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::model::Clock;
use crate::net::proxy::Proxy;

/// Tokens that IoT Hub takes on one TCP connection, with its own reserve.
const DEVICES_OVER_TCP: usize = 995;
/// The same over WebSocket.
const DEVICES_OVER_WEBSOCKET: usize = 500;
/// Token requests under way at once; the hub needs some of them to answer anyway.
const PUTS_OVER_TCP: usize = 64;
/// IoT Hub drops a WebSocket connection at the 31st.
const PUTS_OVER_WEBSOCKET: usize = 30;

/// A session's memory is little for each of these, and losing the links of so few is soon mended.
const DEVICES_PER_SESSION: usize = 16;

/// How AMQP travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// AMQP over TLS at the hub address's port.
    #[default]
    Tls,
    /// AMQP over WebSocket at `websocket_port`.
    WebSocket,
}

/// Settings for all hubs. [`IotHubOptions::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct IotHubOptions {
    /// How AMQP travels.
    pub transport: Transport,
    /// TCP port of AMQP over WebSocket.
    pub websocket_port: u16,
    /// HTTP proxy for either transport.
    pub proxy: Option<Proxy>,
    /// Something is sent at least this often on a quiet connection; IoT Hub wants it within 240 s.
    pub keep_alive: Duration,
    /// A hub that sends nothing for this long is given up. It is asked to speak within half of it, and IoT Hub does so a
    /// little earlier, so an idle hub is heard twice in this time.
    pub silence_limit: Duration,
    /// Life of the tokens we sign; renewed at 85 %.
    pub token_lifetime: Duration,
    /// Longest time for DNS, TCP, TLS, AMQP and the token links to open.
    pub connect_timeout: Duration,
    /// Longest wait for the hub's outcome of one message, and for its reply to one token.
    pub send_timeout: Duration,
    /// Devices on one connection at most; never more than 995, over WebSocket 500.
    pub max_devices_per_connection: usize,
    /// Devices that share an AMQP session at most. They lose their links together when it ends; a session takes as much
    /// memory as two links.
    pub max_devices_per_session: usize,
    /// A device that sent nothing for this long gives its session back; so does a connection without devices.
    pub idle_timeout: Duration,
    /// Cloud-to-device messages of one device that may be unanswered at once. With 1 the next comes when the former is
    /// answered, so that their order is kept.
    pub c2d_credit: u32,
    /// Devices attached per second and hub at most, to be kept open; three seconds' worth at once. IoT Hub takes about
    /// 100 new devices a second. What telemetry needs right now does not wait for this.
    pub attach_rate: u32,
    /// Devices that may connect per second and hub at most, whatever for, as the hub's tier allows; a second's worth at
    /// once. `None`: learnt from the hub's refusals.
    pub connect_rate: Option<u32>,
    /// Whom to trust.
    pub tls: Arc<ClientConfig>,
    /// For the expiry written into tokens.
    pub clock: Clock,
    /// For tests under paused time, with which real sockets do not go: takes the hub's end of each byte stream, which
    /// then stands for the network. `None` is the network.
    #[doc(hidden)]
    pub wires: Option<mpsc::UnboundedSender<DuplexStream>>,
}

impl IotHubOptions {
    /// The defaults: TLS, no proxy, 995 devices a connection, one-hour tokens.
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self {
            transport: Transport::Tls,
            websocket_port: 443,
            proxy: None,
            keep_alive: Duration::from_secs(100),
            silence_limit: Duration::from_secs(40),
            token_lifetime: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(30),
            max_devices_per_connection: DEVICES_OVER_TCP,
            max_devices_per_session: DEVICES_PER_SESSION,
            idle_timeout: Duration::from_secs(3600),
            c2d_credit: 1,
            attach_rate: 100,
            connect_rate: None,
            tls,
            clock: Clock::system(),
            wires: None,
        }
    }

    /// Devices one connection takes.
    pub(super) fn devices_per_connection(&self) -> usize {
        let most = match self.transport {
            Transport::Tls => DEVICES_OVER_TCP,
            Transport::WebSocket => DEVICES_OVER_WEBSOCKET,
        };
        self.max_devices_per_connection.clamp(1, most)
    }

    /// Token requests one connection may have under way.
    pub(super) const fn puts_in_flight(&self) -> usize {
        match self.transport {
            Transport::Tls => PUTS_OVER_TCP,
            Transport::WebSocket => PUTS_OVER_WEBSOCKET,
        }
    }
}
