"""A device's whole life at the emulator, with Microsoft's device SDK and service SDK for Node."""

import json
import unittest

from with_emulator import WithEmulator


class DeviceLife(WithEmulator, unittest.TestCase):
    """Over each of the two transports."""

    options = ["--feedback-delay", "500ms"]

    def test_over_amqp(self):
        self.check("amqp", web_sockets=0)

    def test_over_web_socket(self):
        # It comes twice.
        self.check("amqp_ws", web_sockets=2)

    def check(self, transport, web_sockets):
        said = self.node("sdk/life.mjs", transport)
        self.assertEqual(said["webSockets"], web_sockets)
        device = f"life-{transport}"
        self.assertEqual(said["telemetry"], "MessageEnqueued")
        (event,) = self.read(self.ready["hubs"][0], 1)
        self.assertEqual(event.system_properties[b"iothub-connection-device-id"].decode(), device)
        self.assertEqual((event.message_id, json.loads(event.body_as_str())), ("event-1", {"battery": 71}))
        self.check_messages(said, device)
        self.check_methods(said)
        self.check_twin(said)
        self.assertEqual((said["closed"], said["gone"]), ("Disconnected", "DeviceNotOnline"))
        self.assertEqual(said["missed"], {"messageId": "c2d-4", "interval": 90, "feedback": "Success"})

    def check_messages(self, said, device):
        got = [(one["messageId"], one["body"], one["count"]) for one in said["messages"]]
        self.assertEqual(got, [
            ("c2d-1", "Grüß Gott", 0),
            ("c2d-2", '{"again":true}', 0),
            ("c2d-2", '{"again":true}', 1),
            ("c2d-3", "unwanted", 0),
        ])
        self.assertEqual({one["colour"] for one in said["messages"]}, {"green"})
        self.assertEqual(said["feedback"], [
            ["c2d-1", device, "Success"],
            ["c2d-2", device, "Success"],
            ["c2d-3", device, "Rejected"],
        ])
        self.assertEqual(said["unknown"], "DeviceNotFoundError")
        self.assertEqual(said["full"], "DeviceMaximumQueueDepthExceededError")

    def check_methods(self, said):
        # The SDK has no name for this one.
        self.assertEqual(said["offline"], "DeviceNotOnline")
        self.assertEqual(said["method"], {"status": 207, "payload": {"after": 5, "by": "reboot"}})
        self.assertEqual(said["unanswered"], "GatewayTimeoutError")

    def check_twin(self, said):
        self.assertEqual(said["desired"], [
            {"$version": 1},
            {"$version": 2, "interval": 60, "limits": {"high": 30}},
            {"$version": 3, "limits": None},
        ])
        twin = said["twin"]
        self.assertEqual(twin["tags"], {"site": "roof"})
        self.assertEqual((twin["desired"]["interval"], twin["desired"]["$version"]), (60, 3))
        self.assertNotIn("limits", twin["desired"])
        reported = twin["reported"]
        self.assertEqual((reported["battery"], reported["mode"], reported["$version"]), (71, {"eco": True}, 2))
        self.assertIn("$lastUpdated", reported["$metadata"]["mode"]["eco"])
        self.assertEqual(said["stale"], "InvalidEtagError")


if __name__ == "__main__":
    unittest.main()
