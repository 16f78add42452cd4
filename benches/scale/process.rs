//! What a process has used so far, read from /proc. Starts nothing.

use std::fs;

/// The kernel counts CPU time in hundredths of a second on every common machine.
const TICKS: f64 = 100.0;

/// A process under measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    pub(crate) fn this() -> Self {
        Self(std::process::id())
    }

    /// User and system time in seconds, of all threads.
    pub(crate) fn cpu_s(self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("it runs");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) / TICKS
    }

    fn status_mb(self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
        let kb: f64 = line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number");
        kb / 1024.0
    }

    /// Memory now.
    pub(crate) fn rss_mb(self) -> f64 {
        self.status_mb("VmRSS")
    }

    /// Memory at most so far.
    pub(crate) fn peak_mb(self) -> f64 {
        self.status_mb("VmHWM")
    }

    /// Given to the disk so far, in kB.
    pub(crate) fn written_kb(self) -> f64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.0)).expect("it runs");
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|bytes| bytes.parse::<f64>().ok()).expect("a number") / 1024.0
    }

    pub(crate) fn open_files(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).expect("it runs").count()
    }

    pub(crate) fn threads(self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.0)).expect("it runs").count()
    }
}
