"""Microsoft's own SDKs against the emulator and against what the connector sent."""

import json
import unittest
from concurrent.futures import ThreadPoolExecutor

from support import Connector, payloads_with_telemetry
from with_emulator import WithEmulator


class MicrosoftSdks(WithEmulator, unittest.TestCase):
    """One emulator with two hubs for each test."""

    hubs = 2

    def check_device_sdk(self, transport, web_sockets):
        said = self.node("sdk/device.mjs", transport)
        self.assertEqual(said["sent"]["result"], "MessageEnqueued")
        self.assertEqual(said["refused"]["wrong"], "UnauthorizedError")
        self.assertEqual(said["refused"]["stranger"], "UnauthorizedError")
        # That the WebSocket was really used: one connection for each of the three clients.
        self.assertEqual(said["webSockets"], web_sockets)
        (event,) = self.read(self.ready["hubs"][0], 1)
        self.assertEqual(event.system_properties[b"iothub-connection-device-id"], f"node-{transport}".encode())
        self.assertEqual(json.loads(event.body_as_str()), {"temperature": 21.5, "place": "Zürich"})
        self.assertEqual(event.properties, {b"origin": b"sdk"})
        self.assertEqual(event.content_type, "application/json")
        self.assertEqual(event.message_id, "from-node")

    def test_the_node_device_sdk_over_amqp(self):
        self.check_device_sdk("amqp", web_sockets=0)

    def test_the_node_device_sdk_over_web_socket(self):
        self.check_device_sdk("amqp_ws", web_sockets=3)

    def test_the_node_registry_keeps_devices(self):
        said = self.node("sdk/registry.mjs", "node-registered")
        self.assertEqual(said["created"], {"deviceId": "node-registered", "status": "enabled"})
        self.assertEqual(said["again"], "DeviceAlreadyExistsError")
        self.assertTrue(said["sameKey"])
        self.assertTrue(said["keysMade"])
        self.assertEqual(said["updated"], {"status": "disabled", "sameKey": True})
        many = [f"node-registered-many-{number}" for number in (1, 2, 3)]
        self.assertTrue(said["added"])
        self.assertFalse(said["twice"]["isSuccessful"])
        (error,) = said["twice"]["errors"]
        self.assertEqual((error["deviceId"], error["errorCode"]), (many[0], "DeviceAlreadyExists"))
        self.assertTrue(said["changed"])
        self.assertEqual(said["list"], ["node-registered", *many])
        count = {"totalDeviceCount": 5, "enabledDeviceCount": 1, "disabledDeviceCount": 4}
        self.assertEqual(said["count"], count)
        self.assertEqual(said["pages"], [[many[1]], [many[2]]])
        self.assertEqual(said["floors"], [{"deviceId": many[2], "floor": 3}])
        self.assertEqual(said["broken"], "ArgumentError")
        self.assertTrue(said["removed"])
        self.assertEqual(said["gone"], "DeviceNotFoundError")
        self.assertEqual(said["wrongKey"], "UnauthorizedError")

    def test_the_node_provisioning_sdk_registers_and_the_device_sends_with_the_same_key(self):
        said = self.node("sdk/provision.mjs", "node-provisioned")
        self.assertEqual(said["assigned"]["device"], "node-provisioned")
        self.assertIn(said["assigned"]["hub"], [hub["hostName"] for hub in self.ready["hubs"]])
        self.assertEqual(said["sent"], "MessageEnqueued")
        self.assertEqual(said["refused"], "UnauthorizedError")

    def test_azure_eventhub_reads_what_the_connector_sent(self):
        connector = Connector(self.folder.path, {
            "azure.amqp_port": self.ready["hubs"][0]["amqpPort"],
            "azure.ca_file": self.ready["caFile"],
            "azure.dps.endpoint": self.ready["dpsEndpoint"],
            "azure.dps.id_scope": self.ready["idScope"],
            "azure.dps.group_enrollment_key": self.ready["groupEnrollmentKey"],
        })
        self.addCleanup(connector.stop)
        sent = {hub["hostName"]: {} for hub in self.ready["hubs"]}
        payloads = payloads_with_telemetry()
        # At once, because each new device waits a second for DPS.
        with ThreadPoolExecutor(len(payloads)) as pool:
            answers = list(pool.map(lambda payload: connector.post(payload.body), payloads))
        for payload, (status, text) in zip(payloads, answers):
            self.assertEqual(status, 200, f"{payload.name}: {text}{connector.output()}{self.emulator.output()}")
            sent[json.loads(text)["hub"]][payload.message_id] = payload
        for hub in self.ready["hubs"]:
            wanted = sent[hub["hostName"]]
            self.assertTrue(wanted, "DPS used one hub only")
            for event in self.read(hub, len(wanted)):
                payload = wanted.pop(event.message_id)
                with self.subTest(payload.name):
                    self.check_event(event, payload)
            self.assertEqual(wanted, {}, "not read back")

    def check_event(self, event, payload):
        properties = {name.decode(): value.decode() for name, value in event.properties.items()}
        self.assertIsNone(payload.difference(properties, event.body_as_str()))
        self.assertEqual(event.content_type, "application/json")
        self.assertEqual(event.raw_amqp_message.properties.content_encoding, b"utf-8")
        self.assertEqual(event.system_properties[b"iothub-connection-device-id"].decode(), payload.device)
        self.assertEqual(event.system_properties[b"iothub-message-source"], b"Telemetry")
        self.assertIsInstance(event.system_properties[b"iothub-enqueuedtime"], int)


if __name__ == "__main__":
    unittest.main()
