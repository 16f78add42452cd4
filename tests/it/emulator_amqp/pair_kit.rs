//! A device's end of a link pair, as SDKs attach it: for methods or for the twin.

use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::annotations::{AnnotationKey, OwnedKey};
use fe2o3_amqp_types::messaging::{
    Annotations, Batch, Body, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Value};

use super::kit::within;

pub(super) const CORRELATION: &str = "com.microsoft:channel-correlation-id";

/// Both links of a pair.
pub(super) struct PairLinks {
    pub(super) to_hub: Sender,
    pub(super) from_hub: Receiver,
}

pub(super) fn properties(correlation: &str) -> Fields {
    let mut properties = Fields::new();
    properties.insert(Symbol::from(CORRELATION), Value::from(correlation));
    properties
}

pub(super) async fn sender(session: &mut SessionHandle<()>, address: &str, id: &str) -> Sender {
    let builder =
        Sender::builder().name(format!("{id}-to-hub-{address}")).target(address).properties(properties(id));
    within(builder.attach(session)).await.unwrap()
}

pub(super) async fn receiver(session: &mut SessionHandle<()>, address: &str, id: &str) -> Receiver {
    let builder = Receiver::builder()
        .name(format!("{id}-from-hub-{address}"))
        .source(address)
        .properties(properties(id));
    within(builder.attach(session)).await.unwrap()
}

pub(super) async fn pair(session: &mut SessionHandle<()>, address: &str, id: &str) -> PairLinks {
    PairLinks { to_hub: sender(session, address, id).await, from_hub: receiver(session, address, id).await }
}

pub(super) async fn twin_pair(session: &mut SessionHandle<()>, device: &str, id: &str) -> PairLinks {
    pair(session, &format!("/devices/{device}/twin"), id).await
}

/// A twin request as SDKs write it.
pub(super) fn twin_request(
    id: impl Into<MessageId>,
    operation: &str,
    resource: Option<&str>,
    body: &str,
) -> Message<Body<Value>> {
    let mut annotations = Annotations::new();
    annotations.insert(OwnedKey::from("operation"), Value::from(operation));
    if let Some(resource) = resource {
        annotations.insert(OwnedKey::from("resource"), Value::from(resource));
    }
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(MessageAnnotations(annotations)),
        properties: Some(Properties::builder().correlation_id(id).build()),
        application_properties: None,
        body: Body::Data(Batch::new(vec![Data(Binary::from(body.as_bytes().to_vec()))])),
        footer: None,
    }
}

pub(super) fn annotation(message: &Message<Body<Value>>, name: &str) -> Option<Value> {
    message.message_annotations.as_ref()?.0.get(&name as &dyn AnnotationKey).cloned()
}

pub(super) fn correlation(message: &Message<Body<Value>>) -> Option<MessageId> {
    message.properties.as_ref()?.correlation_id.clone()
}

/// The body, which must be a data section.
pub(super) fn data_of(message: Message<Body<Value>>) -> Vec<u8> {
    match message.body {
        Body::Data(parts) => parts.into_iter().flat_map(|Data(part)| part.into_vec()).collect(),
        other => panic!("no data: {other:?}"),
    }
}

impl PairLinks {
    /// Sends a twin request and gives status, version and body of the reply.
    pub(super) async fn ask(
        &mut self,
        operation: &str,
        resource: Option<&str>,
        body: &str,
    ) -> (i32, Option<i64>, serde_json::Value) {
        let id = uuid::Uuid::new_v4().to_string();
        within(self.to_hub.send(twin_request(id.clone(), operation, resource, body))).await.unwrap();
        let reply = self.next().await;
        assert_eq!(correlation(&reply), Some(MessageId::String(id)));
        self::status(reply)
    }

    pub(super) async fn next(&mut self) -> Message<Body<Value>> {
        within(self.from_hub.recv::<Body<Value>>()).await.unwrap().into_message()
    }
}

/// Status, which must be an AMQP int, version, and body.
pub(super) fn status(reply: Message<Body<Value>>) -> (i32, Option<i64>, serde_json::Value) {
    let Some(Value::Int(status)) = annotation(&reply, "status") else { panic!("no status: {reply:?}") };
    let version = annotation(&reply, "version").map(|version| match version {
        Value::Long(version) => version,
        other => panic!("no version: {other:?}"),
    });
    let body = data_of(reply);
    let body = if body.is_empty() { serde_json::Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (status, version, body)
}
