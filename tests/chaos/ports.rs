//! Ports for listeners that come back at the same place, for this target and for the integration tests.

use std::net::IpAddr;

/// A port that was free a moment ago on all these addresses. It is below the range from which the system takes ports for
/// outgoing connections and for port 0, so that nobody gets it while its listener is away.
pub(crate) fn free_port(addresses: &[IpAddr]) -> u16 {
    loop {
        let port = fastrand::u16(20_000..30_000);
        let bind = |address: &IpAddr| std::net::TcpListener::bind((*address, port));
        if addresses.iter().map(bind).collect::<Result<Vec<_>, _>>().is_ok() {
            return port;
        }
    }
}
