//! `backfill`: has missed uplinks fetched, shows how far it is, and says what came of it.
//!
//! Knows not how they are fetched; the running instance does it if there is one.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc;

use crate::app::{OrderFailed, order_without_instance};
use crate::backfill::{OfDevice, Order, OrderError, Progress, Summary};
use crate::config::Config;
use crate::model::iso_utc;
use crate::spool::{Operator, OperatorError};

/// Why it failed. What was fetched before is in the spool.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// Neither the spool nor a running instance can be reached, or the instance could not do it.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// It failed without an instance.
    #[error(transparent)]
    Here(#[from] OrderFailed),
    /// The result can't be written out.
    #[error("the output can't be written: {0}")]
    Output(#[from] io::Error),
}

/// Carries out an order, with a progress bar on standard error if that is a terminal, and prints what came of it.
///
/// # Errors
/// See [`BackfillError`].
pub async fn run(config: &Config, order: &Order, out: &mut impl Write) -> Result<(), BackfillError> {
    // Said before the files are touched; a running instance has its own configuration and says it again.
    if !config.things_stack.applications.get(&order.application).is_some_and(|known| known.backfill) {
        return Err(OrderFailed::Order(OrderError::Off(order.application.clone())).into());
    }
    let mut operator = Operator::connect(&config.spool).await?;
    let bar = Bar::new();
    let ordered = match operator.files().cloned() {
        Some(spool) => {
            let (told, mut news) = mpsc::channel(1);
            let mut ordered = std::pin::pin!(order_without_instance(config, &spool, order, told));
            let summary = loop {
                tokio::select! {
                    summary = &mut ordered => break summary,
                    Some(progress) = news.recv() => bar.show(progress),
                }
            };
            summary.map(|summary| (summary, false)).map_err(BackfillError::from)
        }
        None => through_instance(&mut operator, order, &bar).await.map(|summary| (summary, true)),
    };
    bar.0.finish_and_clear();
    operator.close().await;
    let (summary, is_running) = ordered?;
    print(&summary, order, is_running, out)?;
    Ok(())
}

async fn through_instance(
    operator: &mut Operator,
    order: &Order,
    bar: &Bar,
) -> Result<Summary, BackfillError> {
    let unreadable =
        |_| OperatorError::Failed("something that can't be read; is it another version?".to_owned());
    let order = serde_json::to_value(order).map_err(unreadable)?;
    let told = |progress| {
        // A sign of life has nothing in it.
        if let Ok(progress) = serde_json::from_value(progress) {
            bar.show(progress);
        }
    };
    let summary = operator.order(order, told).await?;
    Ok(serde_json::from_value(summary).map_err(unreadable)?)
}

/// How much of the time asked for was read.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        // On anything but a terminal this draws nothing.
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:40} {percent} % {msg} {elapsed}");
        bar.set_style(style.expect("a fixed template"));
        Self(bar)
    }

    fn show(&self, Progress { from_ms, at_ms, to_ms, rows, queued }: Progress) {
        let length = |ms: i64| u64::try_from(ms).unwrap_or(0);
        self.0.set_length(length(to_ms - from_ms).max(1));
        self.0.set_position(length(at_ms - from_ms));
        self.0.set_message(format!("{rows} stored uplinks read, {queued} missed"));
    }
}

fn print(summary: &Summary, order: &Order, is_running: bool, out: &mut impl Write) -> io::Result<()> {
    for device in &summary.devices {
        writeln!(out, "{}", line(device))?;
    }
    if summary.unlisted > 0 {
        writeln!(out, "… and {} of further devices", uplinks(summary.unlisted))?;
    }
    let fate = match (order.dry_run, is_running) {
        (true, _) => "would be sent",
        (false, true) => "on their way to the hub",
        (false, false) => "wait in the spool; no connector runs, its next start sends them",
    };
    writeln!(
        out,
        "{} stored, {} received before, {} {fate}",
        uplinks(summary.rows),
        summary.known,
        summary.queued
    )?;
    for (count, what) in [
        (summary.passed, "without telemetry or session (simulated, MAC commands) passed over"),
        (summary.left_out, "left out, of a time of which it is not remembered what was sent, or too new"),
        (summary.bad, "rows that could not be read passed over"),
    ] {
        if count > 0 {
            writeln!(out, "{count} {what}")?;
        }
    }
    if let Some(floor_ms) = summary.floor_ms {
        writeln!(
            out,
            "Only since {}: of earlier times it is not remembered what was sent (--may-double takes the risk)",
            iso_utc(floor_ms)
        )?;
    }
    Ok(())
}

fn line(device: &OfDevice) -> String {
    let range = |&(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let f_cnts: Vec<String> = device.f_cnts.iter().map(range).collect();
    let more = if device.more { ", …" } else { "" };
    // An id of a stored uplink must not steer the terminal.
    let id: String = device.device.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("{id}  {}, f_cnt {}{more}", uplinks(device.count), f_cnts.join(", "))
}

fn uplinks(count: u64) -> String {
    if count == 1 { "1 uplink".to_owned() } else { format!("{count} uplinks") }
}
