//! The integration tests, one binary so that they link once. One module per subject.

mod admin;
mod architecture;
#[cfg(feature = "emulator")]
mod backfill;
#[cfg(feature = "emulator")]
mod chaos;
mod chaos_proof;
mod cli;
mod config;
#[cfg(feature = "emulator")]
mod crash;
#[cfg(feature = "emulator")]
mod crash_downlinks;
#[cfg(feature = "emulator")]
mod demo;
mod devices;
mod disk;
mod downlink;
mod dps;
#[cfg(feature = "emulator")]
mod emulator_amqp;
#[cfg(feature = "emulator")]
mod emulator_https;
#[cfg(feature = "emulator")]
mod emulator_things_stack;
#[cfg(feature = "emulator")]
mod end_to_end;
#[cfg(feature = "emulator")]
mod fault_matrix;
#[cfg(feature = "emulator")]
mod fleet;
#[cfg(feature = "emulator")]
mod floods;
mod iot_hub;
#[cfg(feature = "emulator")]
mod limits;
mod messages;
#[cfg(feature = "emulator")]
mod network;
mod payloads;
#[path = "../chaos/ports.rs"]
mod ports;
mod pump;
mod replay;
#[cfg(all(unix, feature = "emulator"))]
mod restarts;
mod spool;
mod things_stack;
mod traps;
#[cfg(feature = "emulator")]
mod trouble;
mod twin_reports;
#[cfg(feature = "emulator")]
mod watch;
#[cfg(feature = "emulator")]
mod way_back;
mod webhook;
#[cfg(feature = "emulator")]
mod world;
