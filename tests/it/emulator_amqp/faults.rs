//! Faults that a device asks for by a message, as Microsoft's SDK tests do, and those that are asked of the hub.

use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::{DetachError, LinkStateError, Receiver, RecvError, Sender};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Sendable, Session};
use fe2o3_amqp_types::messaging::{ApplicationProperties, Body, Message, Outcome};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};
use futures_util::FutureExt as _;
use tti_connector::emulator::{AmqpOptions, Fault, FaultError, FaultKind};

use super::kit::{
    Client, Rig, condition, data, message, receive, refusal_of, rejection, send, telemetry, within,
};
use super::pair_kit::{PairLinks, pair, twin_pair};

const SECOND: Duration = Duration::from_secs(1);

/// All links of a device on a session of its own.
struct Links {
    session: SessionHandle<()>,
    telemetry: Sender,
    c2d: Receiver,
    methods: PairLinks,
    twin: PairLinks,
}

impl Links {
    async fn open(connection: &mut ConnectionHandle<()>, device: &str) -> Self {
        let mut session = within(Session::begin(connection)).await.unwrap();
        let telemetry = telemetry(&mut session, device).await;
        let c2d = receive(&mut session, "c2d", &format!("/devices/{device}/messages/devicebound")).await;
        let methods =
            pair(&mut session, &format!("/devices/{device}/methods/devicebound"), "methods:1").await;
        let twin = twin_pair(&mut session, device, "twin:1").await;
        Self { session, telemetry, c2d, methods, twin }
    }

    /// Waits until the link a fault is about is lost; gives the condition.
    async fn lost(&mut self, kind: FaultKind) -> String {
        let receiver = match kind {
            FaultKind::KillAmqpD2cLink => return detached(&mut self.telemetry).await,
            FaultKind::KillAmqpTwinLinkReq => return detached(&mut self.twin.to_hub).await,
            FaultKind::KillAmqpMethodRespLink => return detached(&mut self.methods.to_hub).await,
            FaultKind::KillAmqpTwinLinkResp => &mut self.twin.from_hub,
            FaultKind::KillAmqpMethodReqLink => &mut self.methods.from_hub,
            FaultKind::KillAmqpC2dLink => &mut self.c2d,
            other => panic!("{other} is about no link of a device"),
        };
        match within(receiver.recv::<Body<Value>>()).await.unwrap_err() {
            RecvError::LinkStateError(LinkStateError::RemoteClosedWithError(error)) => condition(&error),
            other => panic!("{other:?}"),
        }
    }

    /// How many links are lost.
    fn count_lost(&mut self) -> usize {
        let senders = [&mut self.telemetry, &mut self.twin.to_hub, &mut self.methods.to_hub];
        let receivers = [&mut self.c2d, &mut self.twin.from_hub, &mut self.methods.from_hub];
        let gone = |sender: &mut Sender| sender.on_detach().now_or_never().is_some();
        let ended = |receiver: &mut Receiver| receiver.recv::<Body<Value>>().now_or_never().is_some();
        senders.into_iter().filter_map(|sender| gone(sender).then_some(())).count()
            + receivers.into_iter().filter_map(|receiver| ended(receiver).then_some(())).count()
    }
}

async fn detached(sender: &mut Sender) -> String {
    match within(sender.on_detach()).await {
        DetachError::RemoteClosedWithError(error) => condition(&error),
        other => panic!("{other:?}"),
    }
}

/// Two devices with all their links on one connection.
async fn two_devices() -> (Rig, Client, Links, Links) {
    let rig = Rig::with(AmqpOptions::default()).await;
    rig.device("a");
    rig.device("b");
    let mut client = rig.client_of(&["a", "b"]).await;
    let first = Links::open(&mut client.connection, "a").await;
    let second = Links::open(&mut client.connection, "b").await;
    (rig, client, first, second)
}

/// A message that asks for a fault; numbers as text or as int, as SDKs have either.
fn asking(
    kind: &str,
    delay: impl Into<SimpleValue>,
    duration: impl Into<SimpleValue>,
) -> Message<Body<Value>> {
    let properties = ApplicationProperties::builder()
        .insert("AzIoTHub_FaultOperationType", kind)
        .insert("AzIoTHub_FaultOperationCloseReason", "boom")
        .insert("AzIoTHub_FaultOperationDelayInSecs", delay)
        .insert("AzIoTHub_FaultOperationDurationInSecs", duration);
    Message::builder().application_properties(properties.build()).body(data("fault")).build()
}

