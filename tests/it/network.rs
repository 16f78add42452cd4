//! The network and the clock do their worst: dead connections, names that move, certificates that change, clocks that jump.

mod certificates;
mod clock;
mod dead_connections;
#[cfg(target_os = "linux")]
mod namespaces;
mod relay;
