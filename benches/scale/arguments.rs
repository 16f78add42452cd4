//! What can be chosen on the command line. Measures nothing.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(about = "Measures tti-connector; `all --write` rewrites the tables of docs/BENCHMARKS.md")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
    /// Rewrite the tables of docs/BENCHMARKS.md
    #[arg(long, global = true)]
    pub(crate) write: bool,
    /// Given by cargo; means nothing
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Uplinks flat out and at half of that: throughput, latency, CPU, memory
    Uplinks(Uplinks),
    /// Tens of thousands of devices: time to attach, memory, then traffic both ways for a while
    Attach(Attach),
    /// A spool with up to millions of waiting messages: start, memory, drain
    Backlog(Backlog),
    /// Devices that share a session: memory, and what the end of a session costs
    Sharing(Sharing),
    /// Everything, as docs/BENCHMARKS.md shows it
    All {
        /// Runs of each case of uplinks; the tables give the median and the range
        #[arg(long, default_value_t = 3)]
        repeats: usize,
        /// Minutes of traffic with all devices attached
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
    },
    /// The emulated hub; started by the others
    #[command(hide = true)]
    Hub(Hub),
    /// The delaying proxy; started by the others
    #[command(hide = true)]
    Delay(Delay),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Who {
    /// `tti-connector run`
    Connector,
    /// Microsoft's Node SDK, answering once the hub has accepted
    Node,
    /// The same, answering before it sends
    NodeAtOnce,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Uplinks {
    /// Numbers of devices
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    pub(crate) devices: Vec<u32>,
    /// Who takes the uplinks
    #[arg(long, value_delimiter = ',', default_value = "connector,node")]
    pub(crate) subjects: Vec<Who>,
    /// Uplinks flat out in each run
    #[arg(long, default_value_t = 150_000)]
    pub(crate) uplinks: u32,
    /// Uplinks before, to get warm
    #[arg(long, default_value_t = 30_000)]
    pub(crate) warm_up: u32,
    /// Connections to the webhook
    #[arg(long, default_value_t = 250)]
    pub(crate) connections: u32,
    /// Seconds at half load; 0 leaves it out
    #[arg(long, default_value_t = 15.0)]
    pub(crate) seconds: f64,
    /// Uplinks a second at half load, instead of half of what was reached
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Runs of each case
    #[arg(long, default_value_t = 1)]
    pub(crate) repeats: usize,
    /// Another connector, to compare builds; several are taken in turn
    #[arg(long)]
    pub(crate) binary: Vec<PathBuf>,
    /// Seconds to wait with the devices attached, so that a profiler can be started by hand
    #[arg(long, default_value_t = 0)]
    pub(crate) pause: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Attach {
    #[arg(long, default_value_t = 50_000)]
    pub(crate) devices: u32,
    /// Added round-trip times in milliseconds, one run each
    #[arg(long, value_delimiter = ',', default_value = "0,50")]
    pub(crate) round_trips: Vec<u64>,
    /// Minutes of traffic with all devices attached
    #[arg(long, default_value_t = 1.0)]
    pub(crate) minutes: f64,
    /// Uplinks a second
    #[arg(long, default_value_t = 500.0)]
    pub(crate) uplinks: f64,
    /// Cloud-to-device messages a second
    #[arg(long, default_value_t = 100.0)]
    pub(crate) messages: f64,
    /// Direct methods a second; with them the route is opened, which takes two more links a device
    #[arg(long, default_value_t = 0.0)]
    pub(crate) methods: f64,
    /// Another connector
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Backlog {
    /// Waiting messages at the start
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000,3000000")]
    pub(crate) messages: Vec<u64>,
    /// Devices they are of
    #[arg(long, default_value_t = 1_000)]
    pub(crate) devices: u32,
    /// Messages that are watched being drained, at most
    #[arg(long, default_value_t = 200_000)]
    pub(crate) drained: u64,
    /// Another connector
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Sharing {
    #[arg(long, default_value_t = 5_000)]
    pub(crate) devices: u32,
    /// Devices of one session at most, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,32,64")]
    pub(crate) limits: Vec<u32>,
    /// Uplinks a second
    #[arg(long, default_value_t = 500.0)]
    pub(crate) uplinks: f64,
    /// Sessions that end, one a second
    #[arg(long, default_value_t = 20)]
    pub(crate) faults: u32,
    /// Another connector
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Hub {
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) devices: u32,
    /// Tell how many links were attached
    #[arg(long)]
    pub(crate) links: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Delay {
    #[arg(long)]
    pub(crate) to: u16,
    #[arg(long)]
    pub(crate) one_way_ms: u64,
}

/// Everything that docs/BENCHMARKS.md shows.
pub(crate) fn full(repeats: usize, minutes: f64) -> (Uplinks, Attach, Backlog, Sharing) {
    let default = |scenario: &str| Arguments::parse_from(["scale", scenario]).scenario;
    let (
        Scenario::Uplinks(uplinks),
        Scenario::Attach(attach),
        Scenario::Backlog(backlog),
        Scenario::Sharing(sharing),
    ) = (default("uplinks"), default("attach"), default("backlog"), default("sharing"))
    else {
        unreachable!("each name gives its own")
    };
    let uplinks = Uplinks {
        devices: vec![100, 1_000, 10_000, 50_000],
        subjects: vec![Who::Connector, Who::Node, Who::NodeAtOnce],
        repeats,
        ..uplinks
    };
    (uplinks, Attach { minutes, ..attach }, backlog, sharing)
}
