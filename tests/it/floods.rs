//! Floods and forgeries against running processes: many sockets that say nothing, bodies without end, requests that two
//! readers could read differently. The process stays small, and those who have business there are served meanwhile.
//!
//! `TTI_FLOOD_SOCKETS=18000 TTI_FLOOD_SECONDS=60 cargo test floods:: -- --nocapture` makes it as large as the limit of
//! open files allows, `TTI_FLOOD_LINKS=100000` sends as many AMQP sessions and links; the figures are printed.

mod bodies;
mod hub;
mod kit;
mod readings;
mod sockets;