async fn accepted(sender: &mut Sender, message: impl Into<Sendable<Body<Value>>>) {
    let outcome = send(sender, message).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_fault_of_a_link_takes_this_link_and_no_other() {
    for kind in [
        FaultKind::KillAmqpD2cLink,
        FaultKind::KillAmqpC2dLink,
        FaultKind::KillAmqpTwinLinkReq,
        FaultKind::KillAmqpTwinLinkResp,
        FaultKind::KillAmqpMethodReqLink,
        FaultKind::KillAmqpMethodRespLink,
    ] {
        let (rig, client, mut a, mut b) = two_devices().await;
        accepted(&mut a.telemetry, asking(kind.as_str(), "0", 0)).await;
        assert_eq!(a.lost(kind).await, "amqp:link:detach-forced", "{kind}");
        assert_eq!(a.count_lost(), 1, "{kind}");
        accepted(&mut b.telemetry, message(data("fine"))).await;
        assert_eq!(b.count_lost(), 0, "{kind}");
        assert_eq!(rig.events_of("a").len(), 0, "the message that asks is no telemetry");
        drop((client, a, b));
    }
}

#[tokio::test]
async fn a_fault_that_lasts_refuses_the_link_until_its_end() {
    let (rig, _client, mut a, _b) = two_devices().await;
    accepted(&mut a.telemetry, asking("KillAmqpD2CLink", 0, 1)).await;
    detached(&mut a.telemetry).await;
    assert_eq!(rig.hub.active_faults().len(), 1);
    let refused = telemetry(&mut a.session, "a").await;
    assert_eq!(condition(&refusal_of(refused).await), "amqp:link:detach-forced");
    within(async {
        while !rig.hub.active_faults().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut link = telemetry(&mut a.session, "a").await;
    accepted(&mut link, message(data("again"))).await;
    assert_eq!(rig.events_of("a").len(), 1);
}

#[tokio::test]
async fn a_fault_of_a_session_ends_the_session_of_its_device_alone() {
    let (_rig, _client, mut a, mut b) = two_devices().await;
    accepted(&mut a.telemetry, asking("KillAmqpSession", 0, 0)).await;
    within(a.session.on_end()).await.unwrap_err();
    accepted(&mut b.telemetry, message(data("fine"))).await;
    assert_eq!(b.count_lost(), 0);
}

#[tokio::test]
async fn faults_of_the_connection_end_it_each_in_its_own_way() {
    for (kind, said) in
        [("KillTcp", None), ("KillAmqpConnection", Some("amqp:connection:forced")), ("ShutDownAmqp", None)]
    {
        let (_rig, mut client, mut a, _b) = two_devices().await;
        accepted(&mut a.telemetry, asking(kind, 0, "")).await;
        let closed = within(client.connection.on_close()).await;
        match said {
            Some(said) => {
                let text = format!("{closed:?}");
                assert!(text.contains("ConnectionForced") && text.contains("boom"), "{kind} {said}: {text}");
            }
            None => assert!(!format!("{closed:?}").contains("boom"), "{kind}: {closed:?}"),
        }
    }
}

#[tokio::test]
async fn faults_of_the_token_links_take_either_of_them() {
    for (kind, request) in [("KillAmqpCBSLinkReq", true), ("KillAmqpCBSLinkResp", false)] {
        let (_rig, mut client, mut a, mut b) = two_devices().await;
        accepted(&mut a.telemetry, asking(kind, 0, 0)).await;
        if request {
            assert_eq!(detached(&mut client.cbs.requests).await, "amqp:link:detach-forced");
        } else {
            within(client.cbs.replies.recv::<Body<Value>>()).await.unwrap_err();
        }
        assert_eq!((a.count_lost(), b.count_lost()), (0, 0), "{kind}");
    }
}

#[tokio::test]
async fn throttling_and_quota_reject_messages_and_requests_and_keep_the_links() {
    for (kind, said, status) in [
        ("InvokeThrottling", "com.microsoft:device-container-throttled", 429),
        ("InvokeMaxMessageQuota", "amqp:resource-limit-exceeded", 403),
    ] {
        let (rig, _client, mut a, mut b) = two_devices().await;
        accepted(&mut a.telemetry, asking(kind, 0, 60)).await;
        within(async {
            // It strikes a moment after its message was answered.
            while let Outcome::Accepted(_) = send(&mut a.telemetry, message(data("x"))).await.unwrap() {}
        })
        .await;
        let rejected = rejection(send(&mut a.telemetry, message(data("x"))).await.unwrap());
        assert_eq!((condition(&rejected).as_str(), rejected.description.as_deref()), (said, Some("boom")));
        assert_eq!(a.twin.ask("GET", None, "").await.0, status);
        accepted(&mut b.telemetry, message(data("fine"))).await;
        rig.hub.end_faults();
        accepted(&mut a.telemetry, message(data("x"))).await;
        assert_eq!((a.twin.ask("GET", None, "").await.0, a.count_lost()), (200, 0));
    }
}

#[tokio::test]
async fn an_error_of_authorization_takes_links_and_refuses_links_and_tokens_until_its_end() {
    let (rig, mut client, mut a, mut b) = two_devices().await;
    accepted(&mut a.telemetry, asking("InvokeAuthError", 0, 60)).await;
    assert_eq!(detached(&mut a.telemetry).await, "amqp:unauthorized-access");
    within(a.c2d.recv::<Body<Value>>()).await.unwrap_err();
    let refused = telemetry(&mut a.session, "a").await;
    assert_eq!(condition(&refusal_of(refused).await), "amqp:unauthorized-access");
    assert_eq!(client.cbs.put(&rig.device_token("a", 60)).await, (401, "boom".to_owned()));
    assert_eq!(client.cbs.put(&rig.device_token("b", 60)).await.0, 200);
    assert_eq!(b.count_lost(), 0);
    rig.hub.end_faults();
    assert_eq!(client.cbs.put(&rig.device_token("a", 60)).await.0, 200);
    accepted(&mut telemetry(&mut a.session, "a").await, message(data("x"))).await;
}

#[tokio::test]
async fn what_asks_wrongly_is_rejected_and_what_is_for_mqtt_ignored() {
    let (rig, _client, mut a, _b) = two_devices().await;
    for wrong in [asking("KillEverything", 0, 0), asking("KillTcp", "soon", 0), asking("HubDown", 0, 0)] {
        let rejected = rejection(send(&mut a.telemetry, wrong).await.unwrap());
        assert_eq!(condition(&rejected), "amqp:invalid-field");
    }
    accepted(&mut a.telemetry, asking("ShutDownMqtt", 0, 0)).await;
    assert_eq!((rig.hub.active_faults().len(), rig.events_of("a").len()), (0, 0));
}

#[tokio::test]
async fn a_silent_hub_answers_nothing_until_the_end_and_then_everything() {
    let (rig, _client, mut a, _b) = two_devices().await;
    rig.hub.inject(Fault::new(FaultKind::Silence).of("a").lasting(SECOND)).unwrap();
    let began = tokio::time::Instant::now();
    // The first may still slip through while the connection falls silent.
    accepted(&mut a.telemetry, message(data("1"))).await;
    accepted(&mut a.telemetry, message(data("2"))).await;
    assert!(began.elapsed() >= SECOND * 9 / 10, "{:?}", began.elapsed());
    assert_eq!((a.count_lost(), rig.events_of("a").len()), (0, 2));
}

#[tokio::test]
async fn slow_reads_take_their_time() {
    let (rig, _client, mut a, _b) = two_devices().await;
    rig.hub.inject(Fault::new(FaultKind::SlowReads).lasting(SECOND)).unwrap();
    let began = tokio::time::Instant::now();
    accepted(&mut a.telemetry, message(data(vec![b'x'; 4_000]))).await;
    accepted(&mut a.telemetry, message(data(vec![b'x'; 4_000]))).await;
    assert!(began.elapsed() >= SECOND / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn links_can_be_stolen_and_tokens_expire_before_their_time() {
    for (kind, said) in
        [(FaultKind::StealLinks, "amqp:link:stolen"), (FaultKind::ExpireTokens, "amqp:unauthorized-access")]
    {
        let (rig, _client, mut a, mut b) = two_devices().await;
        rig.hub.inject(Fault::new(kind).of("a")).unwrap();
        assert_eq!(detached(&mut a.telemetry).await, said, "{kind}");
        accepted(&mut b.telemetry, message(data("fine"))).await;
        assert_eq!(b.count_lost(), 0, "{kind}");
    }
}

#[tokio::test]
async fn a_hub_that_is_down_cuts_all_connections_and_takes_none() {
    let (rig, mut client, _a, _b) = two_devices().await;
    rig.hub.inject(Fault::new(FaultKind::HubDown).lasting(SECOND * 60)).unwrap();
    within(client.connection.on_close()).await.unwrap_err();
    let builder = fe2o3_amqp::Connection::builder().container_id("test");
    assert!(within(builder.open_with_stream(rig.tcp().await)).await.is_err());
    rig.hub.end_faults();
    rig.client_of(&["a"]).await;
}

#[tokio::test]
async fn a_device_that_was_moved_is_unknown() {
    let (rig, _client, mut a, _b) = two_devices().await;
    rig.hub.inject(Fault::new(FaultKind::HubMoved).of("a").lasting(SECOND)).unwrap();
    assert_eq!(detached(&mut a.telemetry).await, "amqp:not-found");
    assert!(rig.hub.device("a").is_none());
}

#[tokio::test]
async fn a_hub_has_so_many_faults_and_no_more() {
    let rig = Rig::start().await;
    let fault = || Fault::new(FaultKind::Silence).of("a").after(SECOND);
    for _ in 0..1_000 {
        rig.hub.inject(fault()).unwrap();
    }
    assert_eq!(rig.hub.inject(fault()), Err(FaultError::TooMany(1_000)));
    rig.hub.end_faults();
    assert!(rig.hub.inject(fault()).is_ok());
}
