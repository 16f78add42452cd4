//! Every key of the configuration with its unit and default. Loading reports all problems at once.
//!
//! Knows no clients and no sockets.

mod sections;

pub use sections::{
    Admin, Application, Azure, Config, Devices, Dps, IotHub, Log, LogFormat, Shutdown, Spool,
    TelemetryFormat, TelemetrySection, ThingsStack, ThingsStackApplication, Transport, Uplink, Webhook,
};
