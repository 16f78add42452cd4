//! The walls between rooms, checked in the source text: who may import whom, and how long a file may be.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// No file is longer. One noun fits.
const MAX_LINES: usize = 400;

/// Each room and the rooms it may import; all that stands before it in the flow, never a sibling.
const ROOMS: [(&str, &[&str]); 16] = [
    // Words.
    ("model", &[]),
    // Formats, pure.
    ("azure", &["model"]),
    ("config", &["model", "azure"]),
    // A format, and the client of its API.
    ("things_stack", &["model"]),
    // Tools: bytes over TLS, an HTTP listener, counters.
    ("net", &["model"]),
    ("http", &["model"]),
    ("metrics", &["model"]),
    // Ports.
    ("spool", &["model", "config"]),
    ("devices", &["model", "azure", "config", "net"]),
    ("iot_hub", &["model", "azure", "config", "net"]),
    // The flow. It speaks the ports' words (records, errors), but names what they must do as traits of its own.
    ("uplink", &["model", "azure", "things_stack", "config", "metrics", "spool", "devices", "iot_hub"]),
    ("downlink", &["model", "azure", "things_stack", "config", "metrics", "spool", "devices", "iot_hub"]),
    ("backfill", &["model", "things_stack"]),
    // Edges.
    ("webhook", &["model", "things_stack", "config", "metrics", "http"]),
    ("admin", &["config", "metrics", "http"]),
    // A second opinion on Azure: had it our SAS code, a wrong SAS would pass.
    ("emulator", &["model", "net"]),
];

/// These join the rooms, so they see all of them.
const JOINERS: [&str; 5] = ["app", "cli", "fuzzing", "lib", "main"];

/// Only these speak AMQP.
const AMQP_ROOMS: [&str; 2] = ["iot_hub", "emulator"];

struct Source {
    path: PathBuf,
    room: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
                let room = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                sources.push(Source { path: inside.to_owned(), room, text });
            }
        }
    }
    assert!(sources.len() > 10, "the source is elsewhere");
    sources
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The rooms that `text` names: `crate::room`, `crate::{room, …}`, and the same from outside as `tti_connector::`.
fn imports(text: &str) -> BTreeSet<String> {
    let text = without_comments(text);
    let mut rooms = BTreeSet::new();
    for start in ["crate::", "tti_connector::", "super::super::"] {
        for (at, _) in text.match_indices(start) {
            // `$crate::` and `my_crate::` are other words; `super::super::` counts where it leaves the room.
            let before = text[..at].rsplit('\n').next().unwrap_or_default();
            let in_a_text = before.replace("\\\"", "").matches('"').count() % 2 == 1;
            if in_a_text || before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let names = first_names(&text[at + start.len()..]);
            rooms.extend(
                names
                    .into_iter()
                    .filter(|name| start != "super::super::" || ROOMS.iter().any(|(room, _)| room == name)),
            );
        }
    }
    rooms
}

/// `a` of `a::b`; `a` and `c` of `{a::{b, x}, c}`.
fn first_names(path: &str) -> Vec<String> {
    let word = |text: &str| {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let mut names = vec![word(group)];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn imports_are_found_in_every_spelling() {
    let found = imports(
        "use crate::azure::Telemetry;\nuse crate::{model::{Clock, EndDevice}, spool};\n// crate::webhook\n\
         fn f(a: crate::config::Config) {} pub(crate) use my_crate::admin; use super::super::devices::X;\n\
         use super::super::local; use tti_connector::cli;\nlet filter = \"info,tti_connector::uplink=debug\";",
    );
    let expected = ["azure", "cli", "config", "devices", "model", "spool"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn every_room_imports_only_what_stands_before_it() {
    for source in sources() {
        if JOINERS.contains(&source.room.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| *room == source.room) else {
            panic!("{} is in no room of the table", source.path.display());
        };
        for import in imports(&source.text) {
            assert!(
                import == source.room || allowed.contains(&import.as_str()),
                "{} imports {import}; {} may import {allowed:?}",
                source.path.display(),
                source.room
            );
        }
    }
}

#[test]
fn rooms_stand_in_an_order_without_cycles() {
    for (at, (room, allowed)) in ROOMS.iter().enumerate() {
        for import in *allowed {
            let before = ROOMS[..at].iter().any(|(earlier, _)| earlier == import);
            assert!(before, "{room} may import {import}, which does not stand before it");
        }
    }
}

#[test]
fn only_the_hub_and_its_emulator_speak_amqp() {
    for source in sources() {
        let speaks =
            ["fe2o3_amqp", "serde_amqp"].iter().any(|name| without_comments(&source.text).contains(name));
        assert!(!speaks || AMQP_ROOMS.contains(&source.room.as_str()), "{}", source.path.display());
    }
}

#[test]
fn every_file_says_what_it_owns_and_is_short() {
    for source in sources() {
        let path = source.path.display();
        assert!(source.text.starts_with("//! "), "{path} does not begin with what it owns");
        let lines = source.text.lines().count();
        assert!(lines <= MAX_LINES, "{path} has {lines} lines; split it, {MAX_LINES} are the most");
    }
}
