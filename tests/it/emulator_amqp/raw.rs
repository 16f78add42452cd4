//! Peers that a well-behaved client library can't play: frames written and read by hand.

use std::time::Duration;

use fe2o3_amqp_types::definitions::{Handle, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Accepted, DeliveryState, Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::{Attach, Begin, Disposition, Flow, Open, Transfer};
use serde::Serialize;
use serde_amqp::primitives::Binary;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use tti_connector::emulator::{AmqpOptions, CloudMessage};

use super::kit::{Rig, put_token, within};

pub(super) const OPEN: u8 = 0x10;
const BEGIN: u8 = 0x11;
const ATTACH: u8 = 0x12;
const FLOW: u8 = 0x13;
const TRANSFER: u8 = 0x14;
const DETACH: u8 = 0x16;
const END: u8 = 0x17;
const CLOSE: u8 = 0x18;

/// The body of the next frame, of SASL or AMQP.
pub(super) async fn sasl_frame(tcp: &mut TcpStream) -> Vec<u8> {
    let size = tcp.read_u32().await.unwrap() as usize;
    let mut rest = vec![0; size - 4];
    tcp.read_exact(&mut rest).await.unwrap();
    rest.split_off(4)
}

/// A connection on which the test writes frames itself, opened and with one session begun on channel 0.
pub(super) struct RawPeer {
    pub(super) tcp: TcpStream,
}

impl RawPeer {
    pub(super) async fn open(tcp: TcpStream) -> Self {
        let mut peer = Self { tcp };
        peer.tcp.write_all(b"AMQP\x00\x01\x00\x00").await.unwrap();
        let mut header = [0; 8];
        within(peer.tcp.read_exact(&mut header)).await.unwrap();
        let open = Open {
            container_id: String::new(),
            hostname: None,
            max_frame_size: 4096.into(),
            channel_max: 10.into(),
            idle_time_out: None,
            outgoing_locales: None,
            incoming_locales: None,
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        };
        peer.write(&open, b"").await;
        peer
    }

    pub(super) async fn begin(&mut self) {
        let begin = Begin {
            remote_channel: None,
            next_outgoing_id: 0,
            incoming_window: 5000,
            outgoing_window: 5000,
            handle_max: Handle(100),
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        };
        self.write(&begin, b"").await;
    }

    pub(super) async fn write(&mut self, performative: &impl Serialize, payload: &[u8]) {
        let body = serde_amqp::to_vec(performative).unwrap();
        let mut frame = u32::try_from(body.len() + payload.len() + 8).unwrap().to_be_bytes().to_vec();
        frame.extend([2, 0, 0, 0]);
        frame.extend(body);
        frame.extend(payload);
        self.tcp.write_all(&frame).await.unwrap();
    }

    /// The next frame that carries the performative `code`; fails on a detach or end that comes instead.
    pub(super) async fn expect(&mut self, code: u8) -> Vec<u8> {
        within(async {
            loop {
                let body = sasl_frame(&mut self.tcp).await;
                let Some(got) = body.get(2).copied() else { continue };
                if got == code {
                    return body;
                }
                assert!(![DETACH, END].contains(&got), "{}", String::from_utf8_lossy(&body));
            }
        })
        .await
    }
}

fn attach(name: &str, handle: u32, role: Role) -> Attach {
    Attach {
        name: name.to_owned(),
        handle: Handle(handle),
        role,
        snd_settle_mode: SenderSettleMode::Unsettled,
        rcv_settle_mode: ReceiverSettleMode::First,
        source: None,
        target: None,
        unsettled: None,
        incomplete_unsettled: false,
        initial_delivery_count: None,
        max_message_size: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

fn target(address: &str) -> Option<Box<TargetArchetype>> {
    Some(Box::new(TargetArchetype::Target(Target::builder().address(address.to_owned()).build())))
}

fn source(address: &str) -> Option<Box<Source>> {
    Some(Box::new(Source::builder().address(address.to_owned()).build()))
}

fn transfer(handle: u32, id: u32, more: bool) -> Transfer {
    Transfer {
        handle: Handle(handle),
        delivery_id: Some(id),
        delivery_tag: Some(Binary::from(id.to_be_bytes().to_vec())),
        message_format: Some(0),
        settled: Some(false),
        more,
        rcv_settle_mode: None,
        state: None,
        resume: false,
        aborted: false,
        batchable: false,
    }
}

/// Five credits for a link, after `seen` transfers of the session.
fn credit(handle: u32, seen: u32) -> Flow {
    Flow {
        next_incoming_id: Some(seen),
        incoming_window: 5000,
        next_outgoing_id: 0,
        outgoing_window: 5000,
        handle: Some(Handle(handle)),
        delivery_count: Some(0),
        link_credit: Some(5),
        available: None,
        drain: false,
        echo: false,
        properties: None,
    }
}

/// Fields of the list that a performative's body is.
fn fields(body: &[u8]) -> u32 {
    match body[3] {
        0xc0 => u32::from(body[5]),
        0xd0 => u32::from_be_bytes(body[8..12].try_into().unwrap()),
        other => panic!("no list: {other:#x}"),
    }
}

fn encoded(token: &str) -> Vec<u8> {
    use fe2o3_amqp_types::messaging::message::__private::Serializable;
    let request = put_token(token, "servicebus.windows.net:sastoken", 1_u64.into());
    serde_amqp::to_vec(&Serializable(request)).unwrap()
}

/// Like Java: a null source on senders, a null target on receivers, `$cbs` and the device on one session.
async fn java_like(rig: &Rig) -> RawPeer {
    let mut peer = RawPeer::open(rig.tcp().await).await;
    peer.begin().await;
    peer.write(&Attach { target: target("$cbs"), ..attach("cbs-sender", 0, Role::Sender) }, b"").await;
    peer.expect(FLOW).await;
    peer.write(&Attach { source: source("$cbs"), ..attach("cbs-receiver", 1, Role::Receiver) }, b"").await;
    peer.expect(ATTACH).await;
    peer.write(&credit(1, 0), b"").await;
    let payload = encoded(&rig.device_token("dev", 60));
    peer.write(&transfer(0, 0, false), &payload).await;
    let reply = peer.expect(TRANSFER).await;
    assert_eq!(fields(&reply), 11, "pyamqp reads all eleven fields of a transfer");
    let text = String::from_utf8_lossy(&reply).into_owned();
    assert!(text.contains("status-code") && text.contains("OK"), "{text}");
    let events = Attach { target: target("/devices/dev/messages/events"), ..attach("d2c", 2, Role::Sender) };
    peer.write(&events, b"").await;
    peer.expect(FLOW).await;
    peer
}

#[tokio::test]
async fn a_peer_that_leaves_its_own_terminus_out_is_served() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut peer = java_like(&rig).await;
    // A data section of two bytes.
    peer.write(&transfer(2, 1, false), &[0, 0x53, 0x75, 0xa0, 2, b'h', b'i']).await;
    peer.expect(0x15).await;
    assert_eq!(rig.events_of("dev")[0].body, "hi");
}

#[tokio::test]
async fn a_message_beyond_the_advertised_size_costs_the_link() {
    let rig = Rig::start().await;
    rig.device("dev");
    let peer = java_like(&rig).await;
    let (mut read, mut write) = peer.tcp.into_split();
    let writer = tokio::spawn(async move {
        let chunk = vec![0; 60_000];
        for _ in 0..18 {
            let body = serde_amqp::to_vec(&transfer(2, 1, true)).unwrap();
            let size = u32::try_from(body.len() + chunk.len() + 8).unwrap();
            write.write_all(&size.to_be_bytes()).await.unwrap();
            write.write_all(&[2, 0, 0, 0]).await.unwrap();
            write.write_all(&body).await.unwrap();
            write.write_all(&chunk).await.unwrap();
        }
        write
    });
    let detach = within(async {
        loop {
            let size = read.read_u32().await.unwrap() as usize;
            let mut rest = vec![0; size - 4];
            read.read_exact(&mut rest).await.unwrap();
            if rest.get(6) == Some(&DETACH) {
                return rest;
            }
        }
    })
    .await;
    assert!(String::from_utf8_lossy(&detach).contains("amqp:link:message-size-exceeded"));
    writer.await.unwrap();
    assert!(rig.events_of("dev").is_empty());
}

#[tokio::test]
async fn a_message_that_is_no_message_is_rejected_and_the_link_lives_on() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut peer = java_like(&rig).await;
    peer.write(&transfer(2, 1, false), b"\xff\xff\xff").await;
    let answer = peer.expect(0x15).await;
    assert!(String::from_utf8_lossy(&answer).contains("amqp:decode-error"));
    peer.write(&transfer(2, 2, false), &[0, 0x53, 0x75, 0xa0, 2, b'h', b'i']).await;
    peer.expect(0x15).await;
    assert_eq!(rig.events_of("dev").len(), 1);
}

#[tokio::test]
async fn a_device_that_would_settle_second_is_told_first_and_its_answer_counts() {
    let rig = Rig::start().await;
    rig.device("dev");
    rig.hub.send_cloud_message("dev", CloudMessage::new("for C#")).unwrap();
    let mut peer = java_like(&rig).await;
    let link = Attach {
        rcv_settle_mode: ReceiverSettleMode::Second,
        source: source("/devices/dev/messages/deviceBound"),
        ..attach("c2d", 3, Role::Receiver)
    };
    peer.write(&link, b"").await;
    let attached: Attach = serde_amqp::from_slice(&peer.expect(ATTACH).await).unwrap();
    assert_eq!(attached.rcv_settle_mode, ReceiverSettleMode::First);
    assert_eq!(attached.snd_settle_mode, SenderSettleMode::Unsettled);
    peer.write(&credit(3, 1), b"").await;
    peer.expect(TRANSFER).await;
    let answer = Disposition {
        role: Role::Receiver,
        first: 1,
        last: None,
        settled: false,
        state: Some(DeliveryState::Accepted(Accepted {})),
        batchable: false,
    };
    peer.write(&answer, b"").await;
    let mut changes = rig.hub.cloud_changes();
    within(changes.wait_for(|_| rig.hub.cloud_queue("dev").is_empty())).await.unwrap();
}

#[tokio::test]
async fn performatives_are_written_in_full_for_readers_that_index_them() {
    let rig = Rig::start().await;
    let mut peer = RawPeer::open(rig.tcp().await).await;
    assert_eq!(fields(&peer.expect(OPEN).await), 10);
    peer.begin().await;
    assert_eq!(fields(&peer.expect(BEGIN).await), 8);
    for (handle, role) in [(0, Role::Sender), (1, Role::Receiver)] {
        let name = format!("link-{handle}");
        let link = Attach { target: target("$cbs"), source: source("$cbs"), ..attach(&name, handle, role) };
        peer.write(&link, b"").await;
        assert_eq!(fields(&peer.expect(ATTACH).await), 14);
    }
}

#[tokio::test]
async fn a_second_link_of_the_same_name_ends_the_session_instead_of_hanging() {
    let rig =
        Rig::with(AmqpOptions { close_timeout: Duration::from_millis(50), ..AmqpOptions::default() }).await;
    let mut peer = RawPeer::open(rig.tcp().await).await;
    peer.begin().await;
    for (handle, role) in [(0, Role::Sender), (1, Role::Receiver)] {
        let link = Attach { target: target("$cbs"), source: source("$cbs"), ..attach("same", handle, role) };
        peer.write(&link, b"").await;
    }
    let end = within(async {
        loop {
            let body = sasl_frame(&mut peer.tcp).await;
            if body.get(2) == Some(&END) {
                return body;
            }
        }
    })
    .await;
    assert!(String::from_utf8_lossy(&end).contains("link names must differ"));
    // It is left unanswered, which costs the connection.
    peer.expect(CLOSE).await;
    within(peer.tcp.read_to_end(&mut Vec::new())).await.unwrap();
}
