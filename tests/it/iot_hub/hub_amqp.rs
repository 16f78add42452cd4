//! The test hub's AMQP, on the AMQP crate's acceptor: sessions, token links, telemetry links, as scripted.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SessionAcceptor,
};
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{self, ErrorCondition, Role};
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Modified, Properties, TargetArchetype,
};
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::hub::{Answer, Door, Seen, State};
use super::inbound_hub::is_inbound;

/// Token statuses that stand for something else: no reply at all.
pub(super) const NO_REPLY: i32 = 0;
/// The token link is detached.
pub(super) const DETACH: i32 = -1;

impl State {
    pub(super) fn note(&self, seen: Seen) {
        self.seen.send_modify(|all| all.push(seen));
    }

    pub(super) fn longest_silence(&self) -> Duration {
        *self.longest_silence.lock().unwrap()
    }

    /// Carries bytes between client and engine until either ends.
    async fn pump<A, B>(&self, client: A, engine: B)
    where
        A: AsyncRead + AsyncWrite,
        B: AsyncRead + AsyncWrite,
    {
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_engine, mut to_engine) = tokio::io::split(engine);
        let inward = async {
            let mut buffer = vec![0; 32 * 1024];
            loop {
                let since = tokio::time::Instant::now();
                let count = from_client.read(&mut buffer).await.unwrap_or(0);
                // The pipe to the engine needs no flush.
                if count == 0 || to_engine.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
                let mut longest = self.longest_silence.lock().unwrap();
                *longest = longest.max(since.elapsed());
            }
        };
        let outward = async {
            let mut buffer = vec![0; 32 * 1024];
            loop {
                let count = from_engine.read(&mut buffer).await.unwrap_or(0);
                let lag = *self.lag.lock().unwrap();
                tokio::time::sleep(lag).await;
                if count == 0 || to_client.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
                _ = to_client.flush().await;
            }
            _ = to_client.shutdown().await;
        };
        tokio::select! {
            () = inward => {}
            () = outward => {}
        }
    }

    /// Waits until a connection has ended.
    pub(super) async fn wait_for_end(&self) {
        let gone = |seen: &Vec<Seen>| seen.iter().any(|seen| matches!(seen, Seen::Gone));
        self.seen.subscribe().wait_for(gone).await.unwrap();
    }

    /// Serves one connection over a stream that is past TLS, until it ends.
    pub(super) async fn serve<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The engine gets one end of a pipe, so that the real stream can be cut or frozen behind its back.
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (commands, mut orders) = mpsc::unbounded_channel();
        let number = {
            let mut all = self.commands.lock().unwrap();
            all.push(commands.clone());
            all.len() - 1
        };
        let (stop, mut stopped) = watch::channel(Answer::Accept);
        let mut tasks = JoinSet::new();
        let pumping = self.clone();
        tasks.spawn(async move {
            let pump = pumping.pump(stream, far);
            tokio::pin!(pump);
            tokio::select! {
                () = &mut pump => return,
                _ = stopped.changed() => {}
            }
            let freeze = matches!(*stopped.borrow(), Answer::Freeze);
            if freeze {
                std::future::pending::<()>().await;
            }
        });
        let mut builder = ConnectionAcceptor::builder().container_id("DeviceGateway_test").channel_max(8191);
        if let Some(idle_ms) = self.limits.idle_ms {
            builder = builder.idle_time_out(idle_ms);
        }
        let Ok(mut connection) = builder.build().accept(near).await else { return };
        self.note(Seen::Opened(number));
        let acceptor = SessionAcceptor::new();
        loop {
            tokio::select! {
                session = connection.next_incoming_session() => {
                    let Some(session) = session else { break };
                    let session = acceptor.accept_incoming_session(session, &mut connection).await.unwrap();
                    tasks.spawn(self.clone().session(number, session, commands.clone()));
                }
                Some(order) = orders.recv() => match order {
                    Answer::Close(condition) => {
                        _ = connection.close_with_error(error(condition)).await;
                        break;
                    }
                    Answer::Kill => {
                        stop.send(Answer::Kill).unwrap();
                        break;
                    }
                    Answer::Freeze => stop.send(Answer::Freeze).unwrap(),
                    other => panic!("{other:?} is no order for a connection"),
                }
            }
        }
        self.note(Seen::Gone);
        while tasks.join_next().await.is_some() {}
    }

    async fn session(
        self: Arc<Self>,
        number: usize,
        mut session: ListenerSessionHandle,
        commands: mpsc::UnboundedSender<Answer>,
    ) {
        let mut links = JoinSet::new();
        let (replies, mut reply_queue) = mpsc::unbounded_channel();
        let mut reply_queue_taken = false;
        let (end, mut ends) = mpsc::unbounded_channel::<&'static str>();
        loop {
            let attach = tokio::select! {
                attach = session.next_incoming_attach() => attach,
                Some(condition) = ends.recv() => {
                    _ = session.end_with_error(error(condition)).await;
                    break;
                }
            };
            let Some(attach) = attach else { break };
            let (address, properties) = described(&attach);
            let telemetry = address != "$cbs";
            if telemetry {
                self.note(Seen::Attached { connection: number, address: address.clone(), properties });
            }
            let door = if telemetry { (self.door.lock().unwrap())(address.clone()) } else { Door::Open };
            match door {
                Door::Open | Door::Refuse(_) => {}
                Door::Late(after) => tokio::time::sleep(after).await,
                Door::End(condition) => {
                    _ = session.end_with_error(error(condition)).await;
                    break;
                }
                Door::Silence => continue,
            }
            let acceptor = LinkAcceptor::builder().max_message_size(self.limits.max_message_bytes).build();
            let Ok(link) = acceptor.accept_incoming_attach(attach, &mut session).await else {
                break;
            };
            match (link, door) {
                (LinkEndpoint::Receiver(receiver), Door::Refuse(condition)) => {
                    _ = receiver.close_with_error(error(condition)).await;
                }
                (LinkEndpoint::Sender(sender), Door::Refuse(condition)) => {
                    _ = sender.close_with_error(error(condition)).await;
                }
                (LinkEndpoint::Receiver(receiver), _) if is_inbound(&address) => {
                    links.spawn(self.clone().from_device(address, receiver));
                }
                (LinkEndpoint::Sender(sender), _) if telemetry => {
                    links.spawn(self.clone().to_device(address, sender, end.clone()));
                }
                (LinkEndpoint::Receiver(receiver), _) if telemetry => {
                    let link = Telemetry { address, commands: commands.clone(), end: end.clone() };
                    links.spawn(self.clone().telemetry(link, receiver));
                }
                (LinkEndpoint::Receiver(receiver), _) => {
                    links.spawn(self.clone().tokens(number, receiver, replies.clone()));
                }
                (LinkEndpoint::Sender(sender), _) => {
                    assert!(!reply_queue_taken, "a second reply link");
                    reply_queue_taken = true;
                    let (_, empty) = mpsc::unbounded_channel();
                    links.spawn(answer_tokens(sender, std::mem::replace(&mut reply_queue, empty)));
                }
            }
        }
        self.note(Seen::Ended);
        while links.join_next().await.is_some() {}
    }

    async fn tokens(
        self: Arc<Self>,
        connection: usize,
        mut receiver: Receiver,
        replies: mpsc::UnboundedSender<(MessageId, i32, &'static str)>,
    ) {
        while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
            receiver.accept(&delivery).await.unwrap();
            let message = delivery.into_message();
            let properties = message.application_properties.unwrap();
            let text = |name: &str| match properties.0.get(name) {
                Some(SimpleValue::String(text)) => text.clone(),
                other => panic!("{name} is {other:?}"),
            };
            assert_eq!(text("operation"), "put-token");
            let Body::Value(AmqpValue(Value::String(token))) = message.body else { panic!("no token") };
            let audience = text("name");
            let (status, description) = (self.put.lock().unwrap())(audience.clone());
            self.note(Seen::Put { connection, audience, kind: text("type"), token });
            let id = message.properties.unwrap().message_id.unwrap();
            if status == DETACH {
                _ = receiver.close_with_error(error("amqp:link:detach-forced")).await;
                return;
            }
            if status != NO_REPLY {
                _ = replies.send((id, status, description));
            }
        }
        _ = receiver.close().await;
    }

    async fn telemetry(self: Arc<Self>, link: Telemetry, mut receiver: Receiver) {
        while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
            let answer = (self.answer.lock().unwrap())(link.address.clone());
            match &answer {
                Answer::Accept => receiver.accept(&delivery).await.unwrap(),
                Answer::Reject(condition) => receiver.reject(&delivery, error(condition)).await.unwrap(),
                Answer::RejectBare => receiver.reject(&delivery, None).await.unwrap(),
                Answer::Release => receiver.release(&delivery).await.unwrap(),
                Answer::Modify { undeliverable } => {
                    let modified = Modified {
                        delivery_failed: None,
                        undeliverable_here: Some(*undeliverable),
                        message_annotations: None,
                    };
                    receiver.modify(&delivery, modified).await.unwrap();
                }
                Answer::End(condition) => link.end.send(condition).unwrap(),
                Answer::Close(_) | Answer::Kill | Answer::Freeze => {
                    link.commands.send(answer.clone()).unwrap()
                }
                Answer::Silence | Answer::Detach(_) => {}
            }
            self.note(Seen::Got { message: Box::new(delivery.into_message()) });
            if let Answer::Detach(condition) = answer {
                _ = receiver.close_with_error(error(condition)).await;
                return self.note(Seen::Detached { address: link.address });
            }
        }
        _ = receiver.close().await;
        self.note(Seen::Detached { address: link.address });
    }
}

