//! The test hub's way back: cloud-to-device messages, methods and twins over a device's further links, as told.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Timestamp, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::hub::{Seen, State, TestHub};
use super::hub_amqp::error;

/// What the link from the hub to a device's address is to do.
#[derive(Debug)]
pub(super) enum Say {
    Message(Box<Message<Data>>),
    Detach(&'static str),
    End(&'static str),
}

/// The answer to a twin request.
#[derive(Clone, Debug)]
pub(super) enum TwinSays {
    Answer { status: i32, version: Option<i64>, body: String },
    Silence,
}

/// A twin of version 1 that takes every report as version 2.
pub(super) fn default_twin(operation: &str) -> TwinSays {
    match operation {
        "GET" => twin_answer(200, None, r#"{"desired":{"$version":1},"reported":{"$version":1}}"#),
        "PATCH" => twin_answer(204, Some(2), ""),
        _ => twin_answer(200, None, ""),
    }
}

pub(super) fn twin_answer(status: i32, version: Option<i64>, body: &str) -> TwinSays {
    TwinSays::Answer { status, version, body: body.to_owned() }
}

pub(super) fn is_inbound(address: &str) -> bool {
    address.ends_with("/devicebound") || address.ends_with("/twin")
}

impl TestHub {
    /// Sends a cloud-to-device message with this id and body.
    pub(super) fn send_c2d(&self, device_id: &str, id: &str) {
        let annotations = MessageAnnotations::builder()
            .insert("x-opt-sequence-number", Value::Ulong(7))
            .insert("iothub-enqueuedtime", Value::Timestamp(Timestamp::from_milliseconds(1_700_000_000_000)))
            .insert("iothub-deliverycount", Value::Ubyte(2))
            .insert("x-opt-lock-token", Value::String("token".into()));
        let mut properties = Properties::builder()
            .message_id(id.to_owned())
            .to(format!("/devices/{device_id}/messages/devicebound"))
            .build();
        properties.absolute_expiry_time = Some(Timestamp::from_milliseconds(1_700_000_060_000));
        let application = ApplicationProperties::builder()
            .insert("Port", SimpleValue::String("12".into()))
            .insert("confirmed", SimpleValue::Bool(true))
            .build();
        let message = Message::builder()
            .message_annotations(annotations.build())
            .properties(properties)
            .application_properties(application)
            .data(Binary::from(b"AQI=".to_vec()))
            .build();
        self.say(&c2d_address(device_id), Say::Message(Box::new(message)));
    }

    /// Calls a method.
    pub(super) fn call(&self, device_id: &str, name: &str, id: MessageId) {
        let mut properties = Properties::new();
        properties.correlation_id = Some(id);
        let application = ApplicationProperties::builder()
            .insert("IoThub-methodname", SimpleValue::String(name.to_owned()));
        let message = Message::builder()
            .properties(properties)
            .application_properties(application.build())
            .data(Binary::from(b"{\"a\":1}".to_vec()))
            .build();
        self.say(&methods_address(device_id), Say::Message(Box::new(message)));
    }

    /// Pushes a change of desired properties.
    pub(super) fn change(&self, device_id: &str, patch: &str) {
        let annotations =
            MessageAnnotations::builder().insert("resource", Value::String("/properties/desired".into()));
        let message = Message::builder()
            .message_annotations(annotations.build())
            .data(Binary::from(patch.as_bytes().to_vec()))
            .build();
        self.say(&twin_address(device_id), Say::Message(Box::new(message)));
    }

    /// Does something on the link to an address, which must be open.
    pub(super) fn say(&self, address: &str, say: Say) {
        self.state.inbound.lock().unwrap()[address].send(say).unwrap();
    }

    /// Answers twin requests: from operation and body.
    pub(super) fn on_twin(&self, script: impl FnMut((String, String)) -> TwinSays + Send + 'static) {
        *self.state.twin.lock().unwrap() = Box::new(script);
    }

    /// What became of cloud-to-device messages so far, as `id outcome`.
    pub(super) fn settled(&self) -> Vec<String> {
        let of = |seen| match seen {
            Seen::Settled { id, outcome, .. } => Some(format!("{id} {outcome}")),
            _ => None,
        };
        self.seen().into_iter().filter_map(of).collect()
    }

    /// What came over an address, in order.
    pub(super) fn came(&self, wanted: &str) -> Vec<Message<Body<Value>>> {
        let of = |seen| match seen {
            Seen::Came { address, message } if address == wanted => Some(*message),
            _ => None,
        };
        self.seen().into_iter().filter_map(of).collect()
    }

    /// The operations on a device's twin, in order.
    pub(super) fn twin_operations(&self, device_id: &str) -> Vec<String> {
        self.came(&twin_address(device_id)).iter().map(|message| text(message, "operation")).collect()
    }

    /// Waits until `count` links to an address were attached.
    pub(super) async fn wait_attached(&self, wanted: &str, count: usize) {
        self.wait(count, |seen| matches!(seen, Seen::Attached { address, .. } if address == wanted)).await;
    }

    /// How many links to an address were attached.
    pub(super) fn attached(&self, wanted: &str) -> usize {
        self.count(|seen| matches!(seen, Seen::Attached { address, .. } if address == wanted))
    }
}

pub(super) fn c2d_address(device_id: &str) -> String {
    format!("/devices/{device_id}/messages/devicebound")
}

pub(super) fn methods_address(device_id: &str) -> String {
    format!("/devices/{device_id}/methods/devicebound")
}

pub(super) fn twin_address(device_id: &str) -> String {
    format!("/devices/{device_id}/twin")
}

/// A message annotation that is a string.
pub(super) fn text(message: &Message<Body<Value>>, name: &str) -> String {
    use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
    let annotations = message.message_annotations.as_ref().unwrap();
    match annotations.0.get(&Symbol::from(name) as &dyn AnnotationKey) {
        Some(Value::String(text)) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

pub(super) fn data(message: &Message<Body<Value>>) -> String {
    let Body::Data(data) = &message.body else { panic!("body {:?}", message.body) };
    String::from_utf8(data.iter().next().unwrap().0.to_vec()).unwrap()
}

impl State {
    /// The link from the hub to the device: sends what it is told and writes down what the device makes of it.
    pub(super) async fn to_device(
        self: Arc<Self>,
        address: String,
        mut sender: Sender,
        end: mpsc::UnboundedSender<&'static str>,
    ) {
        let (says, mut orders) = mpsc::unbounded_channel();
        self.inbound.lock().unwrap().insert(address.clone(), says);
        let mut outcomes = JoinSet::new();
        loop {
            let order = tokio::select! {
                _ = sender.on_detach() => break,
                order = orders.recv() => order,
            };
            match order {
                None => break,
                Some(Say::Detach(condition)) => {
                    _ = sender.close_with_error(error(condition)).await;
                    return;
                }
                Some(Say::End(condition)) => end.send(condition).unwrap(),
                Some(Say::Message(message)) => {
                    let id = message.properties.as_ref().and_then(|properties| properties.message_id.clone());
                    let Ok(outcome) = sender.send_batchable(*message).await else { break };
                    let hub = self.clone();
                    if let Some(MessageId::String(id)) = id {
                        outcomes.spawn(async move {
                            if let Ok(outcome) = outcome.await {
                                let outcome = described(&outcome);
                                hub.note(Seen::Settled { id, outcome, at: Instant::now() });
                            }
                        });
                    }
                }
            }
        }
        _ = tokio::time::timeout(Duration::from_secs(1), sender.close()).await;
        while outcomes.join_next().await.is_some() {}
    }

    /// The link from the device to the hub: method replies and twin requests.
    pub(super) async fn from_device(self: Arc<Self>, address: String, mut receiver: Receiver) {
        while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
            receiver.accept(&delivery).await.unwrap();
            let message = delivery.into_message();
            self.note(Seen::Came { address: address.clone(), message: Box::new(message.clone()) });
            if address.ends_with("/twin") {
                self.answer_twin(&address, &message);
            }
        }
        _ = receiver.close().await;
    }

    fn answer_twin(&self, address: &str, request: &Message<Body<Value>>) {
        let says = (self.twin.lock().unwrap())((text(request, "operation"), data(request)));
        let TwinSays::Answer { status, version, body } = says else { return };
        let mut annotations = MessageAnnotations::builder().insert("status", Value::Int(status));
        if let Some(version) = version {
            annotations = annotations.insert("version", Value::Long(version));
        }
        let mut properties = Properties::new();
        properties.correlation_id = request.properties.as_ref().unwrap().correlation_id.clone();
        let message = Message::builder()
            .message_annotations(annotations.build())
            .properties(properties)
            .data(Binary::from(body.into_bytes()))
            .build();
        // The pair's other link is attached first, but may have been lost since: then nobody waits for this.
        if let Some(link) = self.inbound.lock().unwrap().get(address) {
            _ = link.send(Say::Message(Box::new(message)));
        }
    }
}

fn described(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted(_) => "accepted".to_owned(),
        Outcome::Released(_) => "released".to_owned(),
        Outcome::Rejected(rejected) => {
            let error = rejected.error.as_ref().unwrap();
            format!("rejected: {}", error.description.clone().unwrap_or_default())
        }
        Outcome::Modified(_) => "modified".to_owned(),
    }
}
