//! What a link's address names. Pure text work; knows neither who asks nor whether it may.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::EVENT_HUB_NAME;

/// A node of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `$cbs`: tokens.
    Cbs,
    /// `$management`: what partitions there are.
    Management,
    /// `/devices/{id}/messages/events`.
    Telemetry(String),
    /// `/devices/{id}/messages/devicebound`: a device's cloud-to-device messages.
    CloudMessages(String),
    /// `/messages/devicebound`: where services send them.
    CloudSend,
    /// `/messages/serviceBound/feedback`.
    Feedback,
    /// `/messages/serviceBound/filenotifications`.
    FileNotifications,
    /// `/devices/{id}/methods/devicebound`.
    Methods(String),
    /// `/devices/{id}/twin`.
    Twin(String),
    /// `{event hub}/ConsumerGroups/{group}/Partitions/{n}`; `n` is not checked against the hub's partitions.
    Partition(usize),
    /// A node of a real hub that this one does not have (yet); the text says which.
    NotYet(&'static str),
    /// No such node at any hub.
    Unknown,
}

impl Address {
    /// Reads a path (`devices/…`, with or without a leading `/`) or a full URI (`amqps://host:5671/devices/…`).
    /// Letters of fixed words may be of any case; ids keep theirs and are percent-decoded.
    pub(super) fn parse(text: &str) -> Self {
        let path = path_of(text);
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let lower: Vec<String> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        match lower.as_slice() {
            ["$cbs"] => Self::Cbs,
            ["$management"] => Self::Management,
            ["devices", _, "messages", "events"] => of_device(segments[1], Self::Telemetry),
            ["devices", _, "messages", "devicebound"] => of_device(segments[1], Self::CloudMessages),
            ["devices", _, "methods", "devicebound"] => of_device(segments[1], Self::Methods),
            ["devices", _, "twin"] => of_device(segments[1], Self::Twin),
            ["devices", _, "modules", ..] => Self::NotYet("modules"),
            ["messages", "devicebound"] => Self::CloudSend,
            ["messages", "servicebound", "feedback"] => Self::Feedback,
            ["messages", "servicebound", "filenotifications"] => Self::FileNotifications,
            [hub, "consumergroups", _, "partitions", partition] if *hub == EVENT_HUB_NAME => {
                partition.parse().map_or(Self::Unknown, Self::Partition)
            }
            ["messages", "events", "consumergroups", _, "partitions", partition] => {
                partition.parse().map_or(Self::Unknown, Self::Partition)
            }
            _ => Self::Unknown,
        }
    }
}

/// A node of the device whose percent-encoded id is `segment`.
fn of_device(segment: &str, node: impl FnOnce(String) -> Address) -> Address {
    percent_decode_str(segment).decode_utf8().map_or(Address::Unknown, |id| node(id.into_owned()))
}

/// The address of a device's cloud-to-device messages, as `to` of a message names it.
pub(super) fn cloud_address(device_id: &str) -> String {
    format!("/devices/{}/messages/devicebound", utf8_percent_encode(device_id, NON_ALPHANUMERIC))
}

/// What follows the authority of a URI; a text that is no URI is a path already.
fn path_of(text: &str) -> &str {
    text.split_once("://").map_or(text, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::{Address, cloud_address};

    #[test]
    fn telemetry_is_found_in_every_spelling_that_clients_use() {
        for text in [
            "/devices/Dev-1/messages/events",
            "devices/Dev-1/messages/events",
            "/devices/Dev-1/messages/events/",
            "/Devices/Dev-1/Messages/Events",
            "amqps://localhost/devices/Dev-1/messages/events",
            "amqps://localhost:5671/devices/Dev%2D1/messages/events",
        ] {
            assert_eq!(Address::parse(text), Address::Telemetry("Dev-1".into()), "{text}");
        }
        let id = "amqps://h/devices/a%3Ab%25%40/messages/events";
        assert_eq!(Address::parse(id), Address::Telemetry("a:b%@".into()));
    }

    #[test]
    fn methods_and_twins_are_found_in_every_spelling_that_clients_use() {
        for text in [
            "/devices/Dev-1/methods/devicebound",
            "amqps://localhost:5671/devices/Dev%2D1/methods/deviceBound",
        ] {
            assert_eq!(Address::parse(text), Address::Methods("Dev-1".into()), "{text}");
        }
        for text in ["/devices/Dev-1/twin", "amqps://localhost/devices/Dev%2D1/twin/"] {
            assert_eq!(Address::parse(text), Address::Twin("Dev-1".into()), "{text}");
        }
        assert_eq!(Address::parse("/devices/%ff/twin"), Address::Unknown);
    }

    #[test]
    fn readers_find_their_partition_by_uri_and_by_path() {
        for text in [
            "amqps://localhost:5671/iothub-ehub-emulator/ConsumerGroups/$Default/Partitions/3",
            "iothub-ehub-emulator/consumergroups/other/partitions/3",
            "/messages/events/ConsumerGroups/$Default/Partitions/3",
        ] {
            assert_eq!(Address::parse(text), Address::Partition(3), "{text}");
        }
        assert_eq!(Address::parse("iothub-ehub-emulator/ConsumerGroups/a/Partitions/x"), Address::Unknown);
        assert_eq!(Address::parse("another-hub/ConsumerGroups/a/Partitions/0"), Address::Unknown);
    }

    #[test]
    fn nodes_that_are_missing_are_told_apart_from_nodes_that_never_were() {
        let module = "/devices/a/modules/m/messages/events";
        assert!(matches!(Address::parse(module), Address::NotYet(_)));
        for text in ["", "/", "amqps://localhost", "/devices/a", "/devices//messages/events", "queue"] {
            assert_eq!(Address::parse(text), Address::Unknown, "{text}");
        }
        assert_eq!(Address::parse("/devices/%ff/messages/events"), Address::Unknown);
    }

    #[test]
    fn the_nodes_of_cloud_to_device_messages_are_found_in_every_spelling() {
        for text in [
            "/devices/a%3Ab/messages/deviceBound",
            "devices/a:b/messages/devicebound",
            "amqps://localhost:5671/devices/a%3Ab/messages/devicebound",
        ] {
            assert_eq!(Address::parse(text), Address::CloudMessages("a:b".into()), "{text}");
        }
        assert_eq!(Address::parse(&cloud_address("a:b%")), Address::CloudMessages("a:b%".into()));
        assert_eq!(Address::parse("amqps://localhost:1/messages/devicebound"), Address::CloudSend);
        assert_eq!(Address::parse("/messages/serviceBound/feedback"), Address::Feedback);
        assert_eq!(Address::parse("/messages/serviceBound/filenotifications"), Address::FileNotifications);
    }

    #[test]
    fn the_two_service_nodes_are_known() {
        assert_eq!(Address::parse("$cbs"), Address::Cbs);
        assert_eq!(Address::parse("amqps://localhost:5671/$management"), Address::Management);
    }
}
