//! What the figures were measured on.

use std::fs;
use std::process::Command;

use super::report::Table;

fn first(path: &str, field: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field));
    line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

fn said(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    output.map_or_else(|_| "–".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Load of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// How many connections a process here may have to one address: by its open files, of which some are needed for other
/// things, and by the local ports.
pub(crate) fn most_connections() -> u32 {
    const OTHER_FILES: u32 = 100;
    let numbers = |path: &str, line: &str| -> Vec<u32> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|found| found.starts_with(line)).unwrap_or_default();
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let files = numbers("/proc/self/limits", "Max open files").first().copied().unwrap_or(u32::MAX);
    let ports = match numbers("/proc/sys/net/ipv4/ip_local_port_range", "")[..] {
        [first, last] => last - first + 1,
        _ => u32::MAX,
    };
    files.saturating_sub(OTHER_FILES).min(ports)
}

pub(crate) fn table() -> Table {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_kb = first("/proc/meminfo", "MemTotal");
    let memory_kb: f64 = memory_kb.trim_end_matches(" kB").parse().unwrap_or(0.0);
    let rows = [
        ("processor", first("/proc/cpuinfo", "model name")),
        ("cores", cores.to_string()),
        ("memory", format!("{:.0} GiB", memory_kb / 1024.0 / 1024.0)),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()),
        ("compiler", said("rustc", "--version")),
        ("Node", said("node", "--version")),
        ("load of the last minute before the start", format!("{:.1}", load())),
    ];
    Table {
        name: "machine",
        head: vec!["what", "value"],
        rows: rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect(),
    }
}
