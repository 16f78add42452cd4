//! Why an emulator does not start, each with what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why an emulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The number of hubs is out of range.
    #[error("{0} hubs asked for; choose 1 to 16 (--hubs)")]
    Hubs(usize),
    /// A file or the folder itself cannot be read or written.
    #[error("cannot use {path}: {source}; choose another folder (--dir) or correct its permissions")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another emulator runs in the folder.
    #[error("another emulator uses {0}; stop it or choose another folder (--dir)")]
    Locked(PathBuf),
    /// The saved state is damaged.
    #[error("{path} is damaged: {source}; delete it to start with new keys and no devices")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// Somebody else listens there.
    #[error("{address} is taken by another program; stop it or choose another port ({flag})")]
    Taken {
        /// Address and port.
        address: SocketAddr,
        /// The command line flag that changes the port.
        flag: &'static str,
    },
    /// The system refuses the address or the port.
    #[error(
        "cannot listen on {address}: {source}; choose a port above 1023 ({flag}), and fewer hubs (--hubs) if this \
         system has no such loopback address"
    )]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// The command line flag that changes the port.
        flag: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// No number is free on all addresses.
    #[error("found no port that is free on the addresses of all hubs; choose one ({0})")]
    NoFreePort(&'static str),
    /// Certificates could not be made or loaded.
    #[error("cannot make the TLS certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The CA was made by an earlier process, and its key is not kept.
    #[error(
        "the CA's key went with the process that made it; make a new CA, too, or start in a fresh folder (--dir)"
    )]
    ForgottenCa,
    /// The client for the webhook could not be made.
    #[error("cannot make the HTTP client for the webhook: {0}")]
    HttpClient(String),
    /// The TLS library refuses the certificate.
    #[error("cannot use the TLS certificates: {0}")]
    Tls(#[from] rustls::Error),
}

impl EmulatorError {
    /// Whether something outside is in the way: a taken port, a folder in use.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Locked(_) | Self::Taken { .. } | Self::Listen { .. } | Self::NoFreePort(_) => true,
            Self::Hubs(_)
            | Self::File { .. }
            | Self::Damaged { .. }
            | Self::Certificate(_)
            | Self::ForgottenCa
            | Self::HttpClient(_)
            | Self::Tls(_) => false,
        }
    }
}
