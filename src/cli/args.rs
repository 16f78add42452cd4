//! What can be typed: commands, arguments and the help that explains them.
//!
//! Runs nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use url::Url;

use crate::config::parse_duration;
use crate::model::{ParkReason, Secret};

const ABOUT: &str = "Joins LoRaWAN devices on The Things Stack to Azure IoT Hub";

const LONG_ABOUT: &str = "Joins LoRaWAN devices on The Things Stack to Azure IoT Hub

Takes the webhooks of The Things Stack, keeps every message on disk before it answers, \
and sends it on as telemetry of the device's own identity at IoT Hub.";

const AFTER_HELP: &str = "\
New here? `tti-connector demo` runs everything on this machine, without Azure and without a configuration
Exit codes: 0 done, 1 failed, 2 wrong arguments, 69 a port is taken,
70 a part ended by itself, 78 the configuration has problems";

const CONFIG_HELP: &str = "\
The file is TOML, see config.example.toml for every key
An environment variable TTI_CONNECTOR__SECTION__KEY wins over the file, for instance
TTI_CONNECTOR__WEBHOOK__LISTEN=0.0.0.0:8080; in an application's id write _ for -, so that the key
azure.applications.cold-chain.dps.id_scope is TTI_CONNECTOR__AZURE__APPLICATIONS__COLD_CHAIN__DPS__ID_SCOPE";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "tti-connector", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the connector until it is told to stop
    ///
    /// SIGTERM or Ctrl-C lets it finish what is under way, for `shutdown.grace` at most; a second one ends it at
    /// once. Messages that were answered 2xx are safe in the spool in either case.
    #[command(after_help = CONFIG_HELP)]
    Run(ConfigArgs),
    /// Check the configuration and say where each application's telemetry goes
    ///
    /// Reports all problems at once, each with its key, the reason and a fix. Connects to nothing, prints no secret.
    #[command(after_help = CONFIG_HELP)]
    CheckConfig(ConfigArgs),
    /// Run connector and emulated IoT Hub in one process, to see it work without Azure
    ///
    /// An emulated Things Stack is with them, for downlinks. Prints curl lines to try, and each telemetry message as it arrives at the hub.
    Demo(DemoArgs),
    /// Run the emulated IoT Hub and Device Provisioning Service alone, to test any IoT device without Azure
    ///
    /// With an emulated Things Stack, to test downlinks. Writes DIR/ready.json once it listens, with host names,
    /// connection strings and keys.
    Emulate(EmulateArgs),
    /// Post payload files, or parked messages, to a webhook, as The Things Stack would
    ///
    /// Parked messages stay parked: this is for another connector, or to look at them elsewhere. To have this one send them
    /// again, `spool requeue`.
    Replay(ReplayArgs),
    /// Fetch uplinks that the webhook missed from the Storage Integration of The Things Stack, and send them
    ///
    /// Each is sent once: those that were received, or fetched before, are left out. A running connector does it
    /// itself and sends them at once; without one they wait in the spool for the next start. The application needs
    /// backfill = true. Ctrl-C ends it; what was fetched until then is sent.
    Backfill(BackfillArgs),
    /// List, show, requeue or discard messages that were set aside
    ///
    /// A message is parked when the hub will never take it as it is: the device is disabled, the message is too
    /// large, the application is not configured. It stays, with its reason, until you requeue or discard it.
    Spool(SpoolArgs),
    /// Ask a running connector whether it is well; exit code 0 if so, else 1
    ///
    /// Made for the health checks of containers: asks `admin.listen` of the configuration over loopback.
    Health(HealthArgs),
}

/// Where the configuration is.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file [default: $TTI_CONNECTOR_CONFIG, else tti-connector.toml here if it exists, else none]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `demo`
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Folder for state, certificates and ready.json [default: a fresh temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Port of the webhook on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub webhook_port: u16,
    /// Port of AMQP over TLS on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 5671)]
    pub amqp_port: u16,
    /// Port of HTTPS and WebSocket on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 8443)]
    pub https_port: u16,
    /// Port of the emulated Things Stack on 127.0.0.1, plain HTTP; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 1885)]
    pub things_stack_port: u16,
}

