//! Serving HTTP/1.1 on a listener of ours: how many clients, how long they may take, how it ends, how errors are told.
//!
//! Knows no route and no message. warp's own server owns neither its connections nor a clock, so the
//! edges give their warp filters to [`serve`].

mod connection;
mod problem;
mod request;
mod server;
mod strangers;

pub use problem::Problem;
pub use request::RequestBody;
pub use server::{Limits, serve};
