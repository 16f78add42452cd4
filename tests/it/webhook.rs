//! The webhook over real sockets: what it takes, what it refuses, what it promises.

mod answers;
mod clients;
pub(crate) mod desk;
mod downlinks;
mod kinds;
mod secrets;
mod waiting;
