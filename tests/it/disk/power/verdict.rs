//! What must be there after a cut: everything the driver was told of before it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use tti_connector::model::Clock;
use tti_connector::spool::{Appended, DedupKey, NewRecord, ParkedFilter, Seq, Spool};

use super::record::Call;

/// Where the driver says what it was told.
pub(super) const TOLD: &str = "told";

pub(super) fn config(folder: &Path) -> tti_connector::config::Spool {
    tti_connector::config::Spool { directory: folder.to_owned(), ..Default::default() }
}

/// A message that says itself what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) life: u64,
    pub(super) device: u64,
    pub(super) number: u64,
    pub(super) length: usize,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.life, self.device, self.number, self.length)
    }
}

impl Message {
    fn read(text: &str) -> Option<Self> {
        let numbers: Vec<u64> = text.split(' ').take(4).map_while(|word| word.parse().ok()).collect();
        let [life, device, number, length] = numbers[..] else { return None };
        Some(Self { life, device, number, length: usize::try_from(length).ok()? })
    }

    fn lane(&self) -> String {
        format!("\u{1f}app\u{1f}{}", self.device)
    }

    fn body(&self) -> Vec<u8> {
        let mut body = format!("{self} ").into_bytes();
        body.resize(self.length, b'0' + (self.number % 10) as u8);
        body
    }

    pub(super) fn record(&self) -> NewRecord {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(self.life * 1000 + self.device).to_le_bytes());
        key[8..].copy_from_slice(&self.number.to_le_bytes());
        NewRecord {
            lane: self.lane().into(),
            group: "app".into(),
            dedup: Some(DedupKey(key)),
            body: self.body().into(),
            waiter: None,
        }
    }
}

/// What the driver was told so far.
#[derive(Clone, Default)]
pub(super) struct Told {
    stored: BTreeMap<Seq, Message>,
    /// It handed these in as done, or to be parked; which may or may not be on disk.
    leaving: BTreeSet<Seq>,
    /// Those of them that are done.
    done: BTreeSet<Seq>,
    parked: BTreeSet<Seq>,
    /// Surely gone.
    settled: BTreeSet<Seq>,
    state: HashMap<String, String>,
}

/// What a start found.
pub(super) struct Seen {
    pending: BTreeMap<Seq, Message>,
    parked: BTreeMap<Seq, Message>,
    state: HashMap<String, String>,
    /// Done, and back, since that they were done was not synced.
    pub(super) resurrected: usize,
}

