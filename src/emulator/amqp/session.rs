//! One session: takes the peer's links in, decides what each is for, and gives each a task of its own.
//!
//! Links are routed by address alone: all devices may share one session, or have one each.

use std::sync::Arc;

use fe2o3_amqp::acceptor::error::AcceptorAttachError;
use fe2o3_amqp::acceptor::{
    LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SupportedReceiverSettleModes,
    SupportedSenderSettleModes,
};
use fe2o3_amqp::link::{ReceiverAttachError, SenderAttachError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::{Fields, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use tokio::task::JoinSet;

use super::address::Address;
use super::connection::{Connection, HeldDevice, LinkPlace};
use super::lifelines::Way;
use super::pairs::{Half, Kind};
use super::position::Position;
use super::reader::Reader;
use super::refusal::Refusal;
use super::strikes::Ending;
use super::{
    cbs, cloud_messages, cloud_send, feedback, management, methods, reader, replies, telemetry, twins,
};
use crate::emulator::hub::PARTITIONS;

/// The builder's type when no terminus is made on demand.
type PlainLinkAcceptor = LinkAcceptor<fn(Source) -> Option<Source>, fn(Target) -> Option<Target>>;

/// Times of [`AmqpOptions::close_timeout`](super::AmqpOptions::close_timeout) that a peer has to answer our End: it may be
/// busy with all that comes on its other sessions.
const END_PATIENCE: u32 = 5;
/// Longest part of an unknown address that is sent back.
const ECHOED_ADDRESS: usize = 200;

/// Serves a session until the peer or the connection ends it. `number` tells it from others of the connection.
pub(super) async fn serve(mut session: ListenerSessionHandle, connection: Arc<Connection>, number: u64) {
    let mut links = JoinSet::new();
    let mut line = connection.lifelines.of_session(number);
    loop {
        let attach = tokio::select! {
            () = connection.over.cancelled() => break,
            Some(_) = links.join_next() => continue,
            refusal = line.cut() => {
                end(&mut session, &connection, &refusal).await;
                break;
            }
            attach = session.next_incoming_attach() => attach,
        };
        let Some(attach) = attach else { break };
        let Some(place) = connection.link_place() else {
            end(&mut session, &connection, &Refusal::TooMuch("links on this connection")).await;
            break;
        };
        if take_in(attach, &mut session, &connection, number, &mut links, place).await {
            continue;
        }
        let refusal = Refusal::Invalid("link names must differ within a session".to_owned());
        end(&mut session, &connection, &refusal).await;
        break;
    }
    links.shutdown().await;
}

/// Ends the session and says why. A peer that leaves our End unanswered loses its connection: the crate's engine keeps a
/// processor busy for as long as it waits.
async fn end(session: &mut ListenerSessionHandle, connection: &Connection, refusal: &Refusal) {
    let patience = connection.options.close_timeout * END_PATIENCE;
    tokio::select! {
        () = connection.over.cancelled() => {}
        ended = tokio::time::timeout(patience, session.end_with_error(refusal.error())) => {
            if ended.is_err() {
                connection.end(Ending::Close(None));
            }
        }
    }
}

/// What a link is for.
enum Purpose {
    CbsRequests,
    CbsReplies,
    ManagementRequests,
    ManagementReplies,
    Telemetry(HeldDevice),
    Reader(Reader),
    CloudMessages(HeldDevice),
    CloudSend,
    Feedback,
    FileNotifications,
    /// Calls go to the device, answers come back.
    MethodCalls(Half),
    MethodAnswers(Half),
    TwinRequests(Half),
    /// Replies and updates.
    TwinReplies(Half),
}

/// Attaches a link and gives it its task. False if the session can't go on: the crate tells links apart by name
/// alone, so that it can't even refuse a second link of the same name in the other direction.
async fn take_in<R>(
    attach: Attach,
    session: &mut SessionHandle<R>,
    connection: &Arc<Connection>,
    number: u64,
    links: &mut JoinSet<()>,
    place: LinkPlace,
) -> bool {
    let purpose = purpose_of(&attach, connection, number);
    let reply_address = target_address(&attach);
    let settling = settling_of(&purpose);
    let link = match acceptor(connection).accept_incoming_attach(completed(attach, settling), session).await {
        Ok(link) => link,
        Err(
            AcceptorAttachError::LocalSender(SenderAttachError::DuplicatedLinkName)
            | AcceptorAttachError::LocalReceiver(ReceiverAttachError::DuplicatedLinkName),
        ) => return false,
        // Answered by the acceptor, or the session is over, which the caller sees next.
        Err(_) => return true,
    };
    let purpose = match purpose {
        Ok(purpose) => purpose,
        Err(refusal) => {
            // To the end, before the next attach: the crate gives a handle away again once our detach is out, and
            // takes the peer's answer for one about the new link then.
            _ = tokio::time::timeout(connection.options.close_timeout, refuse(link, &refusal)).await;
            return true;
        }
    };
    let connection = Arc::clone(connection);
    links.spawn(async move {
        let _place = place;
        match (purpose, link) {
            (Purpose::CbsRequests, LinkEndpoint::Receiver(link)) => {
                cbs::serve(link, connection, number).await;
            }
            (Purpose::ManagementRequests, LinkEndpoint::Receiver(link)) => {
                management::serve(link, connection, number).await;
            }
            (Purpose::Telemetry(device), LinkEndpoint::Receiver(link)) => {
                telemetry::serve(link, connection, device).await;
            }
            (Purpose::CbsReplies, LinkEndpoint::Sender(link)) => {
                let line = connection.lifelines.of_node(number, Way::CbsReplies);
                let waiting = connection.cbs_replies.open(number, reply_address);
                replies::serve(link, waiting, Some(line)).await;
            }
            (Purpose::ManagementReplies, LinkEndpoint::Sender(link)) => {
                let waiting = connection.management_replies.open(number, reply_address);
                replies::serve(link, waiting, None).await;
            }
            (Purpose::Reader(reader), LinkEndpoint::Sender(link)) => {
                reader::serve(link, connection, reader).await;
            }
            (Purpose::CloudMessages(device), LinkEndpoint::Sender(link)) => {
                cloud_messages::serve(link, connection, device).await;
            }
            (Purpose::CloudSend, LinkEndpoint::Receiver(link)) => cloud_send::serve(link, connection).await,
            (Purpose::Feedback, LinkEndpoint::Sender(link)) => feedback::serve(link, connection).await,
            (Purpose::FileNotifications, LinkEndpoint::Sender(link)) => {
                feedback::serve_file_notifications(link, connection).await;
            }
            (Purpose::MethodCalls(half), LinkEndpoint::Sender(link)) => {
                methods::serve_calls(link, half).await
            }
            (Purpose::MethodAnswers(half), LinkEndpoint::Receiver(link)) => {
                methods::serve_answers(link, half).await;
            }
            (Purpose::TwinRequests(half), LinkEndpoint::Receiver(link)) => {
                twins::serve_requests(link, half).await;
            }
            (Purpose::TwinReplies(half), LinkEndpoint::Sender(link)) => {
                twins::serve_replies(link, half).await
            }
            (_, link) => refuse(link, &Refusal::NoNode(String::new())).await,
        }
    });
    true
}

/// Decides what a link is for. The nodes for cloud-to-device messages will come in here.
fn purpose_of(attach: &Attach, connection: &Arc<Connection>, session: u64) -> Result<Purpose, Refusal> {
    let text = match attach.role {
        Role::Sender => target_address(attach),
        Role::Receiver => source_address(attach),
    }
    .unwrap_or_default();
    let unknown = || Refusal::NoNode(text.chars().take(ECHOED_ADDRESS).collect());
    match (Address::parse(&text), &attach.role) {
        (Address::Cbs, Role::Sender) => Ok(Purpose::CbsRequests),
        (Address::Cbs, Role::Receiver) => Ok(Purpose::CbsReplies),
        (Address::Management, Role::Sender) => Ok(Purpose::ManagementRequests),
        (Address::Management, Role::Receiver) => Ok(Purpose::ManagementReplies),
        (Address::Telemetry(device_id), Role::Sender) => {
            connection.admit(&device_id, Way::Telemetry, session).map(Purpose::Telemetry)
        }
        (Address::Methods(device_id), role) => {
            standard(connection, "direct methods")?;
            let half = Half::admit(connection, Kind::Methods, &device_id, (attach, session))?;
            Ok(if *role == Role::Sender { Purpose::MethodAnswers(half) } else { Purpose::MethodCalls(half) })
        }
        (Address::Twin(device_id), role) => {
            standard(connection, "device twins")?;
            let half = Half::admit(connection, Kind::Twin, &device_id, (attach, session))?;
            Ok(if *role == Role::Sender { Purpose::TwinRequests(half) } else { Purpose::TwinReplies(half) })
        }
        (Address::Partition(partition), Role::Receiver) if partition < PARTITIONS => {
            if !connection.may_read() {
                let text = "reading needs a token of policy service or iothubowner on this connection";
                return Err(Refusal::Unauthorized(text.to_owned()));
            }
            let filters = attach.source.as_ref().and_then(|source| source.filter.as_ref());
            let position = Position::of_filters(filters).map_err(Refusal::Invalid)?;
            Ok(Purpose::Reader(Reader::new(&connection.hub, partition, &position)))
        }
        (Address::CloudMessages(device_id), Role::Receiver) => {
            standard(connection, "cloud-to-device messages")?;
            connection.admit(&device_id, Way::CloudMessages, session).map(Purpose::CloudMessages)
        }
        (Address::CloudSend, Role::Sender) => service(connection, Purpose::CloudSend),
        (Address::Feedback, Role::Receiver) => service(connection, Purpose::Feedback),
        (Address::FileNotifications, Role::Receiver) => service(connection, Purpose::FileNotifications),
        (Address::NotYet(what), _) => Err(Refusal::NotYet(what)),
        (Address::Telemetry(_) | Address::Partition(_) | Address::Unknown, _) => Err(unknown()),
        (Address::CloudMessages(_) | Address::CloudSend, _) => Err(unknown()),
        (Address::Feedback | Address::FileNotifications, _) => Err(unknown()),
    }
}

/// A link of cloud-to-device messages for a service, if the peer is one.
fn service(connection: &Connection, purpose: Purpose) -> Result<Purpose, Refusal> {
    standard(connection, "cloud-to-device messages")?;
    if connection.may_serve() {
        return Ok(purpose);
    }
    let text = "this needs a token of policy service or iothubowner for the whole hub on this connection";
    Err(Refusal::Unauthorized(text.to_owned()))
}

/// Refuses what a hub of the basic tier does not have.
fn standard(connection: &Connection, what: &'static str) -> Result<(), Refusal> {
    if connection.hub.tier().is_basic() { Err(Refusal::Tier(what)) } else { Ok(()) }
}

/// Who settles the deliveries of a link.
#[derive(Clone, Copy)]
enum Settling {
    /// We: settled when we send, settled on our answer when we receive. So nothing piles up because a peer leaves
    /// deliveries open.
    Ours,
    /// The peer, by its answer to what we send. Never second: the crate does not answer a single disposition that
    /// wants to be settled by us.
    Peers,
}

fn settling_of(purpose: &Result<Purpose, Refusal>) -> Settling {
    match purpose {
        Ok(Purpose::CloudMessages(_) | Purpose::Feedback) => Settling::Peers,
        Ok(
            Purpose::CbsRequests
            | Purpose::CbsReplies
            | Purpose::ManagementRequests
            | Purpose::ManagementReplies
            | Purpose::Telemetry(_)
            | Purpose::Reader(_)
            | Purpose::CloudSend
            | Purpose::FileNotifications
            | Purpose::MethodCalls(_)
            | Purpose::MethodAnswers(_)
            | Purpose::TwinRequests(_)
            | Purpose::TwinReplies(_),
        )
        | Err(_) => Settling::Ours,
    }
}

/// The link's own acceptor.
fn acceptor(connection: &Connection) -> PlainLinkAcceptor {
    // pyamqp reads performatives by index; a last field that is there keeps the others from being left out.
    let mut properties = Fields::new();
    properties.insert(Symbol::from("product"), Value::from("tti-connector emulator"));
    LinkAcceptor::builder()
        .supported_receiver_settle_modes(SupportedReceiverSettleModes::First)
        .fallback_receiver_settle_mode(ReceiverSettleMode::First)
        .supported_sender_settle_modes(SupportedSenderSettleModes::All)
        .fallback_sender_settle_mode(SenderSettleMode::Settled)
        .max_message_size(connection.options.advertised_message_size)
        .verify_incoming_source(false)
        .verify_incoming_target(false)
        .properties(properties)
        .build()
}

/// The attach with what the acceptor insists on: Java leaves its own terminus out. Nothing is ever resumed.
fn completed(mut attach: Attach, settling: Settling) -> Attach {
    attach.source.get_or_insert_default().dynamic = false;
    match attach.target.as_deref_mut() {
        Some(TargetArchetype::Target(target)) => target.dynamic = false,
        None => attach.target = Some(Box::new(TargetArchetype::Target(Target::default()))),
    }
    attach.unsettled = None;
    attach.incomplete_unsettled = false;
    match attach.role {
        Role::Sender => {
            attach.initial_delivery_count.get_or_insert(0);
        }
        // Whatever the peer would like.
        Role::Receiver => {
            attach.rcv_settle_mode = ReceiverSettleMode::First;
            attach.snd_settle_mode = match settling {
                Settling::Ours => SenderSettleMode::Settled,
                Settling::Peers => SenderSettleMode::Unsettled,
            }
        }
    }
    attach
}

fn target_address(attach: &Attach) -> Option<String> {
    match attach.target.as_deref() {
        Some(TargetArchetype::Target(target)) => target.address.clone(),
        None => None,
    }
}

fn source_address(attach: &Attach) -> Option<String> {
    attach.source.as_ref().and_then(|source| source.address.clone())
}

/// Ends a link that was attached only to say why it can't be.
async fn refuse(link: LinkEndpoint, refusal: &Refusal) {
    // Either the peer answers or the session is over; there is nothing left to do in both cases.
    match link {
        LinkEndpoint::Sender(link) => _ = link.close_with_error(refusal.error()).await,
        LinkEndpoint::Receiver(link) => _ = link.close_with_error(refusal.error()).await,
    }
}
