//! One run's three processes, and phases of uplinks through them: posts a book, waits until the hub has all of it, and
//! says what each process spent.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::book::{Book, FIRST_F_CNT};
use super::generator;
use super::journal::Entry;
use super::process::Process;
use super::subject::{Plan, Subject};
use super::support::{Running, free_port, wait_for};

/// Nothing that still moves is given up before.
const PATIENCE: Duration = Duration::from_secs(60);

/// All links must be attached within it, whatever the round trip.
const ATTACH_PATIENCE: Duration = Duration::from_secs(1_200);

/// What the hub's process told besides uplinks.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) reports: AtomicU32,
    pub(crate) downlinks: Mutex<Vec<(u32, u64)>>,
    /// Attached since the start.
    pub(crate) links: AtomicU32,
}

pub(crate) struct Stage {
    pub(crate) dir: TempDir,
    hub: Running,
    pub(crate) ready: Value,
    pub(crate) devices: u32,
    book: Arc<Mutex<Arc<Book>>>,
    pub(crate) told: Arc<Told>,
    pub(crate) runtime: Runtime,
}

/// CPU seconds of subject, hub and generator.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu(pub(crate) [f64; 3]);

/// What one phase showed.
pub(crate) struct Phase {
    pub(crate) book: Arc<Book>,
    pub(crate) cpu: Cpu,
    /// What the subject gave to the disk.
    written_kb: f64,
}

impl Phase {
    /// CPU in microseconds an uplink: subject, hub, generator.
    pub(crate) fn cpu_us(&self) -> [f64; 3] {
        self.cpu.0.map(|seconds| seconds * 1e6 / f64::from(self.book.count))
    }

    /// What the subject gave to the disk for each uplink.
    pub(crate) fn kb_an_uplink(&self) -> f64 {
        self.written_kb / f64::from(self.book.count)
    }

    /// Uplinks a second from the first post to the last acceptance.
    pub(crate) fn throughput(&self) -> f64 {
        f64::from(self.book.count) / self.book.took().as_secs_f64()
    }
}

impl Stage {
    /// Starts the hub with these devices; `links`: it tells how many links were attached.
    pub(crate) fn new(devices: u32, links: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = dir.path().join("hub");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("hub").arg("--dir").arg(&place).args(["--devices", &devices.to_string()]);
        if links {
            command.arg("--links");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut hub = Running(command.spawn().expect("the hub starts"));
        let file = place.join("ready.json");
        wait_for("ready.json", || file.exists());
        let ready = serde_json::from_slice(&std::fs::read(file).expect("readable")).expect("JSON");

        let book = Arc::new(Mutex::new(Arc::new(Book::new(devices, 0, FIRST_F_CNT))));
        let told = Arc::new(Told::default());
        let journal = BufReader::new(hub.0.stdout.take().expect("piped"));
        let reader = (Arc::clone(&book), Arc::clone(&told));
        thread::spawn(move || read(journal, &reader.0, &reader.1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { dir, hub, ready, devices, book, told, runtime }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.path().join("spool")
    }

    pub(crate) fn start(&self, plan: &Plan) -> Subject {
        plan.start(self.path(), &self.ready, free_port(), free_port())
    }

    pub(crate) fn hub(&self) -> Process {
        Process(self.hub.0.id())
    }

    pub(crate) fn cpu(&self, subject: &Subject) -> Cpu {
        Cpu([subject.process(), self.hub(), Process::this()].map(Process::cpu_s))
    }

    /// A book that goes on where the last one ended.
    pub(crate) fn open_book(&self, count: u32) -> Arc<Book> {
        let mut current = self.book.lock().expect("no panic");
        let book = Arc::new(Book::new(self.devices, count, current.next()));
        *current = Arc::clone(&book);
        book
    }

    /// Posts so many uplinks, of all devices in turn, and waits until the hub has them all.
    ///
    /// # Panics
    /// One did not arrive, or arrived twice.
    pub(crate) fn phase(&self, subject: &Subject, count: u32, connections: u32, rate: Option<f64>) -> Phase {
        let book = self.open_book(count);
        let (before, written_kb) = (self.cpu(subject), subject.process().written_kb());
        self.runtime.block_on(generator::post(subject.webhook, &book, connections, rate));
        self.settle(&book);
        let after = self.cpu(subject);
        let mut cpu = Cpu::default();
        for (index, spent) in cpu.0.iter_mut().enumerate() {
            *spent = after.0[index] - before.0[index];
        }
        let written_kb = subject.process().written_kb() - written_kb;
        Phase { book, cpu, written_kb }
    }

    /// Waits until all of the book has arrived.
    ///
    /// # Panics
    /// One did not, or twice.
    pub(crate) fn settle(&self, book: &Book) {
        self.wait_for_all(book);
        assert_eq!(book.doubled.load(Ordering::Relaxed), 0, "an uplink arrived twice");
    }

    /// Waits until each device has had so many links; how long that took since `began`.
    pub(crate) fn wait_for_links(&self, each: u32, began: Instant) -> Duration {
        loop {
            let (links, elapsed) = (self.told.links.load(Ordering::Relaxed), began.elapsed());
            if links >= each * self.devices {
                return elapsed;
            }
            assert!(elapsed < ATTACH_PATIENCE, "{links} links after {ATTACH_PATIENCE:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until all of the book has arrived, perhaps twice.
    pub(crate) fn wait_for_all(&self, book: &Book) {
        let (mut seen, mut moved) = (book.arrived(), Instant::now());
        while seen < book.count {
            thread::sleep(Duration::from_millis(5));
            let now = book.arrived();
            if now > seen {
                (seen, moved) = (now, Instant::now());
            }
            assert!(moved.elapsed() < PATIENCE, "{seen} of {} uplinks arrived", book.count);
        }
    }
}

fn read(mut journal: impl std::io::Read, book: &Mutex<Arc<Book>>, told: &Told) {
    while let Some(entry) = Entry::read(&mut journal) {
        match entry {
            Entry::Uplink { device, f_cnt, at_ms } => {
                book.lock().expect("no panic").accepted(device, f_cnt, at_ms);
            }
            Entry::Report => _ = told.reports.fetch_add(1, Ordering::Relaxed),
            Entry::Downlink { number, at_ms } => {
                told.downlinks.lock().expect("no panic").push((number, at_ms));
            }
            Entry::Links { attached } => told.links.store(attached, Ordering::Relaxed),
            Entry::Lost => panic!("the hub's log was read too late"),
        }
    }
}
