//! The integration tests, one binary so that they link once. One module per subject.

mod admin;
mod architecture;
mod cli;
mod config;
mod crash;
mod devices;
mod dps;
mod emulator_amqp;
mod emulator_https;
mod end_to_end;
mod iot_hub;
mod payloads;
mod pump;
mod replay;
mod spool;
mod traps;
mod webhook;
mod world;
