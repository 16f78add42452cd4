"""A hub on an AMQP stack that is not the connector's, as a process, with a connector before it."""

import base64
import json
import os

from support import NODE, Certificates, Connector, Folder, Process, python

RHEA = ["node", str(NODE / "hubs/rhea_hub.mjs")]
PROTON = [python(), str(NODE / "hubs/proton_hub.py")]


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
