//! The `$management` node: tells readers what partitions there are and how far they reach.

use std::sync::Arc;

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp_types::primitives::{Array, OrderedMap, Timestamp, Value};

use super::EVENT_HUB_NAME;
use super::cbs::text_of;
use super::connection::Connection;
use super::requests::{self, Answer, Request};
use crate::emulator::Hub;
use crate::emulator::hub::PARTITIONS;

/// Answers requests until the link ends.
pub(super) async fn serve(link: Receiver, connection: Arc<Connection>, session: u64) {
    let read = |request: &Request| {
        let map = if connection.may_read() {
            answer(&connection.hub, request)
        } else {
            Err((401, "reading needs a token of policy service or iothubowner on this connection"))
        };
        match map {
            Ok(body) => Answer { status: 200, description: "OK".into(), body },
            Err((status, text)) => Answer { status, description: text.into(), body: Value::Null },
        }
    };
    requests::serve(link, &connection.management_replies, session, None, read).await;
}

/// The map asked for, or status and text.
fn answer(hub: &Hub, request: &Request) -> Result<Value, (i32, &'static str)> {
    let properties = request.application_properties.as_ref();
    let text = |name: &str| text_of(properties, name).unwrap_or_default();
    if !text("operation").eq_ignore_ascii_case("READ") {
        return Err((400, "the operation must be READ"));
    }
    if !text("name").eq_ignore_ascii_case(EVENT_HUB_NAME) {
        return Err((404, "there is no event hub of this name"));
    }
    match text("type") {
        "com.microsoft:eventhub" => Ok(event_hub(hub)),
        "com.microsoft:partition" => {
            let partition: Option<usize> = text("partition").parse().ok();
            let partition = partition.filter(|partition| *partition < PARTITIONS);
            partition.map(|partition| self::partition(hub, partition)).ok_or((404, "no such partition"))
        }
        _ => Err((400, "the type must be com.microsoft:eventhub or com.microsoft:partition")),
    }
}

fn event_hub(hub: &Hub) -> Value {
    let ids: Vec<Value> = (0..PARTITIONS).map(|partition| Value::String(partition.to_string())).collect();
    map([
        ("name", Value::from(EVENT_HUB_NAME)),
        ("type", Value::from("com.microsoft:eventhub")),
        ("created_at", Value::Timestamp(Timestamp::from(hub.created_ms()))),
        ("partition_count", Value::Int(i32::try_from(PARTITIONS).unwrap_or(i32::MAX))),
        ("partition_ids", Value::Array(Array::from(ids))),
    ])
}

fn partition(hub: &Hub, partition: usize) -> Value {
    let (first, end) = hub.bounds(partition);
    let last = hub.events(partition, end - 1, 1).pop();
    let last_number = last.as_ref().map_or(-1, |event| event.sequence_number);
    map([
        ("name", Value::from(EVENT_HUB_NAME)),
        ("type", Value::from("com.microsoft:partition")),
        ("partition", Value::String(partition.to_string())),
        ("begin_sequence_number", Value::Long(first)),
        ("last_enqueued_sequence_number", Value::Long(last_number)),
        ("last_enqueued_offset", Value::String(last_number.to_string())),
        (
            "last_enqueued_time_utc",
            Value::Timestamp(Timestamp::from(last.as_ref().map_or(0, |event| event.enqueued_ms))),
        ),
        ("is_partition_empty", Value::Bool(last.is_none())),
    ])
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries.into_iter().map(|(name, value)| (Value::from(name), value));
    Value::Map(entries.collect::<OrderedMap<Value, Value>>())
}
