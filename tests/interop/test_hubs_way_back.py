"""The connector's links for the way back, served by hubs built on two AMQP stacks that are not its own."""

import unittest

from strict_hub import PROTON, RHEA, StrictHub
from support import Emulator, ThingsStack

DEVICE = "cellar-climate-01"
WAYS = {"c2d", "methods", "twin"}


class WayBack(StrictHub):
    """The tests, once for each hub: the classes below say which."""

    device_ids = [DEVICE]

    def setUp(self):
        super().setUp()
        emulator = Emulator(self.folder.path / "emulator")
        self.addCleanup(emulator.stop)
        self.stack = ThingsStack(emulator.ready, "vineyard")
        self.stack.formatter(DEVICE)
        settings = {**self.stack.settings(), "downlink.properties.interval.port": 20}
        self.running = self.connector(self.policy(), settings)
        self.stack.post_to(self.running)
        # The links are opened once the device is known.
        self.stack.uplink(DEVICE, decoded_payload={"temperature": 12.5})
        opened = {self.next("open")["way"] for _ in WAYS}
        self.assertEqual(opened, WAYS)

    def next(self, key):
        """What the hub says next of this kind."""
        try:
            return self.hub.next_json(key)
        except AssertionError as failed:
            raise AssertionError(f"{failed}{self.running.output()}") from None

    def send(self, message_id, body, **properties):
        """A cloud-to-device message; returns how it was answered."""
        self.hub.tell(c2d={"device": DEVICE, "id": message_id, "properties": properties, "body": body})
        outcome = self.next("outcome")
        self.assertEqual(outcome["id"], message_id)
        self.assertTrue(outcome["settled"])
        return outcome

    def call(self, method, payload):
        """A direct method; returns its reply."""
        self.hub.tell(method={"device": DEVICE, "name": method, "payload": payload})
        reply = self.next("reply")
        self.assertEqual(reply["name"], method)
        return reply["status"], reply["payload"]

    def payloads(self):
        """FPorts and payloads of the device's queue."""
        return [(queued["f_port"], queued.get("frm_payload")) for queued in self.stack.queue(DEVICE)]

    def test_a_message_is_accepted_once_its_downlink_is_queued(self):
        self.assertEqual(self.send("m-1", "AQI=", Port="10")["state"], "accepted")
        self.assertEqual(self.payloads(), [(10, "AQI=")])
        self.assertEqual(self.send("m-2", "0304", port="11", encoding="hex")["state"], "accepted")
        self.assertEqual(self.payloads(), [(10, "AQI="), (11, "AwQ=")])

    def test_a_message_that_is_handed_out_again_gives_no_second_downlink(self):
        self.assertEqual(self.send("m-1", "AQI=", Port="10")["state"], "accepted")
        self.hub.tell(detach={"device": DEVICE, "way": "c2d"})
        self.assertEqual(self.next("open")["way"], "c2d")
        # The hub lost the answer with its link.
        self.assertEqual(self.send("m-1", "AQI=", Port="10")["state"], "accepted")
        self.assertEqual(self.payloads(), [(10, "AQI=")])

    def test_an_invalid_message_is_rejected_with_its_reason(self):
        outcome = self.send("m-1", "AQI=", Port="224")
        self.assertEqual(outcome["state"], "rejected")
        self.assertIn("Port", outcome["description"])
        self.assertEqual(self.payloads(), [])
        # The link goes on.
        self.assertEqual(self.send("m-2", "AQI=", Port="10")["state"], "accepted")

    def test_a_method_with_a_uuid_is_answered_with_the_same_one(self):
        status, payload = self.call("downlink", {"port": 12, "hex": "0506"})
        self.assertEqual((status, payload["status"]), (200, "queued"))
        self.assertEqual(self.payloads(), [(12, "BQY=")])
        status, payload = self.call("nonsense", {})
        self.assertEqual((status, payload["status"]), (404, "unknownMethod"))

    def test_a_twin_is_subscribed_to_then_read_then_followed(self):
        asked = []
        while len(asked) < 2:
            operation = self.next("twin")["operation"]
            # The uplink is reported whenever its time comes.
            asked += [operation] if operation != "PATCH" else []
        self.assertEqual(asked, ["PUT", "GET"])
        self.hub.tell(desired={"device": DEVICE, "patch": {"interval": 60}})
        acknowledged = {}
        while "interval" not in acknowledged:
            acknowledged = self.next("reported")["patch"]
        ack = acknowledged["interval"]
        self.assertEqual((ack["value"], ack["ac"], ack["av"]), (60, 202, 2))
        self.assertEqual([port for port, _ in self.payloads()], [20])


class RheaHub(WayBack, unittest.TestCase):
    """rhea, for Node."""

    command = RHEA


class ProtonHub(WayBack, unittest.TestCase):
    """Qpid Proton, in C."""

    command = PROTON


if __name__ == "__main__":
    unittest.main()
