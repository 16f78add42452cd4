"""A small IoT Hub on Qpid Proton, an AMQP stack that shares nothing with the connector's.

Strict on purpose: it checks every SAS token, address and property itself and says in the error what is wrong.

usage: python proton_hub.py '{"host":…, "cert":…, "key":…, "policies":{name:key}, "devices":{id:key}}'
stdin: the commands of rhea_ways.mjs, one JSON object a line
stdout: one JSON object a line: {"listening":port}, {"telemetry":{…}}, {"refused":"…"}, and what rhea_ways.mjs says
"""

import base64
import hashlib
import hmac
import json
import re
import socket
import sys
import threading
import time
from urllib.parse import unquote

from proton import Condition, Delivery, Link, Message, int32, symbol
from proton.handlers import MessagingHandler
from proton.reactor import ApplicationEvent, Container, EventInjector

from proton_ways import Ways, way_of

TOKEN_TYPES = {"servicebus.windows.net:sastoken", "azure-devices.net:sastoken"}
EVENTS = re.compile(r"^(?:amqps://[^/]+)?/devices/([^/]+)/messages/events$")
CREATION_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


def say(line):
    print(json.dumps(line), flush=True)


class Refusal(Exception):
    """Why a peer is refused: a CBS status, an AMQP condition and a text."""

    def __init__(self, status, condition, text):
        super().__init__(text)
        self.status, self.condition = status, condition