impl Told {
    pub(super) fn hear(&mut self, calls: &[Call]) {
        let lines: Vec<u8> = calls
            .iter()
            .filter_map(|call| match call {
                Call::Write { file, data, .. } if file == TOLD => Some(&data[..]),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        for line in String::from_utf8(lines).unwrap().lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let seqs = || rest.split(' ').filter_map(|text| text.parse().ok()).map(Seq);
            match word {
                "stored" => {
                    let (seq, message) = rest.split_once(' ').unwrap();
                    let seq = Seq(seq.parse().unwrap());
                    let message = Message::read(message).unwrap();
                    let before = self.stored.insert(seq, message);
                    assert!(before.is_none_or(|before| before == message), "{seq:?} was given twice");
                }
                "done" => {
                    self.leaving.extend(seqs());
                    self.done.extend(seqs());
                }
                "parking" => self.leaving.extend(seqs()),
                "parked" => self.parked.extend(seqs()),
                "settled" => self.settled.extend(seqs()),
                "state" => {
                    let (key, value) = rest.split_once(' ').unwrap();
                    self.state.insert(key.to_owned(), value.to_owned());
                }
                "closed" => self.settled.extend(self.done.iter().copied()),
                other => panic!("{other}"),
            }
        }
    }

    /// Those that must be there, waiting.
    pub(super) fn pending(&self) -> impl Iterator<Item = (&Seq, &Message)> {
        self.stored.iter().filter(|(seq, _)| !self.leaving.contains(seq))
    }

    /// The next life begins with what was seen; what was not seen must stay away.
    pub(super) fn settle(&mut self, seen: &Seen) {
        let known: Vec<Seq> = self.stored.keys().chain(&self.leaving).copied().collect();
        self.settled.extend(known);
        let present = seen.pending.iter().chain(&seen.parked);
        self.stored.extend(present.map(|(seq, message)| (*seq, *message)));
        self.parked = seen.parked.keys().copied().collect();
        self.settled.retain(|seq| !seen.pending.contains_key(seq) && !seen.parked.contains_key(seq));
        self.leaving = self.settled.iter().chain(&self.parked).copied().collect();
        self.done.clone_from(&self.settled);
        self.state.clone_from(&seen.state);
    }
}

/// Opens what is left.
pub(super) async fn check(folder: &Path, told: &Told) -> Result<Seen, String> {
    let (spool, mut claim) = Spool::open(&config(folder), Clock::system())
        .map_err(|error| format!("it does not open: {error}"))?;
    if spool.stats().set_aside {
        return Err("a power cut was taken for damage".to_owned());
    }
    let mut seen =
        Seen { pending: BTreeMap::new(), parked: BTreeMap::new(), state: HashMap::new(), resurrected: 0 };
    let mut last: HashMap<u64, (u64, u64)> = HashMap::new();
    while seen.pending.len() < usize::try_from(spool.stats().pending).unwrap() {
        let next = tokio::time::timeout(Duration::from_secs(20), claim.next()).await;
        let batch = next.ok().flatten().ok_or("fewer records came than are counted")?;
        for pending in batch {
            let message = read(&spool, pending.seq, Some(&pending.lane)).await?;
            let at = (message.life, message.number);
            if last.insert(message.device, at).is_some_and(|before| before >= at) {
                return Err(format!("{message:?} comes out of order"));
            }
            seen.pending.insert(pending.seq, message);
        }
    }
    let mut after = Seq(0);
    loop {
        let parked =
            spool.parked(&ParkedFilter::default(), after, 1000).await.map_err(|error| error.to_string())?;
        let Some(end) = parked.last() else { break };
        after = end.seq;
        for record in parked {
            seen.parked.insert(record.seq, read(&spool, record.seq, Some(&record.lane)).await?);
        }
    }
    for row in spool.state().load("test").await.map_err(|error| error.to_string())? {
        seen.state.insert(row.key, String::from_utf8(row.value.to_vec()).unwrap());
    }
    compare(told, &mut seen)?;
    // Whatever became of them, posted again they are known.
    for (seq, message) in told.stored.iter().rev().take(20) {
        match spool.append(message.record()).await {
            Ok(Appended::Duplicate(known)) if known == *seq => {}
            other => return Err(format!("{seq:?} {message:?} posted again: {other:?}")),
        }
    }
    spool.close().await;
    Ok(seen)
}

fn compare(told: &Told, seen: &mut Seen) -> Result<(), String> {
    for (seq, message) in told.pending() {
        if seen.pending.get(seq) != Some(message) {
            return Err(format!("{seq:?} {message:?} was acknowledged and is lost"));
        }
    }
    for seq in &told.parked {
        if !seen.parked.contains_key(seq) {
            return Err(format!("{seq:?} was parked and is not"));
        }
    }
    for seq in seen.pending.keys() {
        if told.settled.contains(seq) || told.parked.contains(seq) {
            return Err(format!("{seq:?} was surely done or parked and is back"));
        }
        seen.resurrected += usize::from(told.leaving.contains(seq));
    }
    for (seq, message) in seen.pending.iter().chain(&seen.parked) {
        if told.stored.get(seq).is_some_and(|stored| stored != message) {
            return Err(format!("{seq:?} is another message than was stored"));
        }
    }
    for (key, value) in &told.state {
        let at = |value: &str| {
            let mut words = value.split(' ').map(|word| word.parse::<u64>().unwrap());
            (words.next(), words.next())
        };
        if seen.state.get(key).is_none_or(|found| at(found) < at(value)) {
            return Err(format!("the state {key} was {value} and is {:?}", seen.state.get(key)));
        }
    }
    Ok(())
}

async fn read(spool: &Spool, seq: Seq, lane: Option<&str>) -> Result<Message, String> {
    let body = spool
        .body(seq)
        .await
        .map_err(|error| format!("{seq:?}: {error}"))?
        .ok_or(format!("{seq:?} is gone"))?;
    let message =
        std::str::from_utf8(&body).ok().and_then(Message::read).ok_or(format!("{seq:?} is unreadable"))?;
    if body != message.body() || lane != Some(&message.lane()) {
        return Err(format!("{seq:?} is not what was stored"));
    }
    Ok(message)
}
