"""The connector's links for the way back, served by hubs built on two AMQP stacks that are not its own."""

import unittest

from strict_hub import DEVICE, PROTON, RHEA, StrictHubWithStack


class WayBack(StrictHubWithStack):
    """The tests, once for each hub: the classes below say which."""

    def call(self, method, payload):
        """A direct method; returns its reply."""
        self.hub.tell(method={"device": DEVICE, "name": method, "payload": payload})
        reply = self.next("reply")
        self.assertEqual(reply["name"], method)
        return reply["status"], reply["payload"]

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
