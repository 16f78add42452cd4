//! The integration tests, one binary so that they link once. One module per subject.

mod admin;
mod architecture;
#[cfg(feature = "emulator")]
mod backfill;
#[cfg(feature = "emulator")]
mod chaos;
mod cli;
mod config;
#[cfg(feature = "emulator")]
mod crash;
#[cfg(feature = "emulator")]
mod crash_downlinks;
#[cfg(feature = "emulator")]
mod demo;
mod devices;
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
mod iot_hub;
mod messages;
mod payloads;
mod pump;
mod replay;
mod spool;
mod things_stack;
mod traps;
mod twin_reports;
#[cfg(feature = "emulator")]
mod watch;
#[cfg(feature = "emulator")]
mod way_back;
mod webhook;
#[cfg(feature = "emulator")]
mod world;
