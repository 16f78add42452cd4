//! Scale and speed of `run`, measured: throughput, latency, CPU and memory from 100 to 50,000 devices, with a backlog of
//! millions, and beside a webhook on Microsoft's own SDK.
//!
//! `cargo bench --bench scale -- --help`. Linux only: reads /proc. Connector, emulated hub and generator are processes of
//! their own on the same machine, with TLS and the durable spool; every uplink must reach the hub exactly once.

mod arguments;
mod attach;
mod backlog;
mod baseline;
mod book;
mod cloud;
mod delay;
mod generator;
mod hub;
mod journal;
mod machine;
mod process;
mod report;
#[path = "../support/service.rs"]
mod service;
mod sharing;
mod stage;
mod subject;
#[path = "../support/mod.rs"]
mod support;
mod uplinks;

use arguments::{Arguments, Scenario};
use clap::Parser as _;

fn main() {
    let arguments = Arguments::parse();
    if arguments.write {
        report::publish(&[machine::table()], true);
    }
    match &arguments.scenario {
        Scenario::Hub(hub) => hub::run(hub),
        Scenario::Delay(delay) => delay::run(delay),
        Scenario::Uplinks(options) => report::publish(&uplinks::run(options), arguments.write),
        Scenario::Attach(options) => report::publish(&attach::run(options), arguments.write),
        Scenario::Backlog(options) => report::publish(&backlog::run(options), arguments.write),
        Scenario::Sharing(options) => report::publish(&sharing::run(options), arguments.write),
        Scenario::All { repeats, minutes } => {
            let (uplinks, attach, backlog, sharing) = arguments::full(*repeats, *minutes);
            report::publish(&uplinks::run(&uplinks), arguments.write);
            report::publish(&attach::run(&attach), arguments.write);
            report::publish(&backlog::run(&backlog), arguments.write);
            report::publish(&sharing::run(&sharing), arguments.write);
        }
    }
}
