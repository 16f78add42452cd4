//! `spool list|show|requeue|discard`: what an operator sees of parked messages.
//!
//! Knows no arguments' syntax, and not whether an instance is running.

use std::io::Write;

use serde_json::json;

use crate::config;
use crate::model::{Clock, Lane};
use crate::spool::{self, Operator, OperatorError, ParkedFilter, ParkedRecord, Selection, Seq};

/// Records asked for at once.
const PAGE: usize = 500;
const HEADER: [&str; 7] = ["NUMBER", "APPLICATION", "DEVICE", "REASON", "AGE", "BYTES", "DETAIL"];

/// Lists at most `limit` parked messages that match, the lowest number first: a table, or with `json` one object
/// a line. Below a table stand the damaged databases that were set aside.
///
/// # Errors
/// See [`OperatorError`].
pub async fn list(
    config: &config::Spool,
    filter: &ParkedFilter,
    limit: usize,
    json: bool,
    clock: &Clock,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    let mut operator = Operator::connect(config).await?;
    let listed = pages(&mut operator, filter, limit, json, clock, out).await;
    operator.close().await;
    listed?;
    if !json {
        for file in spool::damaged_files(&config.directory) {
            writeln!(
                out,
                "{} was damaged and set aside; what could be read of it was saved. Look at it, then delete it.",
                file.display()
            )?;
        }
    }
    Ok(())
}

async fn pages(
    operator: &mut Operator,
    filter: &ParkedFilter,
    limit: usize,
    json: bool,
    clock: &Clock,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    let mut after = Seq(0);
    let mut left = limit;
    let mut first = true;
    loop {
        // One more than shown, to know whether there are more.
        let asked = left.saturating_add(1).min(PAGE);
        let mut records = operator.list(filter, after, asked).await?;
        let (last_page, more) = (records.len() < asked, records.len() > left);
        records.truncate(left);
        if json {
            for record in &records {
                writeln!(out, "{}", object(record))?;
            }
        } else if first && records.is_empty() && !more {
            writeln!(out, "No message is parked.")?;
        } else {
            table(&records, first, clock.now_ms(), out)?;
        }
        if more && !json {
            writeln!(out, "There are more than {limit}.")?;
        }
        first = false;
        left -= records.len();
        match records.last() {
            Some(last) if !last_page && !more => after = last.seq,
            Some(_) | None => return Ok(()),
        }
    }
}

/// Prints one parked message: why it is parked, then its body as it was received.
///
/// # Errors
/// See [`OperatorError`].
pub async fn show(
    config: &config::Spool,
    number: i64,
    json: bool,
    clock: &Clock,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    let mut operator = Operator::connect(config).await?;
    let shown = operator.show(Seq(number)).await;
    operator.close().await;
    let (record, body) = shown?;
    if json {
        let mut object = object(&record);
        // Bodies are JSON as a rule; one that is not is shown as a text.
        object["body"] = serde_json::from_slice(&body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "number       {}", record.seq.0)?;
    writeln!(out, "application  {}", printable(&record.group))?;
    writeln!(out, "device       {}", printable(&device(&record)))?;
    writeln!(out, "reason       {}", printable(&record.reason))?;
    writeln!(out, "detail       {}", printable(&record.detail))?;
    writeln!(out, "received     {} ago", age(clock.now_ms() - record.received_ms))?;
    writeln!(out, "parked       {} ago", age(clock.now_ms() - record.parked_ms))?;
    writeln!(out, "bytes        {}\n", record.bytes)?;
    out.write_all(&body)?;
    writeln!(out)?;
    Ok(())
}

/// Sends parked messages again, each at the end of its device's queue.
///
/// # Errors
/// See [`OperatorError`].
pub async fn requeue(
    config: &config::Spool,
    selection: &Selection,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    let mut operator = Operator::connect(config).await?;
    let moved = operator.requeue(selection).await;
    operator.close().await;
    writeln!(out, "{} to be sent again.", messages(moved?, selection)?)?;
    Ok(())
}

/// Deletes parked messages for good.
///
/// # Errors
/// See [`OperatorError`].
pub async fn discard(
    config: &config::Spool,
    selection: &Selection,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    let mut operator = Operator::connect(config).await?;
    let moved = operator.discard(selection).await;
    operator.close().await;
    writeln!(out, "{} deleted.", messages(moved?, selection)?)?;
    Ok(())
}

/// Numbers of which none is parked are a mistake; one that somebody else was quicker with, among others, is not.
fn messages(count: u64, selection: &Selection) -> Result<String, OperatorError> {
    match (count, selection) {
        (0, Selection::Seqs(numbers)) if let Some(first) = numbers.first() => {
            Err(OperatorError::NotParked(first.0))
        }
        (1, _) => Ok("1 message".to_owned()),
        (count, _) => Ok(format!("{count} messages")),
    }
}

fn table(records: &[ParkedRecord], header: bool, now_ms: i64, out: &mut impl Write) -> std::io::Result<()> {
    let mut lines: Vec<[String; 7]> = Vec::with_capacity(records.len() + 1);
    if header {
        lines.push(HEADER.map(str::to_owned));
    }
    lines.extend(records.iter().map(|record| {
        [
            record.seq.0.to_string(),
            printable(&record.group),
            printable(&device(record)),
            printable(&record.reason),
            age(now_ms - record.received_ms),
            record.bytes.to_string(),
            printable(&record.detail),
        ]
    }));
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())?;
    }
    Ok(())
}

fn object(record: &ParkedRecord) -> serde_json::Value {
    json!({
        "number": record.seq.0,
        "application": &*record.group,
        "device": device(record),
        "reason": record.reason,
        "detail": record.detail,
        "received_ms": record.received_ms,
        "parked_ms": record.parked_ms,
        "bytes": record.bytes,
    })
}

/// The device's id: its application stands beside it.
fn device(record: &ParkedRecord) -> String {
    Lane::from_key(&record.lane)
        .map_or_else(|| record.lane.to_string(), |lane| lane.device.device_id().to_owned())
}

/// A detail may quote what a hub answered: it must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn age(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_given_in_the_unit_a_person_would_take() {
        let ages = [0, 119_000, 120_000, 7_199_000, 7_200_000, 172_800_000, -5].map(age);
        assert_eq!(ages, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d", "0 s"]);
    }

    #[test]
    fn a_detail_can_not_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