struct Telemetry {
    address: String,
    commands: mpsc::UnboundedSender<Answer>,
    end: mpsc::UnboundedSender<&'static str>,
}

async fn answer_tokens(
    mut sender: Sender,
    mut queue: mpsc::UnboundedReceiver<(MessageId, i32, &'static str)>,
) {
    while let Some((id, status, description)) = queue.recv().await {
        let message = Message::builder()
            .properties(Properties::builder().correlation_id(id).build())
            .application_properties(
                ApplicationProperties::builder()
                    .insert("status-code", SimpleValue::Int(status))
                    .insert("status-description", SimpleValue::String(description.to_owned()))
                    .build(),
            )
            .value(Value::Null)
            .build();
        if sender.send(message).await.is_err() {
            return;
        }
    }
    _ = sender.close().await;
}

fn described(attach: &Attach) -> (String, String) {
    let address = match attach.role {
        Role::Sender => match attach.target.as_deref() {
            Some(TargetArchetype::Target(target)) => target.address.clone(),
            None => None,
        },
        Role::Receiver => attach.source.as_ref().and_then(|source| source.address.clone()),
    };
    (address.unwrap_or_default(), format!("{:?}", attach.properties))
}

pub(super) fn error(condition: &str) -> definitions::Error {
    let condition = ErrorCondition::Custom(Symbol::from(condition));
    definitions::Error::new(condition, Some("said by the test hub".to_owned()), None)
}
