//! The emulated hub as a process of its own: the same emulator as `emulate`, with devices made beforehand, that writes
//! to its standard output what arrives. Knows no connector.

use std::io::{self, BufWriter, Read as _, Write as _};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tti_connector::emulator::things_stack::ThingsStack;
use tti_connector::emulator::{Emulator, Event, Hub, Options, PARTITIONS};

use super::arguments;
use super::journal::Entry;

/// Of each device the hub's key is the HMAC-SHA256 of its id under this one.
pub(crate) const GROUP_KEY: &[u8] = b"bench";
/// How often the hub is looked at when nothing arrives. Times are the hub's own.
const LOOK_EACH: Duration = Duration::from_millis(10);
/// How often links are counted.
const COUNT_EACH: Duration = Duration::from_millis(250);
const AT_ONCE: usize = 2_000;

pub(crate) fn name(device: u32) -> String {
    format!("sensor-{device:05}")
}

fn key(name: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(GROUP_KEY).expect("any length");
    mac.update(name.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// Until its standard input ends.
pub(crate) fn run(arguments: &arguments::Hub) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let options =
        Options { amqp_port: 0, https_port: 0, things_stack_port: Some(0), ..Options::new(&arguments.dir) };
    let emulator = runtime.block_on(Emulator::start(options)).expect("the emulator starts");
    let hub = Arc::clone(&emulator.hubs()[0]);
    for device in 0..arguments.devices {
        let name = name(device);
        let key = key(&name);
        hub.create_device(&name, Some((key.clone(), key))).expect("a new device");
    }
    emulator.ready().write(&arguments.dir).expect("ready.json");
    let watch = Watch {
        hub,
        things_stack: Arc::clone(emulator.things_stack().expect("started with one")),
        next: [0; PARTITIONS],
        pushed: 0,
        devices: (0..arguments.devices).map(name).collect(),
        links: arguments.links,
        counted: Instant::now(),
    };
    thread::spawn(move || watch.write());
    // The generator holds the other end.
    _ = io::stdin().read(&mut [0]);
}

struct Watch {
    hub: Arc<Hub>,
    things_stack: Arc<ThingsStack>,
    next: [i64; PARTITIONS],
    pushed: u64,
    devices: Vec<String>,
    links: bool,
    counted: Instant,
}

impl Watch {
    fn write(mut self) {
        let mut out = BufWriter::new(io::stdout().lock());
        loop {
            let mut entries = Vec::new();
            for partition in 0..PARTITIONS {
                self.look(partition, &mut entries);
            }
            self.look_for_pushes(&mut entries);
            self.count(&mut entries);
            if entries.iter().try_for_each(|entry| entry.write(&mut out)).and_then(|()| out.flush()).is_err()
            {
                return;
            }
            if entries.len() < AT_ONCE {
                thread::sleep(LOOK_EACH);
            }
        }
    }

    fn look(&mut self, partition: usize, entries: &mut Vec<Entry>) {
        let events = self.hub.events(partition, self.next[partition], AT_ONCE);
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        if first.sequence_number != self.next[partition] {
            entries.push(Entry::Lost);
        }
        self.next[partition] = last.sequence_number + 1;
        entries.extend(events.iter().map(entry));
    }

    fn look_for_pushes(&mut self, entries: &mut Vec<Entry>) {
        if self.things_stack.pushed() == self.pushed {
            return;
        }
        let (first, pushes) = self.things_stack.pushes_from(self.pushed, AT_ONCE);
        if first != self.pushed {
            entries.push(Entry::Lost);
        }
        self.pushed = first + pushes.len() as u64;
        for push in pushes {
            let payload = push.downlink.frm_payload.unwrap_or_default();
            let number = payload.try_into().map(u32::from_be_bytes);
            let at_ms = u64::try_from(push.time_ms).expect("after 1970");
            entries.push(Entry::Downlink { number: number.expect("four bytes"), at_ms });
        }
    }

    fn count(&mut self, entries: &mut Vec<Entry>) {
        if !self.links || self.counted.elapsed() < COUNT_EACH {
            return;
        }
        self.counted = Instant::now();
        let attached: u64 = self.devices.iter().map(|device| self.hub.links_attached(device)).sum();
        entries.push(Entry::Links { attached: u32::try_from(attached).expect("fits") });
    }
}

/// Reads the frame counter without parsing the rest.
fn entry(event: &Event) -> Entry {
    const COUNTER: &[u8] = b"\"FrameCounter\":";
    let found = event.body.windows(COUNTER.len()).position(|window| window == COUNTER);
    let Some(found) = found else { return Entry::Report };
    let digits = event.body[found + COUNTER.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let f_cnt = digits.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    let device = event.device_id.rsplit('-').next().and_then(|number| number.parse().ok());
    Entry::Uplink {
        device: device.expect("a device of ours"),
        f_cnt,
        at_ms: u64::try_from(event.enqueued_ms).expect("after 1970"),
    }
}
