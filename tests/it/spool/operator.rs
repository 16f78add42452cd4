//! The operator's commands, on the files and through a running instance.

use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tti_connector::cli::spool as cli;
use tti_connector::model::ParkReason;
use tti_connector::spool::{OperatorError, ParkedFilter, Selection, Seq, Spool, State, control};

use super::{Place, of_group, stored, take, until, within};

async fn three_parked(spool: &Spool) -> [Seq; 3] {
    let mut parked = [Seq(0); 3];
    let cases = [
        ("garden", ParkReason::TooLarge, "300 KB"),
        ("garden", ParkReason::Unauthorized, "401"),
        ("house", ParkReason::TooLarge, "evil\u{1b}[2J"),
    ];
    for (seq, (group, reason, detail)) in parked.iter_mut().zip(cases) {
        *seq = stored(spool, of_group(group, format!("{{\"of\":\"{group}\"}}"))).await;
        spool.park(*seq, reason, detail).await.unwrap();
    }
    parked
}

async fn serve(place: &Place, spool: &Spool) -> (CancellationToken, JoinHandle<std::io::Result<()>>) {
    let stop = CancellationToken::new();
    let task = tokio::spawn(control::serve(spool.clone(), stop.clone()));
    let socket = place.config.directory.join("control.sock");
    until("the socket is there", || socket.exists()).await;
    (stop, task)
}

async fn list(place: &Place, filter: &ParkedFilter, limit: usize, json: bool) -> String {
    let mut out = Vec::new();
    cli::list(&place.config, filter, limit, json, &place.clock, &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

/// The same commands, whichever way they go.
async fn commands_work(place: &Place, parked: [Seq; 3]) {
    let all = ParkedFilter::default();
    let text = list(place, &all, 100, false).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("NUMBER  APPLICATION  DEVICE  REASON"), "{text}");
    for part in [&parked[0].0.to_string(), "garden", "device", "too_large", "300 KB", "3 min", "15"] {
        assert!(lines[1].contains(part), "{part} in {text}");
    }
    assert!(lines[3].contains("evil\u{fffd}[2J"), "{text}");
    let of_garden = ParkedFilter { group: Some("garden".to_owned()), reason: None };
    assert_eq!(list(place, &of_garden, 100, false).await.lines().count(), 3);
    let too_large = ParkedFilter { group: None, reason: Some(ParkReason::TooLarge) };
    let json = list(place, &too_large, 100, true).await;
    let numbers: Vec<_> = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, [parked[0].0, parked[2].0]);
    assert!(list(place, &all, 2, false).await.ends_with("There are more than 2.\n"));

    let mut out = Vec::new();
    cli::show(&place.config, parked[1].0, false, &place.clock, &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("unauthorized") && text.contains("401"), "{text}");
    assert!(text.ends_with("\n{\"of\":\"garden\"}\n"), "{text}");
    let mut out = Vec::new();
    cli::show(&place.config, parked[2].0, true, &place.clock, &mut out).await.unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(shown["body"]["of"], "house");
    let missing = cli::show(&place.config, 12345, false, &place.clock, &mut Vec::new()).await;
    assert!(matches!(missing, Err(OperatorError::NotParked(12345))), "{missing:?}");

    let nobody = Selection::Seqs(vec![Seq(12345)]);
    let missing = cli::requeue(&place.config, &nobody, &mut Vec::new()).await;
    assert!(matches!(missing, Err(OperatorError::NotParked(12345))), "{missing:?}");
    let missing = cli::discard(&place.config, &nobody, &mut Vec::new()).await;
    assert!(matches!(missing, Err(OperatorError::NotParked(12345))), "{missing:?}");

    let mut out = Vec::new();
    cli::requeue(&place.config, &Selection::Seqs(vec![parked[0], Seq(12345)]), &mut out).await.unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "1 message to be sent again.\n");
    let mut out = Vec::new();
    cli::discard(&place.config, &Selection::Matching(of_garden), &mut out).await.unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "1 message deleted.\n");
    let mut out = Vec::new();
    cli::requeue(&place.config, &Selection::Matching(too_large), &mut out).await.unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "1 message to be sent again.\n");
    assert_eq!(list(place, &all, 100, false).await, "No message is parked.\n");
    let damaged = place.config.directory.join("spool.db.damaged-1795278549915");
    std::fs::write(&damaged, "").unwrap();
    let text = list(place, &all, 100, false).await;
    assert!(text.contains(&format!("{} was damaged", damaged.display())), "{text}");
    std::fs::remove_file(damaged).unwrap();
}

