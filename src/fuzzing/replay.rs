//! Feeds each target what was found before: all files in `fuzz/corpus/<target>`.
//!
//! `TTI_FUZZ_FILE=name` takes one of them only. `TTI_FUZZ_RECORD=1 cargo test --lib fuzzing::` writes the AMQP targets' first inputs anew, from a talk between the
//! connector and the emulator.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::wire::Way;
use super::{TARGETS, amqp, run};

/// All corpora together, so that a clone stays small.
const MAX_CORPUS_BYTES: u64 = 400 * 1024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let only = std::env::var("TTI_FUZZ_FILE").unwrap_or_default();
    let mut files = files(&fuzz().join("corpus").join(name));
    files.retain(|file| file.ends_with(&only) || only.is_empty());
    assert!(!files.is_empty(), "no corpus");
    for file in files {
        // Shown when the test fails or hangs: which input it was.
        eprintln!("{}", file.display());
        run(name, &fs::read(&file).unwrap());
    }
}

macro_rules! replayed {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed_and_has_a_binary_and_nothing_else_does() {
            let tested = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let table: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(tested, table);
            let stems = |folder: &str| -> BTreeSet<String> {
                let stem = |file: PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
                files(&fuzz().join(folder)).into_iter().map(stem).collect()
            };
            assert_eq!(stems("corpus"), table);
            assert_eq!(stems("fuzz_targets"), table);
            let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
            for name in &table {
                assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not in fuzz/Cargo.toml");
            }
        }
    };
}

replayed! {
    amqp_between amqp_frames amqp_message amqp_to_emulator amqp_to_hub_client cloud_message config connection_string
    desired direct_method downlink_events dps_answer emulator_request emulator_twin rows sas spool_line storage_rows
    things_stack_answer webhook_json webhook_request
}

#[test]
fn corpora_are_small() {
    let bytes: u64 = TARGETS
        .iter()
        .flat_map(|(name, _)| files(&fuzz().join("corpus").join(name)))
        .map(|file| fs::metadata(file).unwrap().len())
        .sum();
    assert!(bytes <= MAX_CORPUS_BYTES, "{bytes} bytes: run `cargo fuzz cmin` for the largest");
}

#[test]
fn an_unspoilt_wire_carries_all_that_the_targets_are_about() {
    let frames = Arc::new(Mutex::new(Vec::<(Way, Vec<u8>)>::new()));
    let seen = Arc::clone(&frames);
    amqp::talk(0, Vec::new(), Arc::new(move |way, frame| seen.lock().unwrap().push((way, frame.to_vec()))));
    let frames = frames.lock().unwrap();
    let sent = |way: Way, word: &str| {
        let has = |bytes: &[u8]| bytes.windows(word.len()).any(|window| window == word.as_bytes());
        frames.iter().any(|(its, frame)| *its == way && has(frame))
    };
    for word in ["PATCH", "/notifications/twin", "\"Port\":1", "IoThub-status", "put-token"] {
        assert!(sent(Way::ToEmulator, word), "the client never says {word}");
    }
    for word in ["IoThub-methodname", "interval", "AQID", "status-code"] {
        assert!(sent(Way::ToHubClient, word), "the emulator never says {word}");
    }
    if std::env::var_os("TTI_FUZZ_RECORD").is_some() {
        record(&frames);
    }
}

fn record(frames: &[(Way, Vec<u8>)]) {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = fuzz().join("corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    };
    for (way, target) in [(Way::ToEmulator, "amqp_to_emulator"), (Way::ToHubClient, "amqp_to_hub_client")] {
        let own: Vec<_> = frames.iter().filter(|(its, _)| *its == way).map(|(_, frame)| frame).collect();
        let raw = own.iter().copied().flatten().copied().collect::<Vec<_>>();
        write(target, "recorded_raw", &[&[1], &raw[..]].concat());
        write("amqp_frames", target, &[&[200], &raw[..]].concat());
        let mut framed = vec![0];
        for frame in own.iter().filter(|frame| !frame.starts_with(b"AMQP")) {
            framed.push(frame[7]);
            framed.extend(u16::try_from(frame.len() - 8).unwrap().to_be_bytes());
            framed.extend(&frame[8..]);
        }
        write(target, "recorded", &framed);
        for (number, frame) in own.iter().enumerate() {
            // A transfer, and in it the first section of a message.
            let section = |bytes: &[u8]| matches!(bytes, [0, 0x53, 0x70..=0x77]);
            if let (Some([0, 0x53, 0x14]), Some(at)) = (frame.get(8..11), frame.windows(3).position(section))
            {
                write("amqp_message", &format!("{target}_{number}"), &frame[at..]);
            }
        }
    }
}
