"""Microsoft's own SDKs against the emulator and against what the connector sent."""

import json
import threading
import unittest

from azure.eventhub import EventHubConsumerClient, TransportType

from support import Connector, Emulator, Folder, node, payloads_with_telemetry, wait_until


class MicrosoftSdks(unittest.TestCase):
    """One emulator with two hubs for each test."""

    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.remove)
        self.emulator = Emulator(self.folder.path / "emulator", hubs=2)
        self.addCleanup(self.emulator.stop)
        self.ready = self.emulator.ready
        self.ready_file = self.folder.path / "emulator" / "ready.json"

    def node(self, script, *arguments):
        lines = node(script, self.ready_file, *arguments, env={"NODE_EXTRA_CA_CERTS": self.ready["caFile"]})
        return {key: value for line in lines for key, value in line.items()}

    def read(self, hub, wanted):
        """Reads `wanted` events from a hub's Event Hub-compatible endpoint."""
        events, enough = [], threading.Event()

        def on_event(_, event):
            events.append(event)
            if len(events) >= wanted:
                enough.set()

        consumer = EventHubConsumerClient.from_connection_string(
            hub["eventHubConnectionString"],
            "$Default",
            custom_endpoint_address=f"sb://{hub['hostName']}:{hub['amqpPort']}",
            connection_verify=self.ready["caFile"],
            transport_type=TransportType.Amqp,
        )
        arguments = {"on_event": on_event, "starting_position": "-1"}
        reader = threading.Thread(target=consumer.receive, kwargs=arguments, daemon=True)
        reader.start()
        arrived = enough.wait(60)
        consumer.close()
        reader.join(30)
        self.assertTrue(arrived, f"{len(events)} of {wanted} events\n{self.emulator.output()}")
        return events

    def test_the_node_device_sdk_opens_sends_and_closes(self):
        for transport in ("amqp", "amqp_ws"):
            with self.subTest(transport):
                said = self.node("sdk/device.mjs", transport)
                self.assertEqual(said["sent"]["result"], "MessageEnqueued")
                self.assertEqual(said["refused"]["wrong"], "UnauthorizedError")
                self.assertIn(said["refused"]["stranger"], ("UnauthorizedError", "DeviceNotFoundError"))
                self.assertEqual(said["deleted"], "DeviceNotFoundError")
        events = self.read(self.ready["hubs"][0], 2)
        self.assertEqual({event.system_properties[b"iothub-connection-device-id"] for event in events},
                         {b"node-amqp", b"node-amqp_ws"})
        for event in events:
            self.assertEqual(json.loads(event.body_as_str()), {"temperature": 21.5, "place": "Zürich"})
            self.assertEqual(event.properties[b"origin"], b"sdk")
            self.assertEqual(event.message_id, "from-node")

    def test_the_node_provisioning_sdk_registers(self):
        said = self.node("sdk/provision.mjs", "node-provisioned")
        self.assertEqual(said["assigned"]["device"], "node-provisioned")
        self.assertIn(said["assigned"]["hub"], [hub["hostName"] for hub in self.ready["hubs"]])
        self.assertNotEqual(said["refused"], "was let in")

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
        for name, body, expected in payloads_with_telemetry():
            status, text = connector.post(body, {"Prefer": "wait=30"})
            self.assertEqual(status, 200, f"{name}: {text}\n{connector.output()}\n{self.emulator.output()}")
            outcome = json.loads(text)
            sent[outcome["hub"]][expected["messageId"]] = (outcome["device"], expected)
        wait_until(lambda: sum(map(len, sent.values())) > 0, "something was sent")
        for hub in self.ready["hubs"]:
            wanted = sent[hub["hostName"]]
            if not wanted:
                continue
            for event in self.read(hub, len(wanted)):
                device, expected = wanted.pop(event.message_id)
                self.assertEqual(json.loads(event.body_as_str()), expected["body"])
                properties = {name.decode(): value.decode() for name, value in event.properties.items()}
                self.assertEqual(properties, expected["properties"])
                self.assertEqual(event.content_type, "application/json")
                self.assertEqual(event.raw_amqp_message.properties.content_encoding, b"utf-8")
                self.assertEqual(event.system_properties[b"iothub-connection-device-id"].decode(), device)
                self.assertEqual(event.system_properties[b"iothub-message-source"], b"Telemetry")
            self.assertEqual(wanted, {}, "not read back")


if __name__ == "__main__":
    unittest.main()
