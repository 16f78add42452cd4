"""A hub on an AMQP stack that is not the connector's, as a process, with a connector before it."""

import base64
import json
import os

from support import DEADLINE_S, NODE, Certificates, Connector, Emulator, Folder, Process, ThingsStack, python

RHEA = ["node", str(NODE / "hubs/rhea_hub.mjs")]
PROTON = [python(), str(NODE / "hubs/proton_hub.py")]
# The end device where there is one only.
DEVICE = "cellar-climate-01"
WAYS = {"c2d", "methods", "twin"}


def key():
    """A new symmetric key."""
    return base64.b64encode(os.urandom(32)).decode()


class StrictHub:
    """What tests against such a hub share. They give `command` and `device_ids`."""

    # The command that runs the hub.
    command = None
    # The devices it knows.
    device_ids = ()

    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.remove)
        certificates = Certificates(self.folder.path)
        self.ca = certificates.ca
        self.devices = {device: key() for device in self.device_ids}
        self.policy_key = key()
        settings = {
            "host": "localhost",
            "cert": str(certificates.cert),
            "key": str(certificates.key),
            "policies": {"iothubowner": self.policy_key},
            "devices": self.devices,
        }
        self.hub = Process([*self.command, json.dumps(settings)], name="hub")
        self.addCleanup(self.hub.stop)
        self.port = self.hub.next_json("listening")

    def connector(self, credentials, more=None):
        """A connector that knows this hub, with `more` settings."""
        connector = Connector(self.folder.path, {
            "azure.amqp_port": self.port,
            "azure.ca_file": self.ca,
            "azure.iot_hub.connection_string": f"HostName=localhost;{credentials}",
            **(more or {}),
        })
        self.addCleanup(connector.stop)
        return connector

    def policy(self, secret=None):
        """The credentials of the hub's policy."""
        return f"SharedAccessKeyName=iothubowner;SharedAccessKey={secret or self.policy_key}"


class StrictHubWithStack(StrictHub):
    """The same with one device whose links for the way back are open, and an emulated Things Stack behind it."""

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

    def next(self, key, within=DEADLINE_S):
        """What the hub says next of this kind."""
        try:
            return self.hub.next_json(key, within)
        except AssertionError as failed:
            raise AssertionError(f"{failed}{self.running.output()}") from None

    def send(self, message_id, body, within=DEADLINE_S, **properties):
        """A cloud-to-device message; returns how it was answered."""
        self.hub.tell(c2d={"device": DEVICE, "id": message_id, "properties": properties, "body": body})
        outcome = self.next("outcome", within)
        self.assertEqual(outcome["id"], message_id)
        self.assertTrue(outcome["settled"])
        return outcome

    def payloads(self):
        """FPorts and payloads of the device's queue."""
        return [(queued["f_port"], queued.get("frm_payload")) for queued in self.stack.queue(DEVICE)]