/// A hub's tier, as `--tier` names it.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TierArg {
    /// Everything, without limits
    #[default]
    Standard,
    /// Telemetry and registry only, without limits
    Basic,
    /// Free: 8,000 messages a day
    F1,
    /// Basic with Azure's limits, the smallest
    B1,
    /// Basic, the middle one
    B2,
    /// Basic, the largest
    B3,
    /// Standard with Azure's limits, the smallest
    S1,
    /// Standard, the middle one
    S2,
    /// Standard, the largest
    S3,
}

/// `emulate`
#[derive(Args, Clone, Debug)]
pub struct EmulateArgs {
    /// Folder for state, certificates and ready.json [default: a fresh temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Port of AMQP over TLS on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 5671)]
    pub amqp_port: u16,
    /// Port of HTTPS and WebSocket on 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 8443)]
    pub https_port: u16,
    /// Hubs that the Device Provisioning Service spreads devices over, evenly
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub hubs: u16,
    /// Port of the emulated Things Stack on 127.0.0.1, plain HTTP; 0 takes any free one
    #[arg(long, value_name = "N", default_value_t = 1885)]
    pub things_stack_port: u16,
    /// Webhook that the emulated Things Stack posts its messages to, such as http://127.0.0.1:8080/webhook
    #[arg(long, value_name = "URL")]
    pub webhook: Option<Url>,
    /// File with the secret of the webhook
    #[arg(long, value_name = "FILE", requires = "webhook")]
    pub webhook_secret_file: Option<PathBuf>,
    /// Tier of the hubs; Azure's basic one has no cloud-to-device messages, direct methods and twins
    #[arg(long, value_enum, value_name = "TIER", default_value_t)]
    pub tier: TierArg,
    /// Units of each hub, for the limits of f1 to s3
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub units: u32,
    /// A device loses its link after N throttled messages in a row [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cut_throttled: Option<u32>,
    /// Time that feedback on cloud-to-device messages waits for more, such as 500ms; IoT Hub's is 15s
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = feedback_delay)]
    pub feedback_delay: Duration,
}

/// What makes no sense with files to replay.
const OF_PARKED: [&str; 4] = ["parked", "application", "reason", "config"];

/// `replay`
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// Payload files (.json, or one payload a line in .ndjson and .jsonl), or folders of them, in the order of names
    #[arg(value_name = "PATH", required_unless_present = "parked", conflicts_with_all = OF_PARKED)]
    pub paths: Vec<PathBuf>,
    /// Instead of files, the messages parked in the spool of the configuration
    #[arg(long)]
    pub parked: bool,
    /// Which of them.
    #[command(flatten)]
    pub filter: SpoolFilterArgs,
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The webhook, such as http://127.0.0.1:8080/webhook
    #[arg(long, value_name = "URL")]
    pub to: Url,
    /// Secret of the webhook; other users of this machine can see it, --secret-file is better
    #[arg(long, value_name = "TEXT", conflicts_with = "secret_file", value_parser = secret)]
    pub secret: Option<Secret>,
    /// File with the secret of the webhook
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Requests under way at once; 1 keeps the order of the files
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
}

/// `backfill`
#[derive(Args, Clone, Debug)]
pub struct BackfillArgs {
    /// Application of The Things Stack
    #[arg(long, value_name = "ID")]
    pub application: String,
    /// Since when: a time such as 2026-11-20T08:00:00Z, or how long ago, such as 6h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Moment,
    /// Until when, as --since [default: until `backfill.delay` ago, as the webhook may still bring what is newer]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Moment>,
    /// Only this device
    #[arg(long, value_name = "ID")]
    pub device: Option<String>,
    /// Only list what would be sent
    #[arg(long)]
    pub dry_run: bool,
    /// Also send what may have been sent before backfill was switched on, or longer ago than `backfill.window`
    #[arg(long)]
    pub may_double: bool,
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// A time, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Milliseconds since 1970 UTC.
    At(i64),
    /// So long before now.
    Ago(Duration),
}