#[tokio::test]
async fn commands_work_on_the_files_when_no_instance_runs() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let parked = three_parked(&spool).await;
    spool.close().await;
    place.clock.advance(200_000);
    commands_work(&place, parked).await;
    let (spool, mut claim) = place.open();
    assert_eq!(take(&mut claim, 2).await.len(), 2);
    assert_eq!((spool.stats().pending, spool.stats().parked), (2, 0));
}

#[tokio::test]
async fn commands_go_through_the_running_instance_and_take_effect_at_once() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let parked = three_parked(&spool).await;
    take(&mut claim, 3).await;
    let (stop, task) = serve(&place, &spool).await;
    place.clock.advance(200_000);
    commands_work(&place, parked).await;
    let again = take(&mut claim, 2).await;
    assert_eq!(spool.body(again[0].seq).await.unwrap().unwrap(), "{\"of\":\"garden\"}");
    assert_eq!(spool.state_of(parked[1]).await, State::Gone);
    stop.cancel();
    within(task).await.unwrap().unwrap();
    assert!(!place.config.directory.join("control.sock").exists());
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_replaces_what_a_crash_left() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let socket = place.config.directory.join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let _serving = serve(&place, &spool).await;
    until("a command is answered", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn nonsense_is_answered_and_never_means_all() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    three_parked(&spool).await;
    let _serving = serve(&place, &spool).await;
    let stream = UnixStream::connect(place.config.directory.join("control.sock")).await.unwrap();
    let mut stream = BufReader::new(stream);
    for request in [
        "nonsense",
        r#"{"discard":{}}"#,
        r#"{"discard":{"matching":{"application":null,"reason":"no_such_reason"}}}"#,
        r#"{"discard":{"matching":{"applicaton":"x"}}}"#,
    ] {
        stream.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_line(&mut answer)).await.unwrap();
        assert!(answer.starts_with("{\"failed\":"), "{request}: {answer}");
    }
    assert_eq!(spool.stats().parked, 3);
    // A line without end is answered too, then the connection is closed.
    let _ = stream.write_all(&vec![b'x'; 200_000]).await;
    let mut rest = Vec::new();
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest)).await;
    assert_eq!(spool.stats().parked, 3);
}

#[tokio::test]
async fn what_can_not_be_reached_is_said_with_what_to_do() {
    let place = Place::new();
    let nothing = cli::requeue(&place.config, &Selection::Seqs(vec![]), &mut Vec::new()).await;
    assert!(matches!(nothing, Err(OperatorError::NoSpool(_))), "{nothing:?}");
    assert!(!place.config.directory.exists(), "asking creates nothing");
    let (_spool, _claim) = place.open();
    let mute = cli::requeue(&place.config, &Selection::Seqs(vec![]), &mut Vec::new()).await;
    assert!(matches!(mute, Err(OperatorError::Unreachable { .. })), "{mute:?}");
}

#[tokio::test]
async fn requeueing_all_leaves_alone_what_is_parked_again_meanwhile() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    for _ in 0..600 {
        let seq = stored(&spool, of_group("garden", "x")).await;
        spool.park(seq, ParkReason::Unauthorized, "").await.unwrap();
    }
    take(&mut claim, 600).await;
    let pump = {
        let spool = spool.clone();
        tokio::spawn(async move {
            let mut parked = 0;
            while parked < 600 {
                for record in claim.next().await.unwrap() {
                    spool.park(record.seq, ParkReason::Unauthorized, "still").await.unwrap();
                    parked += 1;
                }
            }
        })
    };
    assert_eq!(within(spool.requeue(&Selection::Matching(ParkedFilter::default()))).await, Ok(600));
    within(pump).await.unwrap();
    assert_eq!((spool.stats().pending, spool.stats().parked), (0, 600));
}
