"""Microsoft's own SDKs against the emulator and against what the connector sent."""

import json
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

from azure.eventhub import EventHubConsumerClient, TransportType

from support import DEADLINE_S, Connector, Emulator, Folder, node, payloads_with_telemetry


class MicrosoftSdks(unittest.TestCase):
    """One emulator with two hubs for each test."""

    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.remove)
        self.emulator = Emulator(self.folder.path / "emulator", hubs=2)
        self.addCleanup(self.emulator.stop)
        self.ready = self.emulator.ready

    def node(self, script, *arguments):
        ready_file = self.folder.path / "emulator" / "ready.json"
        try:
            return node(script, ready_file, *arguments, env={"NODE_EXTRA_CA_CERTS": self.ready["caFile"]})
        except AssertionError as failed:
            raise AssertionError(f"{failed}{self.emulator.output()}") from None

    def read(self, hub, wanted):
        """Reads `wanted` events from a hub's Event Hub-compatible endpoint."""
        events, errors, enough = [], [], threading.Event()

        def on_event(_, event):
            events.append(event)
            if len(events) >= wanted:
                enough.set()

        def on_error(_, error):
            errors.append(error)
            enough.set()

        consumer = EventHubConsumerClient.from_connection_string(
            hub["eventHubConnectionString"],
            "$Default",
            # The SDK goes to 5671 whatever port the connection string names.
            custom_endpoint_address=f"sb://{hub['hostName']}:{hub['amqpPort']}",
            connection_verify=self.ready["caFile"],
            transport_type=TransportType.Amqp,
            retry_total=0,
            auth_timeout=DEADLINE_S,
        )
        arguments = {"on_event": on_event, "on_error": on_error, "starting_position": "-1"}
        reader = threading.Thread(target=consumer.receive, kwargs=arguments, daemon=True)
        reader.start()
        enough.wait(DEADLINE_S)
        consumer.close()
        reader.join(DEADLINE_S)
        self.assertFalse(reader.is_alive(), "azure-eventhub does not end")
        self.assertEqual((errors, len(events)), ([], wanted), self.emulator.output())
        return events

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

    def test_the_node_registry_creates_gets_and_deletes(self):
        said = self.node("sdk/registry.mjs", "node-registered")
        self.assertEqual(said["created"], {"deviceId": "node-registered", "status": "enabled"})
        self.assertEqual(said["again"], "DeviceAlreadyExistsError")
        self.assertTrue(said["sameKey"])
        self.assertTrue(said["keysMade"])
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
