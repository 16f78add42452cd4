"""The connector's telemetry arrives the same at hubs built on two AMQP stacks that are not its own."""

import json
import unittest

from strict_hub import PROTON, RHEA, StrictHub, key
from support import payloads_with_telemetry


class Hub(StrictHub):
    """The tests, once for each hub: the classes below say which."""

    payloads = payloads_with_telemetry()
    device_ids = [payload.device for payload in payloads]

    def assert_sent(self, connector, payload):
        status, text = connector.post(payload.body)
        self.assertEqual(status, 200, f"{payload.name}: {text}{connector.output()}{self.hub.output()}")

    def test_every_payload_arrives_as_its_golden_file_says(self):
        connector = self.connector(self.policy())
        for payload in self.payloads:
            # Outside of the subtest: when one is not taken, the rest would only wait as long.
            self.assert_sent(connector, payload)
            got = self.hub.next_json("telemetry")
            with self.subTest(payload.name):
                self.assertEqual(got["device"], payload.device)
                self.assertEqual(got["messageId"], payload.message_id)
                self.assertIsNone(payload.difference(got["properties"], got["body"]))

    def test_a_single_device_s_connection_string_is_enough(self):
        payload = self.payloads[0]
        connector = self.connector(f"DeviceId={payload.device};SharedAccessKey={self.devices[payload.device]}")
        self.assert_sent(connector, payload)
        self.assertEqual(self.hub.next_json("telemetry")["device"], payload.device)

    def test_an_unknown_device_gets_404_and_holds_up_no_other(self):
        connector = self.connector(self.policy())
        stranger = json.loads(self.payloads[0].body)
        stranger["end_device_ids"]["device_id"] = "nobody-knows-me"
        status, text = connector.post(stranger)
        self.assertEqual(status, 404, f"{text}{connector.output()}{self.hub.output()}")
        self.assertEqual(self.hub.next_json("refused"), "Device nobody-knows-me not registered.")
        self.assert_sent(connector, self.payloads[0])

    def assert_refused_yet_safe(self, wrong, right):
        """With a wrong key nothing arrives; with the right one after a restart the same message does."""
        payload = self.payloads[0]
        connector = self.connector(wrong)
        status, text = connector.post(payload.body, wait=2)
        # Waiting or set aside: either way it is kept, and the next lines see it arrive.
        self.assertIn(status, (202, 502), f"{text}{connector.output()}{self.hub.output()}")
        self.assertEqual(self.hub.next_json("refused"), "the signature is wrong")
        connector.stop()
        if status == 502:
            connector.command("spool", "requeue", "--all")
        self.hub.forget()
        connector = self.connector(right)
        got = self.hub.next_json("telemetry")
        self.assertEqual(got["messageId"], payload.message_id, connector.output())

    def test_a_wrong_policy_key_is_refused_and_the_message_stays_safe(self):
        self.assert_refused_yet_safe(self.policy(key()), self.policy())

    def test_a_wrong_device_key_is_refused_and_the_message_stays_safe(self):
        device = self.payloads[0].device
        right = f"DeviceId={device};SharedAccessKey={self.devices[device]}"
        self.assert_refused_yet_safe(f"DeviceId={device};SharedAccessKey={key()}", right)


class RheaHub(Hub, unittest.TestCase):
    """rhea, for Node."""

    command = RHEA


class ProtonHub(Hub, unittest.TestCase):
    """Qpid Proton, in C."""

    command = PROTON


if __name__ == "__main__":
    unittest.main()
