//! Every key: where it stands, how it is judged, which range it has and why. The one list of keys there is.
//!
//! Defaults stand in `sections`; rules over several keys in `rules`.

use std::time::Duration;

use super::problems::Fault;
use super::sections::{
    Admin, Application, Azure, Config, Devices, Dps, IotHub, Log, LogFormat, Shutdown, Spool,
    TelemetryFormat, TelemetrySection, ThingsStack, ThingsStackApplication, Transport, Uplink, Webhook,
};
use super::sections_backfill::Backfill;
use super::table::Table;
use super::{forms, forms_downlink, parse, schema_downlink};
use crate::azure::{ConnectionString, Tier};

pub(super) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) const fn minutes(n: u64) -> Duration {
    seconds(n * 60)
}

pub(super) const fn days(n: u64) -> Duration {
    minutes(n * 24 * 60)
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Reads all sections.
pub(super) fn read(root: &mut Table<'_, '_>) -> Config {
    Config {
        webhook: root.table("webhook", webhook),
        spool: root.table("spool", spool),
        uplink: root.table("uplink", uplink),
        azure: root.table("azure", azure),
        devices: root.table("devices", devices),
        things_stack: root.table("things_stack", things_stack),
        backfill: root.table("backfill", backfill),
        downlink: root.table("downlink", schema_downlink::downlink),
        twin: root.table("twin", schema_downlink::twin),
        telemetry: root.table("telemetry", telemetry),
        admin: root.table("admin", admin),
        log: root.table("log", log),
        shutdown: root.table("shutdown", shutdown),
    }
}

fn webhook(table: &mut Table<'_, '_>) -> Webhook {
    let default = Webhook::default();
    let body = parse::size(
        16 * KIB,
        64 * MIB,
        "an uplink heard by many gateways takes 16 KiB, and every body is held in memory",
    );
    let wait = parse::duration(Duration::ZERO, minutes(5), "a waiting answer holds a connection");
    let read = parse::duration(seconds(1), minutes(10), "a slow client holds a connection");
    let connections = parse::number(1, 65_536, "each takes a file descriptor");
    Webhook {
        listen: table.value("listen", default.listen, parse::listen),
        secrets: table.secrets("secrets", "secrets_file"),
        max_body_bytes: table.value("max_body_bytes", default.max_body_bytes, body),
        max_wait: table.value("max_wait", default.max_wait, wait),
        read_timeout: table.value("read_timeout", default.read_timeout, read),
        max_connections: table.value("max_connections", default.max_connections, connections),
    }
}

fn spool(table: &mut Table<'_, '_>) -> Spool {
    let default = Spool::default();
    let bytes = parse::size(MIB, TIB, "less fills up within seconds of a hub's absence");
    let messages = parse::number(100, 100_000_000, "each takes memory and an index entry on disk");
    let window =
        parse::duration(Duration::ZERO, days(7), "every uplink within the window is remembered on disk");
    let parked_messages = parse::number(1, 10_000_000, "people look at parked messages");
    let parked_bytes = parse::size(MIB, TIB, "less holds only a few messages");
    let memory = parse::size(MIB, 16 * GIB, "less makes every body be read back from disk");
    Spool {
        directory: table.value("directory", default.directory, parse::path),
        max_bytes: table.value("max_bytes", default.max_bytes, bytes),
        max_messages: table.value("max_messages", default.max_messages, messages),
        dedup_window: table.value("dedup_window", default.dedup_window, window),
        parked_max_messages: table.value("parked_max_messages", default.parked_max_messages, parked_messages),
        parked_max_bytes: table.value("parked_max_bytes", default.parked_max_bytes, parked_bytes),
        memory_bytes: table.value("memory_bytes", default.memory_bytes, memory),
    }
}

fn uplink(table: &mut Table<'_, '_>) -> Uplink {
    let default = Uplink::default();
    let initial =
        parse::duration(Duration::from_millis(10), minutes(10), "a hub that just refused needs a moment");
    let longest = parse::duration(
        Duration::from_millis(10),
        minutes(60),
        "a device should resume soon after its hub returns",
    );
    let in_flight = parse::number(1, 65_536, "each holds its body in memory until the hub answers");
    let timeout = parse::duration(seconds(1), minutes(10), "IoT Hub answers within seconds or not at all");
    Uplink {
        retry_initial: table.value("retry_initial", default.retry_initial, initial),
        retry_max: table.value("retry_max", default.retry_max, longest),
        max_in_flight: table.value("max_in_flight", default.max_in_flight, in_flight),
        send_timeout: table.value("send_timeout", default.send_timeout, timeout),
    }
}

fn azure(table: &mut Table<'_, '_>) -> Azure {
    let default = Azure::default();
    let rate = parse::number(1, 10_000, "the largest hubs take 6000 a second for each unit");
    let units = parse::number(1, 200, "Azure sells no more for one hub");
    let relocate = parse::duration(seconds(1), days(1), "a hub's short absence is no reason to ask DPS");
    let transport = parse::choice(&[("amqp", Transport::Amqp), ("amqp_ws", Transport::AmqpWs)]);
    let token = parse::duration(
        minutes(1),
        days(30),
        "shorter ones are renewed all the time, longer ones live on after a leak",
    );
    let keep_alive = parse::duration(
        seconds(1),
        seconds(110),
        "IoT Hub drops a connection after 240 s of silence, and we stay under half of it",
    );
    let connect = parse::duration(seconds(1), minutes(5), "TCP, TLS and AMQP open within seconds");
    let devices = parse::number(1, 995, "IoT Hub refuses more than 995 devices on one connection");
    let share = parse::number(1, 995, "more devices than a connection takes can't share one of its sessions");
    Azure {
        transport: table.value("transport", default.transport, transport),
        amqp_port: table.value("amqp_port", default.amqp_port, parse::port),
        websocket_port: table.value("websocket_port", default.websocket_port, parse::port),
        ca_file: table.optional("ca_file", forms::ca_file),
        proxy: table.secret("proxy", "proxy_file", forms::proxy).map(|proxy| proxy.reveal().to_owned()),
        token_lifetime: table.value("token_lifetime", default.token_lifetime, token),
        keep_alive: table.value("keep_alive", default.keep_alive, keep_alive),
        connect_timeout: table.value("connect_timeout", default.connect_timeout, connect),
        max_devices_per_connection: table.value(
            "max_devices_per_connection",
            default.max_devices_per_connection,
            devices,
        ),
        max_devices_per_session: table.value(
            "max_devices_per_session",
            default.max_devices_per_session,
            share,
        ),
        tier: table.optional("tier", parse::choice(&Tier::ALL)),
        units: table.value("units", default.units, units),
        attach_rate: table.optional("attach_rate", rate),
        relocate_after: table.value("relocate_after", default.relocate_after, relocate),
        model_id: table.optional("model_id", forms::model_id),
        iot_hub: table.table("iot_hub", iot_hub),
        dps: table.table("dps", dps),
        applications: table.tables("applications", forms::things_stack_id, application),
    }
}

fn application(table: &mut Table<'_, '_>) -> Application {
    Application {
        model_id: table.optional("model_id", forms::model_id),
        iot_hub: table.table("iot_hub", iot_hub),
        dps: table.table("dps", dps),
    }
}

fn iot_hub(table: &mut Table<'_, '_>) -> IotHub {
    let check = |text: &str| {
        let fix =
            "copy it whole from the Azure portal, from \"Shared access policies\" or from the device's page";
        ConnectionString::parse(text)
            .map(|_| ())
            .map_err(|error| Fault::new(format!("no connection string: {error}"), fix))
    };
    IotHub { connection_string: table.secret("connection_string", "connection_string_file", check) }
}

fn dps(table: &mut Table<'_, '_>) -> Dps {
    Dps {
        id_scope: table.optional("id_scope", forms::id_scope),
        group_enrollment_key: table.secret(
            "group_enrollment_key",
            "group_enrollment_key_file",
            forms::group_key,
        ),
        endpoint: table.optional("endpoint", forms::dps_endpoint),
    }
}

fn devices(table: &mut Table<'_, '_>) -> Devices {
    let default = Devices::default();
    let idle =
        parse::duration(seconds(10), days(7), "opening a session again costs IoT Hub's quota of connects");
    let assignment = parse::duration(minutes(1), days(365), "DPS allows few registrations a minute");
    let negative = parse::duration(
        seconds(1),
        minutes(60),
        "DPS allows few registrations a minute, and a device just created should work soon",
    );
    let registrations = parse::number(1, 256, "DPS allows some hundred operations a minute");
    Devices {
        hub_id: table.value("hub_id", default.hub_id, forms::hub_id),
        idle_timeout: table.value("idle_timeout", default.idle_timeout, idle),
        assignment_ttl: table.value("assignment_ttl", default.assignment_ttl, assignment),
        negative_ttl: table.value("negative_ttl", default.negative_ttl, negative),
        max_registrations: table.value("max_registrations", default.max_registrations, registrations),
    }
}

fn things_stack(table: &mut Table<'_, '_>) -> ThingsStack {
    let default = ThingsStack::default();
    let timeout = parse::duration(seconds(1), seconds(50), "the hub holds a message for one minute");
    let in_flight = parse::number(1, 1024, "each is a connection to The Things Stack");
    ThingsStack {
        base_url: table.optional("base_url", forms::base_url),
        allowed_hosts: table.value("allowed_hosts", default.allowed_hosts, forms_downlink::hosts),
        request_timeout: table.value("request_timeout", default.request_timeout, timeout),
        max_in_flight: table.value("max_in_flight", default.max_in_flight, in_flight),
        applications: table.tables("applications", forms::things_stack_id, things_stack_application),
    }
}

fn things_stack_application(table: &mut Table<'_, '_>) -> ThingsStackApplication {
    ThingsStackApplication {
        api_key: table.secret("api_key", "api_key_file", forms::api_key),
        webhook_id: table.optional("webhook_id", forms::webhook_id),
        backfill: table.optional("backfill", parse::boolean).unwrap_or_default(),
    }
}

fn backfill(table: &mut Table<'_, '_>) -> Backfill {
    let default = Backfill::default();
    let rate = parse::number(1, 1000, "an S1 hub takes 100 messages a second, live ones among them");
    let window = parse::duration(
        minutes(10),
        days(30),
        "The Things Stack keeps uplinks for 30 days at most, and each received in this time is remembered on disk",
    );
    let delay = parse::duration(
        Duration::ZERO,
        minutes(60),
        "the Storage Integration writes in batches, and a webhook may still bring what seems missing",
    );
    Backfill {
        rate: table.value("rate", default.rate, rate),
        window: table.value("window", default.window, window),
        delay: table.value("delay", default.delay, delay),
    }
}

fn telemetry(table: &mut Table<'_, '_>) -> TelemetrySection {
    let formats = parse::choice(&[
        ("connector", TelemetryFormat::Connector),
        ("things_stack", TelemetryFormat::ThingsStack),
        ("decoded", TelemetryFormat::Decoded),
    ]);
    TelemetrySection { format: table.value("format", TelemetryFormat::default(), formats) }
}

fn admin(table: &mut Table<'_, '_>) -> Admin {
    Admin { listen: table.value("listen", Admin::default().listen, parse::listen) }
}

fn log(table: &mut Table<'_, '_>) -> Log {
    let default = Log::default();
    Log {
        format: table.value(
            "format",
            default.format,
            parse::choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        ),
        level: table.value("level", default.level, forms::log_level),
    }
}

fn shutdown(table: &mut Table<'_, '_>) -> Shutdown {
    let grace =
        parse::duration(Duration::ZERO, minutes(10), "what is not sent by then stays safe in the spool");
    Shutdown { grace: table.value("grace", Shutdown::default().grace, grace) }
}