class Hub(MessagingHandler):
    """Accepts put-token, telemetry and the ways back; everything else is refused."""

    def __init__(self, settings):
        super().__init__(auto_accept=False, auto_settle=True, prefetch=100)
        self.settings = settings
        # By connection. Proton makes a new wrapper for each event, so only equality tells connections, never text or id.
        self.rights = {}
        self.cbs = {}
        self.ways = Ways(say)
        self.injector = EventInjector()

    def on_start(self, event):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        event.container.ssl.server.set_credentials(self.settings["cert"], self.settings["key"], None)
        event.container.listen(f"amqps://127.0.0.1:{port}")
        event.container.selectable(self.injector)
        threading.Thread(target=self.read_commands, daemon=True).start()
        say({"listening": port})

    def read_commands(self):
        for line in sys.stdin:
            self.injector.trigger(ApplicationEvent("command", subject=line))

    def on_command(self, event):
        self.ways.command(event.subject)

    def on_connection_opening(self, event):
        event.connection.container = "DeviceGateway_proton"
        event.transport.idle_timeout = 240

    def on_link_opening(self, event):
        event.link.source.copy(event.link.remote_source)
        event.link.target.copy(event.link.remote_target)
        if event.link.is_sender and event.link.remote_snd_settle_mode == Link.SND_SETTLED:
            event.link.snd_settle_mode = Link.SND_SETTLED

    def on_link_opened(self, event):
        # Not while opening: Proton opens the link after that call, which would undo a refusal.
        link = event.link
        address = (link.remote_source if link.is_sender else link.remote_target).address or ""
        if address == "$cbs":
            if link.is_sender:
                self.cbs[event.connection] = link
            return
        try:
            match = not link.is_sender and EVENTS.match(address)
            node = (unquote(match[1]), "telemetry") if match else way_of(address)
            if not node:
                raise Refusal(404, "amqp:not-found", f"no such address: {address}")
            device, way = node
            rights = self.rights.get(event.connection, set())
            if "*" not in rights and device not in rights:
                raise Refusal(401, "amqp:unauthorized-access", f"no token for {device} on this connection")
            if device not in self.settings["devices"]:
                raise Refusal(404, "amqp:not-found", f"Device {device} not registered.")
            why = None if match else self.ways.attach(link, device, way)
            if why:
                raise Refusal(400, "amqp:invalid-field", why)
            link.node = node
        except Refusal as refusal:
            self.refuse(link, refusal)

    def refuse(self, link, refusal):
        say({"refused": str(refusal)})
        link.condition = Condition(refusal.condition, str(refusal))
        link.close()

    def on_message(self, event):
        if event.link.remote_target.address == "$cbs":
            self.put_token(event)
        elif hasattr(event.link, "node"):
            device, way = event.link.node
            if way == "telemetry":
                self.telemetry(event, device)
                return
            why = self.ways.take(event.message, device, way)
            if why:
                say({"refused": why})
            self.accept(event.delivery)

    def on_accepted(self, event):
        self.ways.outcome(event.delivery, "accepted")

    def on_rejected(self, event):
        self.ways.outcome(event.delivery, "rejected")

    def on_released(self, event):
        state = event.delivery.remote_state
        self.ways.outcome(event.delivery, "released" if state == Delivery.RELEASED else "modified")

    def put_token(self, event):
        message, status, description = event.message, 200, "OK"
        properties = message.properties or {}
        try:
            if properties.get("operation") != "put-token":
                raise Refusal(400, "", f"operation is {properties.get('operation')}")
            if properties.get("type") not in TOKEN_TYPES:
                raise Refusal(400, "", f"type is {properties.get('type')}")
            if message.id is None:
                raise Refusal(400, "", "no message-id")
            who = self.verify(message.body, properties.get("name") or "")
            self.rights.setdefault(event.connection, set()).add(who)
        except Refusal as refusal:
            status, description = refusal.status, str(refusal)
            say({"refused": description})
        self.accept(event.delivery)
        reply = Message(correlation_id=message.id, body=None)
        reply.properties = {"status-code": int32(status), "status-description": description}
        sender = self.cbs.get(event.connection)
        if sender:
            sender.send(reply)

    def verify(self, text, audience):
        """The device's id, or `*` for a policy; a Refusal when the token is not valid."""

        def bad(why):
            return Refusal(401, "amqp:unauthorized-access", why)

        if not isinstance(text, str) or not text.startswith("SharedAccessSignature "):
            raise bad("not a SAS token")
        field = dict(pair.split("=", 1) for pair in text.split(" ", 1)[1].split("&"))
        for name in ("sr", "sig", "se"):
            if not field.get(name):
                raise bad(f"the token has no {name}")
        if not field["se"].isdigit():
            raise bad("se is not a number of seconds")
        life = int(field["se"]) - time.time()
        if life <= 0:
            raise bad("the token has expired")
        if life > 366 * 24 * 3600:
            raise bad("the token lives too long: are these milliseconds?")
        resource = unquote(field["sr"])
        host, *path = resource.split("/")
        if host != self.settings["host"]:
            raise bad(f"the token is for {host}, not for {self.settings['host']}")
        if unquote(audience) != resource:
            raise bad(f"name {audience} differs from sr {field['sr']}")
        if "skn" in field:
            if path:
                raise bad("a policy token must be for the whole hub")
            key, who = self.settings["policies"].get(unquote(field["skn"])), "*"
        else:
            if len(path) != 2 or path[0] != "devices":
                raise bad(f"not a device: {resource}")
            who = unquote(path[1])
            if who not in self.settings["devices"]:
                raise Refusal(404, "amqp:not-found", f"Device {who} not registered.")
            key = self.settings["devices"][who]
        if not key:
            raise bad("unknown policy")
        signed = f"{field['sr']}\n{field['se']}".encode()
        expected = hmac.new(base64.b64decode(key), signed, hashlib.sha256).digest()
        if not hmac.compare_digest(expected, base64.b64decode(unquote(field["sig"]))):
            raise bad("the signature is wrong")
        return who

    def telemetry(self, event, device):
        message = event.message
        properties = message.properties or {}
        why = None
        if message.inferred is False or not isinstance(message.body, (bytes, memoryview)):
            why = "the body is not one Data section"
        elif any(not isinstance(value, str) for value in properties.values()):
            why = "a property is not a string"
        elif not isinstance(message.content_type, (str, symbol)) or message.content_type != "application/json":
            why = f"content-type is {message.content_type}"
        elif message.content_encoding != "utf-8":
            why = f"content-encoding is {message.content_encoding}"
        elif not isinstance(message.id, str) or len(message.id) > 128:
            why = "bad message-id"
        elif not CREATION_TIME.match(properties.get("iothub-creation-time-utc", "")):
            why = f"iothub-creation-time-utc is {properties.get('iothub-creation-time-utc')}"
        if why:
            say({"refused": why})
            event.delivery.local.condition = Condition("com.microsoft:argument-error", why)
            event.delivery.update(Delivery.REJECTED)
            event.delivery.settle()
            return
        body = bytes(message.body).decode("utf-8")
        say({"telemetry": {"device": device, "messageId": message.id, "properties": properties, "body": body}})
        self.accept(event.delivery)

    def on_transport_error(self, event):
        say({"trouble": "transport", "text": str(event.transport.condition)})

    def on_disconnected(self, event):
        self.rights.pop(event.connection, None)
        self.cbs.pop(event.connection, None)


if __name__ == "__main__":
    Container(Hub(json.loads(sys.argv[1]))).run()
