//! `replay`: posts payload files, or parked messages, to a webhook, in order, and counts the answers. Knows nothing of what
//! is in them.

mod client;
mod parked;
mod payloads;
mod summary;

use std::path::PathBuf;
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc;
use url::Url;

use crate::config;
use crate::model::Secret;
use crate::spool::{OperatorError, ParkedFilter};
use client::Client;
use payloads::Payload;
pub use summary::{Refused, Summary};

/// Payloads read ahead of those under way, so that the disk is never waited for.
const READ_AHEAD: usize = 16;
/// The Things Stack itself has this many posts under way at most.
const MAX_CONCURRENCY: usize = 2048;

/// Where the payloads come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Files or folders. Of a folder, every `.json`, `.ndjson` and `.jsonl` below it, in the order of their names;
    /// not `*.golden.json`, `*.expected.json`, and nothing in folders named `expected`.
    Paths(Vec<PathBuf>),
    /// The messages parked in a spool, as they were received, the oldest first. They stay parked.
    Parked {
        /// Whose spool; a running instance is asked for them.
        spool: Box<config::Spool>,
        /// Which ones.
        filter: ParkedFilter,
    },
}

/// What to post, and where to.
#[derive(Clone, Debug)]
pub struct ReplayArgs {
    /// Where the payloads come from.
    pub source: Source,
    /// The webhook, such as `http://127.0.0.1:8080/webhook`.
    pub to: String,
    /// One of the webhook's secrets.
    pub secret: Option<Secret>,
    /// A file that holds it; not together with `secret`.
    pub secret_file: Option<PathBuf>,
    /// Posts under way at once, 1 to 2,048. With 1, payloads arrive in order.
    pub concurrency: usize,
}

/// Why a replay could not be done, or not to its end. Each names the file or the argument.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A path can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Folders go deeper than any payload collection.
    #[error("{0} lies too deep below the folder you named; name it itself")]
    TooDeep(PathBuf),
    /// Nothing was found.
    #[error("no payloads: the paths hold no .json, .ndjson or .jsonl file")]
    NoPayloads,
    /// The parked messages can't be had.
    #[error(transparent)]
    Parked(#[from] OperatorError),
    /// One payload is longer than any webhook takes.
    #[error("{0} is longer than 16 MiB; no message of The Things Stack is")]
    TooLong(String),
    /// The URL is none.
    #[error("--to {0:?} is no http:// or https:// URL; try http://127.0.0.1:8080/webhook")]
    BadUrl(String),
    /// Two sources of one secret.
    #[error("--secret and --secret-file exclude each other; give one of them")]
    TwoSecrets,
    /// The secret can't travel in a header.
    #[error("the secret holds characters that an HTTP header can't carry")]
    BadSecret,
    /// Out of range.
    #[error("--concurrency {0} is not between 1 and {MAX_CONCURRENCY}")]
    Concurrency(usize),
    /// No HTTP client could be made.
    #[error("can't set up HTTPS: {0}")]
    Tls(String),
    /// No answer.
    #[error(
        "no answer from {url} to {payload} (answered before: {answered}): {reason}; check --to, and that the connector runs"
    )]
    NoAnswer {
        /// Where to, without credentials.
        url: String,
        /// Which payload was under way.
        payload: String,
        /// How many had been answered.
        answered: u64,
        /// What was seen.
        reason: String,
    },
}

/// Posts everything, shows a progress bar on stderr if that is a terminal, and returns the count of answers.
///
/// The caller prints the [`Summary`], and exits with 1 if [`Summary::refused`] is not 0. Answers 429 and 503 are
/// tried again a few times, after the wait they ask for.
///
/// # Errors
/// See [`ReplayError`]; what was posted before stays posted.
pub async fn replay(args: ReplayArgs) -> Result<Summary, ReplayError> {
    if !(1..=MAX_CONCURRENCY).contains(&args.concurrency) {
        return Err(ReplayError::Concurrency(args.concurrency));
    }
    let url = parse_url(&args.to)?;
    let client = Client::new(url, secret(&args)?)?;
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let began = Instant::now();
    let (progress, reader) = match args.source {
        Source::Paths(paths) => {
            let files = payloads::list(&paths)?;
            let progress = progress_bar(files.iter().map(|file| file.bytes).sum());
            (progress, tokio::task::spawn_blocking(move || payloads::read(files, &sender)))
        }
        Source::Parked { spool, filter } => {
            let parked = parked::list(&spool, &filter).await?;
            let progress = progress_bar(parked.bytes());
            (progress, tokio::spawn(async move { parked.read(&sender).await }))
        }
    };

    let mut summary = Summary::default();
    let posted = post_all(&client, receiver, args.concurrency, &progress, &mut summary).await;
    progress.finish_and_clear();
    summary.took = began.elapsed();
    // Ends soon in either case: nobody takes payloads any more.
    let read = reader.await.expect("reading payloads does not panic");
    posted?;
    read?;
    Ok(summary)
}

async fn post_all(
    client: &Client,
    payloads: mpsc::Receiver<Payload>,
    concurrency: usize,
    progress: &ProgressBar,
    summary: &mut Summary,
) -> Result<(), ReplayError> {
    let payloads = stream::unfold(payloads, |mut payloads| async move {
        payloads.recv().await.map(|payload| (payload, payloads))
    });
    let answers = payloads
        .map(|payload| async move {
            let answer = client.post(&payload.body).await;
            (payload, answer)
        })
        .buffer_unordered(concurrency);
    let mut answers = std::pin::pin!(answers);
    while let Some((payload, answer)) = answers.next().await {
        let answer = answer.map_err(|reason| ReplayError::NoAnswer {
            url: client.shown_url(),
            payload: payload.name.clone(),
            answered: summary.total(),
            reason,
        })?;
        progress.inc(payload.bytes_of_file);
        summary.add(&payload.name, answer);
    }
    Ok(())
}

fn parse_url(text: &str) -> Result<Url, ReplayError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| ReplayError::BadUrl(without_credentials(text)))
}

/// What stands before an `@` may be a password.
fn without_credentials(text: &str) -> String {
    text.rsplit_once('@').map_or(text, |(_, rest)| rest).to_owned()
}

fn secret(args: &ReplayArgs) -> Result<Option<Secret>, ReplayError> {
    match (&args.secret, &args.secret_file) {
        (Some(_), Some(_)) => Err(ReplayError::TwoSecrets),
        (secret, None) => Ok(secret.clone()),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(|text| Some(Secret::new(text.trim())))
            .map_err(|source| ReplayError::Read { path: path.clone(), source }),
    }
}

fn progress_bar(bytes: u64) -> ProgressBar {
    // On anything but a terminal this draws nothing.
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.expect("a fixed template"));
    bar
}
