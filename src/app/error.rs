//! Why the connector can't start or go on, said as what to change.

use std::net::SocketAddr;

use crate::devices::{InvalidHubIdRule, InvalidRoute};
use crate::downlink::translate::InvalidRule;
use crate::net::HttpClientError;
use crate::net::proxy::InvalidProxy;
use crate::net::tls::TlsError;
use crate::spool::SpoolError;
use crate::things_stack::InvalidAddress;

/// The connector did not start, or had to end; nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener's address can't be had.
    #[error(
        "{key}: can't listen on {address}: {source}\n  hint: another process may use this port; set {key} to a free one"
    )]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// What it says.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// The spool can't be opened.
    #[error("spool.directory: {0}")]
    Spool(#[from] SpoolError),
    /// What the spool knows of devices can't be read.
    #[error("spool.directory: what is known of devices can't be read: {0}")]
    State(String),
    /// The routes to Azure do not fit together.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Routes(Vec<InvalidRoute>),
    /// `devices.hub_id` is no rule.
    #[error("devices.hub_id: {0}")]
    HubId(#[from] InvalidHubIdRule),
    /// CA certificates.
    #[error("azure.ca_file: {0}")]
    Tls(#[from] TlsError),
    /// The proxy's address.
    #[error("azure.proxy: {0}")]
    Proxy(#[from] InvalidProxy),
    /// The HTTP client for DPS and The Things Stack.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// A method or property of `downlink`.
    #[error("{0}")]
    Rule(#[from] InvalidRule),
    /// A task of the connector ended while it ran: a defect.
    #[error(
        "the {0} ended unexpectedly, which is a defect; its error is in the log, stored messages are safe\n  hint: start the connector again"
    )]
    PartEnded(&'static str),
    /// `things_stack.base_url` or one of `allowed_hosts`.
    #[error("things_stack: {0}")]
    ThingsStack(#[from] InvalidAddress),
}

impl AppError {
    /// Whether something outside the configuration is in the way: a taken port, a spool in use.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Listen { .. } | Self::Spool(SpoolError::InUse(_)) => true,
            Self::Spool(_) | Self::State(_) | Self::Routes(_) | Self::HubId(_) | Self::Tls(_) => false,
            Self::Proxy(_) | Self::Http(_) | Self::Rule(_) | Self::ThingsStack(_) => false,
            Self::PartEnded(_) => false,
        }
    }

    /// Whether it did start, and ended for a defect of its own.
    pub fn is_defect(&self) -> bool {
        matches!(self, Self::PartEnded(_))
    }
}
