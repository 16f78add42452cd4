//! The keys of `[downlink]` and `[twin]`: how each is judged, which range it has and why.

use std::time::Duration;

use super::parse;
use super::problems::Fault;
use super::schema::{days, minutes, seconds};
use super::sections_downlink::{Command, CompleteOn, Downlink, DownlinkApplication, DownlinkRoute, Twin};
use super::table::{Input, Table};
use super::{forms, forms_downlink};

/// IoT Hub drops a C2D message after two days at most, so no request comes again later than that.
const LONGEST_EXPIRY: Duration = days(30);

const ROUTES: [(&str, DownlinkRoute); 3] =
    [("c2d", DownlinkRoute::C2d), ("method", DownlinkRoute::Method), ("twin", DownlinkRoute::Twin)];

pub(super) fn downlink(table: &mut Table<'_, '_>) -> Downlink {
    let default = Downlink::default();
    let complete_on = parse::choice(&[
        ("queued", CompleteOn::Queued),
        ("sent", CompleteOn::Sent),
        ("confirmed", CompleteOn::Confirmed),
    ]);
    let expiry =
        parse::duration(minutes(1), LONGEST_EXPIRY, "a device of class A may be silent for hours or days");
    Downlink {
        routes: table.value("routes", default.routes, parse::choices(&ROUTES)),
        complete_on: table.value("complete_on", default.complete_on, complete_on),
        expiry: table.value("expiry", default.expiry, expiry),
        port: table.optional("port", f_port),
        methods: table.tables("methods", forms_downlink::method_name, command),
        properties: table.tables("properties", forms_downlink::property_name, command),
        applications: table.tables("applications", forms::things_stack_id, application),
    }
}

fn application(table: &mut Table<'_, '_>) -> DownlinkApplication {
    DownlinkApplication {
        routes: table.optional("routes", parse::choices(&ROUTES)),
        port: table.optional("port", f_port),
        methods: table.tables("methods", forms_downlink::method_name, command),
        properties: table.tables("properties", forms_downlink::property_name, command),
    }
}

fn command(table: &mut Table<'_, '_>) -> Command {
    Command {
        port: table.optional("port", f_port),
        confirmed: table.optional("confirmed", parse::boolean),
        priority: table.optional("priority", forms_downlink::priority),
        queue: table.optional("queue", forms_downlink::queue),
        payload: table.optional("payload", forms_downlink::payload),
    }
}

fn f_port(input: &Input<'_>) -> Result<u8, Fault> {
    parse::number(1, 223, "LoRaWAN's FPorts for applications")(input)
}

pub(super) fn twin(table: &mut Table<'_, '_>) -> Twin {
    let default = Twin::default();
    let interval = parse::duration(seconds(1), days(1), "the smallest hub takes 50 twin updates a second");
    let rate = parse::number(1, 250, "the largest hub takes 250 twin updates a second for each unit");
    Twin {
        reported: table.value("reported", default.reported, parse::boolean),
        min_interval: table.value("min_interval", default.min_interval, interval),
        max_rate: table.optional("max_rate", rate),
    }
}