impl Moment {
    /// Milliseconds since 1970 UTC.
    pub fn ms(self, now_ms: i64) -> i64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(ago) => now_ms.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

fn moment(text: &str) -> Result<Moment, &'static str> {
    let at = text.parse::<jiff::Timestamp>().ok().map(|at| Moment::At(at.as_millisecond()));
    let moment = at.or_else(|| parse_duration(text).map(Moment::Ago));
    moment.ok_or(
        "must be a time with a zone such as 2026-11-20T08:00:00Z, or how long ago, such as 90m, 6h or 2d",
    )
}

/// `spool`
#[derive(Args, Clone, Debug)]
pub struct SpoolArgs {
    /// What to do with parked messages.
    #[command(subcommand)]
    pub command: SpoolCommand,
}

/// `spool …`
#[derive(Clone, Debug, Subcommand)]
pub enum SpoolCommand {
    /// List parked messages, oldest first
    List(SpoolListArgs),
    /// Show one parked message with its body
    Show(SpoolShowArgs),
    /// Send parked messages again, once their cause is gone
    Requeue(SpoolSelectArgs),
    /// Delete parked messages for good
    Discard(SpoolSelectArgs),
}

/// `spool list`
#[derive(Args, Clone, Debug)]
pub struct SpoolListArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Which ones.
    #[command(flatten)]
    pub filter: SpoolFilterArgs,
    /// Show at most N
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// `spool show`
#[derive(Args, Clone, Debug)]
pub struct SpoolShowArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Number of the message, from `spool list`
    #[arg(value_name = "NUMBER")]
    pub number: i64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const SELECTORS: [&str; 4] = ["numbers", "application", "reason", "all"];

/// `spool requeue` and `spool discard`: numbers, or a filter, or all; never nothing.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(SELECTORS))]
pub struct SpoolSelectArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Numbers of messages, from `spool list`
    #[arg(value_name = "NUMBER", conflicts_with_all = ["application", "reason", "all"])]
    pub numbers: Vec<i64>,
    /// Which ones.
    #[command(flatten)]
    pub filter: SpoolFilterArgs,
    /// All parked messages
    #[arg(long, conflicts_with_all = ["application", "reason"])]
    pub all: bool,
}

/// Which parked messages.
#[derive(Args, Clone, Debug, Default)]
pub struct SpoolFilterArgs {
    /// Only those of this application of The Things Stack
    #[arg(long, value_name = "ID")]
    pub application: Option<String>,
    /// Only those parked for this reason, as `spool list` shows it
    #[arg(long, value_name = "REASON", value_parser = reasons())]
    pub reason: Option<ParkReason>,
}

/// `health`
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Ask this URL instead of the one from the configuration (http only)
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "ready"])]
    pub url: Option<Url>,
    /// Ask /ready instead of /live: whether messages can be stored and sent, not only whether it runs
    #[arg(long)]
    pub ready: bool,
}

/// Longer, and a service that waits for it takes it for lost.
const MAX_FEEDBACK_DELAY: Duration = Duration::from_secs(3600);

fn feedback_delay(text: &str) -> Result<Duration, &'static str> {
    let delay = parse_duration(text).filter(|delay| *delay <= MAX_FEEDBACK_DELAY);
    delay.ok_or("must be a time from 0s to 1h, such as 500ms")
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

fn reasons() -> impl TypedValueParser<Value = ParkReason> {
    let names = PossibleValuesParser::new(ParkReason::ALL.map(ParkReason::as_str));
    names.try_map(|name| ParkReason::parse(&name).ok_or("no such reason"))
}
