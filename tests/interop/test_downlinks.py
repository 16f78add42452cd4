"""From Microsoft's service SDK through emulator and connector to the emulated Things Stack, and back."""

import json
import unittest
import uuid

from support import Connector, ThingsStack, wait_until
from with_emulator import BackEnd, WithEmulator

APPLICATION = "vineyard"
DEVICE = "cellar-climate-01"


class Downlinks(WithEmulator, unittest.TestCase):
    """One emulator, connector and back end for each test, and one device that sent its first uplink."""

    options = ["--feedback-delay", "200ms"]

    def setUp(self):
        super().setUp()
        self.stack = ThingsStack(self.ready, APPLICATION)
        self.connector = self.start_connector()
        self.stack.post_to(self.connector)
        self.back_end = BackEnd(self.folder.path / "emulator" / "ready.json", self.ready["caFile"])
        self.addCleanup(self.back_end.stop)
        self.uplinks = 0
        self.stack.formatter(DEVICE)
        self.uplink(decoded_payload={"temperature": 12.5})
        # It came into being by DPS, and its links are open.
        self.until(lambda: self.back_end.invoke(DEVICE, "downlinkQueue", {}), lambda got: got[0] == 200)

    def start_connector(self, webhook_port=None):
        connector = Connector(self.folder.path, {
            "azure.amqp_port": self.ready["hubs"][0]["amqpPort"],
            "azure.ca_file": self.ready["caFile"],
            "azure.dps.endpoint": self.ready["dpsEndpoint"],
            "azure.dps.id_scope": self.ready["idScope"],
            "azure.dps.group_enrollment_key": self.ready["groupEnrollmentKey"],
            "downlink.port": 30,
            "downlink.methods.defrost.port": 11,
            "downlink.methods.defrost.confirmed": "true",
            "downlink.methods.defrost.payload": '{"minutes": 20}',
            "downlink.properties.setpoint.port": 21,
            "downlink.properties.setpoint.confirmed": "true",
            "twin.min_interval": "1s",
            **self.stack.settings(),
        }, webhook_port)
        self.addCleanup(connector.stop)
        return connector

    def until(self, ask, enough):
        """Asks until the answer is enough; returns it."""
        last = []

        def look():
            last[:] = [ask()]
            return enough(last[0])

        try:
            wait_until(look, "what the test waits for")
        except AssertionError as failed:
            said = f"{failed}: {last}{self.connector.output()}{self.emulator.output()}"
            raise AssertionError(said) from None
        return last[0]

    def uplink(self, **uplink):
        self.uplinks += 1
        self.stack.uplink(DEVICE, **uplink)

    def queue(self):
        """FPort, payload and whether confirmed of each downlink that waits at The Things Stack."""
        queued = self.stack.queue(DEVICE)
        return [(one["f_port"], one.get("frm_payload"), one.get("confirmed", False)) for one in queued]

    def reports(self, number):
        """Reads all telemetry; state, correlation id and reason of the reports, of which there must be so many."""
        events = self.read(self.ready["hubs"][0], self.uplinks + number)
        found = []
        for event in events:
            properties = {name.decode(): value.decode() for name, value in event.properties.items()}
            if properties.get("kind") != "downlink":
                continue
            body = json.loads(event.body_as_str())
            self.assertEqual(event.system_properties[b"iothub-connection-device-id"].decode(), DEVICE)
            self.assertEqual((body["DeviceID"], body["ApplicationID"]), (DEVICE, APPLICATION))
            # In the body, in the properties for routes, and in AMQP's own place.
            self.assertEqual(properties["State"], body["State"])
            self.assertEqual(properties["CorrelationId"], body["CorrelationId"])
            self.assertEqual(event.correlation_id, body["CorrelationId"])
            found.append((body["State"], body["CorrelationId"], body.get("Reason")))
        self.assertEqual(len(found), number, found)
        return found

    def play_to_the_ack(self):
        """An uplink after which a confirmed downlink is sent, and one that acknowledges it."""
        self.uplink()
        self.uplink()

    def reported(self, name, code):
        """Waits until a desired property is acknowledged with this code; returns the whole of the reported ones."""
        twin = self.until(
            lambda: self.back_end.ask("twin", device=DEVICE)["reported"],
            lambda reported: reported.get(name, {}).get("ac") == code)
        ack = twin[name]
        self.assertEqual(set(ack), {"value", "ac", "ad", "av"})
        return twin

    def test_a_confirmed_message_gives_one_downlink_and_its_sender_hears_of_it_to_the_end(self):
        sent = self.back_end.send(DEVICE, "c2d-1", "AQI=", Port="10", Confirmed="true", Priority="High")
        self.assertEqual(sent, "MessageEnqueued")
        # Once it is queued the message is complete, not when the device answers.
        self.assertEqual(self.back_end.feedback()[:2], ("c2d-1", "Success"))
        self.assertEqual(self.queue(), [(10, "AQI=", True)])
        self.assertEqual(self.stack.sent(DEVICE), [])
        self.play_to_the_ack()
        states = [("queued", "c2d-1", None), ("sent", "c2d-1", None), ("ack", "c2d-1", None)]
        self.assertEqual(self.reports(3), states)
        self.assertEqual(self.queue(), [])
        self.assertEqual(len(self.stack.sent(DEVICE)), 1)

    def test_a_message_id_that_is_a_uuid_stays_the_same_all_the_way(self):
        # The SDK sends text that looks like one as AMQP's own type.
        message_id = str(uuid.uuid4())
        self.back_end.send(DEVICE, message_id, "0102", port="10", ENCODING="hex")
        self.assertEqual(self.back_end.feedback()[:2], (message_id, "Success"))
        self.assertEqual(self.queue(), [(10, "AQI=", False)])
        self.assertEqual(self.reports(1), [("queued", message_id, None)])

    def test_a_message_that_is_no_downlink_is_rejected_with_the_reason(self):
        self.back_end.send(DEVICE, "c2d-1", "AQI=", Port="224")
        message_id, status, description = self.back_end.feedback()
        self.assertEqual((message_id, status), ("c2d-1", "Rejected"))
        self.assertIn("Port", description)
        self.assertEqual(self.queue(), [])
        self.assertEqual(self.reports(1), [("rejected", "c2d-1", description)])

    def test_a_known_device_gets_messages_after_a_restart_without_an_uplink(self):
        self.connector.stop()
        self.back_end.send(DEVICE, "c2d-away", "AQ==", Port="10")
        self.connector = self.start_connector(self.connector.webhook_port)
        self.assertEqual(self.back_end.feedback()[:2], ("c2d-away", "Success"))
        self.back_end.send(DEVICE, "c2d-back", "Ag==", Port="10")
        self.assertEqual(self.back_end.feedback()[:2], ("c2d-back", "Success"))
        self.assertEqual(self.queue(), [(10, "AQ==", False), (10, "Ag==", False)])
        self.assertEqual(self.reports(2), [("queued", "c2d-away", None), ("queued", "c2d-back", None)])

    def test_a_method_gives_one_downlink_and_its_caller_hears_of_it_to_the_end(self):
        payload = {"port": 12, "hex": "0304", "confirmed": True}
        status, reply = self.back_end.invoke(DEVICE, "downlink", payload)
        self.assertEqual((status, reply["status"]), (200, "queued"))
        self.assertEqual(self.queue(), [(12, "AwQ=", True)])
        self.play_to_the_ack()
        correlation = reply["correlationId"]
        states = [("queued", correlation, None), ("sent", correlation, None), ("ack", correlation, None)]
        self.assertEqual(self.reports(3), states)
        self.assertEqual(len(self.stack.sent(DEVICE)), 1)

    def test_a_method_can_wait_until_a_device_of_class_c_got_it(self):
        self.stack.class_c(DEVICE)
        status, reply = self.back_end.invoke(DEVICE, "downlink", {"port": 12, "hex": "03", "wait": "sent"})
        self.assertEqual((status, reply["status"]), (200, "sent"))
        self.assertEqual(len(self.stack.sent(DEVICE)), 1)

    def test_methods_by_name_and_those_that_read_and_empty_the_queue(self):
        status, named = self.back_end.invoke(DEVICE, "defrost", None)
        self.assertEqual((status, named["status"]), (200, "queued"))
        status, other = self.back_end.invoke(DEVICE, "downlink", {"port": 12, "payload": "AwQ="})
        self.assertEqual(status, 200)
        status, listed = self.back_end.invoke(DEVICE, "downlinkQueue", None)
        self.assertEqual(status, 200)
        self.assertEqual([(one["port"], one["confirmed"]) for one in listed["downlinks"]], [(11, True), (12, False)])
        self.assertEqual(listed["downlinks"][0]["decoded"], {"minutes": 20})
        self.assertEqual(len(self.queue()), 2)

        status, unknown = self.back_end.invoke(DEVICE, "open-sesame", {})
        self.assertEqual((status, unknown["status"]), (404, "unknownMethod"))
        self.assertEqual(set(unknown["methods"]), {"downlink", "downlinkQueue", "clearDownlinkQueue", "defrost"})
        status, invalid = self.back_end.invoke(DEVICE, "downlink", {"port": 12, "hex": "xy"})
        self.assertEqual((status, invalid["status"]), (400, "invalid"))

        status, cleared = self.back_end.invoke(DEVICE, "clearDownlinkQueue", None)
        self.assertEqual((status, cleared["status"]), (200, "cleared"))
        self.assertEqual(self.queue(), [])
        reports = [(state, correlation) for state, correlation, _ in self.reports(4)]
        ids = [named["correlationId"], other["correlationId"]]
        self.assertEqual(sorted(reports), sorted((state, one) for state in ("queued", "replaced") for one in ids))

    def test_a_device_that_the_connector_does_not_serve_is_not_online(self):
        self.assertEqual(self.back_end.invoke("nobody-knows-me", "downlink", {}), "DeviceNotFound")
        self.connector.stop()
        self.assertEqual(self.back_end.invoke(DEVICE, "downlinkQueue", {}), "DeviceNotOnline")

    def test_a_raw_downlink_as_desired_property_is_acknowledged_as_reported_one(self):
        raw = {"fPort": 14, "framePayload": "0506", "confirmed": True}
        version = self.back_end.ask("desire", device=DEVICE, properties={"rawDownlink": raw})
        ack = self.reported("rawDownlink", 202)["rawDownlink"]
        self.assertEqual((ack["value"], ack["av"]), (raw, version))
        self.assertEqual(self.queue(), [(14, "BQY=", True)])
        self.play_to_the_ack()
        ack = self.reported("rawDownlink", 200)["rawDownlink"]
        self.assertEqual((ack["value"], ack["av"]), (raw, version))
        states = [state for state, _, _ in self.reports(3)]
        self.assertEqual(states, ["queued", "sent", "ack"])
        self.assertEqual(len(self.stack.sent(DEVICE)), 1)

    def test_a_desired_property_that_is_no_downlink_is_refused_with_the_reason(self):
        self.back_end.ask("desire", device=DEVICE, properties={"rawDownlink": {"fPort": 14, "framePayload": "xy"}})
        ack = self.reported("rawDownlink", 400)["rawDownlink"]
        self.assertIn("framePayload", ack["ad"])
        self.assertEqual(self.queue(), [])

    def test_configured_and_decoded_properties_beside_what_the_last_uplink_said(self):
        desired = {"setpoint": 21.5, "decodedPayload": {"led": "blue"}, "note": "not for the device"}
        self.back_end.ask("desire", device=DEVICE, properties=desired)
        reported = self.reported("setpoint", 202)
        self.assertEqual(reported["setpoint"]["value"], 21.5)
        reported = self.reported("decodedPayloadAck", 202)
        self.assertEqual(reported["decodedPayloadAck"]["value"], {"led": "blue"})
        self.assertNotIn("note", reported)
        decoded = {one["f_port"]: one.get("decoded_payload") for one in self.stack.queue(DEVICE)}
        self.assertEqual(decoded, {21: {"setpoint": 21.5}, 30: {"led": "blue"}})
        # The first uplink's, until the next one.
        self.assertEqual(reported["decodedPayload"], {"temperature": 12.5})
        self.uplink(f_port=7, decoded_payload={"humidity": 81})
        reported = self.until(
            lambda: self.back_end.ask("twin", device=DEVICE)["reported"],
            lambda reported: reported.get("fPort") == 7)
        # Without the temperature: it is replaced, not merged.
        self.assertEqual(reported["decodedPayload"], {"humidity": 81})
        self.assertIn("lastSeenAt", reported)
        self.assertIn("devEui", reported)


if __name__ == "__main__":
    unittest.main()
