"""The connector's telemetry arrives the same at hubs built on two AMQP stacks that are not its own."""

import base64
import json
import os
import unittest

from support import NODE, Certificates, Connector, Folder, Process, payloads_with_telemetry, python

HUBS = {
    "rhea": lambda: ["node", str(NODE / "hubs/rhea_hub.mjs")],
    "proton": lambda: [python(), str(NODE / "hubs/proton_hub.py")],
}


def key():
    return base64.b64encode(os.urandom(32)).decode()


def device_of(body):
    return json.loads(body)["end_device_ids"]["device_id"]


class HubsOnOtherStacks(unittest.TestCase):
    """Each test runs once against each hub."""

    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.remove)
        self.certificates = Certificates(self.folder.path)
        self.payloads = payloads_with_telemetry()
        self.devices = {device_of(body): key() for _, body, _ in self.payloads}
        self.policy_key = key()

    def start_hub(self, stack):
        settings = {
            "host": "localhost",
            "cert": str(self.certificates.cert),
            "key": str(self.certificates.key),
            "policies": {"iothubowner": self.policy_key},
            "devices": self.devices,
        }
        hub = Process([*HUBS[stack](), json.dumps(settings)], name=f"{stack} hub")
        self.addCleanup(hub.stop)
        return hub, hub.next_json("listening")

    def start_connector(self, stack, port, connection_string):
        folder = self.folder.path / f"connector-{stack}-{len(connection_string)}"
        folder.mkdir(exist_ok=True)
        connector = Connector(folder, {
            "azure.amqp_port": port,
            "azure.ca_file": self.certificates.ca,
            "azure.iot_hub.connection_string": connection_string,
        })
        self.addCleanup(connector.stop)
        return connector

    def policy(self, secret):
        return f"HostName=localhost;SharedAccessKeyName=iothubowner;SharedAccessKey={secret}"

    def test_every_payload_arrives_as_its_golden_file_says(self):
        for stack in HUBS:
            with self.subTest(stack):
                hub, port = self.start_hub(stack)
                connector = self.start_connector(stack, port, self.policy(self.policy_key))
                for name, body, expected in self.payloads:
                    with self.subTest(name):
                        status, text = connector.post(body, {"Prefer": "wait=30"})
                        self.assertEqual(status, 200, f"{text}\n{connector.output()}\n{hub.output()}")
                        got = hub.next_json("telemetry")
                        self.assertEqual(got["device"], device_of(body))
                        self.assertEqual(got["messageId"], expected["messageId"])
                        self.assertEqual(got["properties"], expected["properties"])
                        self.assertEqual(json.loads(got["body"]), expected["body"])

    def test_a_single_device_s_connection_string_is_enough(self):
        name, body, _ = self.payloads[0]
        device = device_of(body)
        for stack in HUBS:
            with self.subTest(stack):
                hub, port = self.start_hub(stack)
                string = f"HostName=localhost;DeviceId={device};SharedAccessKey={self.devices[device]}"
                connector = self.start_connector(stack, port, string)
                status, text = connector.post(body, {"Prefer": "wait=30"})
                self.assertEqual(status, 200, f"{name}: {text}\n{connector.output()}\n{hub.output()}")
                self.assertEqual(hub.next_json("telemetry")["device"], device)

    def test_a_wrong_key_and_an_unknown_device_are_told_apart(self):
        _, body, _ = self.payloads[0]
        stranger = json.loads(body)
        stranger["end_device_ids"]["device_id"] = "nobody-knows-me"
        for stack in HUBS:
            with self.subTest(stack):
                _, port = self.start_hub(stack)
                right = self.start_connector(stack, port, self.policy(self.policy_key))
                status, text = right.post(stranger, {"Prefer": "wait=30"})
                self.assertEqual(status, 404, text)
                wrong = self.start_connector(f"{stack}-wrong", port, self.policy(key()))
                status, text = wrong.post(body, {"Prefer": "wait=5"})
                self.assertNotEqual(status, 200, text)


if __name__ == "__main__":
    unittest.main()
