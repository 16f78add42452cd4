"""What a hub sends to its devices, on Qpid Proton: cloud-to-device messages, method calls and twins.

As strict as proton_hub.py, which opens the links. Deliveries have tags of 16 bytes, calls ids of type uuid, as Azure's.
Commands, and what it says, are those of rhea_ways.mjs.
"""

import json
import os
import re
import time
import uuid
from urllib.parse import unquote

from proton import Condition, Link, Message, int32, timestamp, ubyte, ulong

ADDRESS = re.compile(r"^(?:amqps://[^/]+)?/devices/([^/]+)/(.+)$", re.IGNORECASE)
WAYS = {"messages/devicebound": "c2d", "methods/devicebound": "methods", "twin": "twin"}
PAIR = re.compile(r"^(methods|twin):[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
SUBSCRIBE = "/notifications/twin/properties/desired"


def way_of(address):
    """The device and the way that an address stands for, or None."""
    match = ADDRESS.match(address)
    way = match and WAYS.get(match[2].lower())
    return way and (unquote(match[1]), way)


def data(text):
    """A message with one Data section."""
    return Message(body=text.encode(), inferred=True)


class Ways:
    """The links of all devices, and what is under way over them."""

    def __init__(self, say):
        self.say = say
        # By device and way: {"sender", "receiver", "pair"}.
        self.links = {}
        self.twins = {}
        # Deliveries and calls without an answer. Only equality tells deliveries.
        self.deliveries, self.calls = [], {}
        # By message-id: what the hub writes on it, the same each time it is handed out.
        self.marks = {}

    def attach(self, link, device, way):
        """Takes a link whose device may have it; returns why not, or None."""
        properties = link.remote_properties or {}
        if not properties.get("com.microsoft:api-version"):
            return f"the {way} link has no api-version"
        if way == "c2d":
            if not link.is_sender:
                return "nobody sends to messages/devicebound"
            if link.remote_snd_settle_mode == Link.SND_SETTLED:
                return "the answers to messages would be lost"
            self.links[device, way] = {"sender": link}
        else:
            pair = properties.get("com.microsoft:channel-correlation-id")
            match = isinstance(pair, str) and PAIR.match(pair)
            if not match or match[1] != way:
                return f"channel-correlation-id of {way} is {pair}"
            links = self.links.get((device, way), {})
            if links and len(links) < 3 and links["pair"] != pair:
                return f"{way}: a pair of two ids"
            if links.get("pair") != pair:
                links = self.links[device, way] = {"pair": pair}
            links["sender" if link.is_sender else "receiver"] = link
            if len(links) < 3:
                return None
        self.say({"open": {"device": device, "way": way}})
        return None

    def command(self, line):
        ((name, what),) = json.loads(line).items()
        getattr(self, name)(**what)

    def send(self, device, way, message):
        return self.links[device, way]["sender"].send(message, tag=os.urandom(16))

    # Each name here is a command.
    def c2d(self, device, id, properties, body):
        at, number = self.marks.setdefault(id, (int(time.time() * 1000), len(self.marks) + 1))
        message = data(body)
        message.id = id
        message.address = f"/devices/{device}/messages/devicebound"
        message.content_type, message.content_encoding = "application/json", "utf-8"
        message.expiry_time = at / 1000 + 3600
        message.annotations = {
            "iothub-enqueuedtime": timestamp(at),
            "iothub-deliverycount": ubyte(0),
            "x-opt-sequence-number": ulong(number),
            "x-opt-lock-token": str(uuid.uuid4()),
        }
        message.properties = {"iothub-ack": "full", **properties}
        self.deliveries.append((self.send(device, "c2d", message), id))

    def method(self, device, name, payload):
        message = data(json.dumps(payload))
        message.correlation_id = uuid.uuid4()
        message.properties = {"IoThub-methodname": name}
        self.calls[message.correlation_id] = name
        self.send(device, "methods", message)

    def desired(self, device, patch):
        twin = self.twin(device)
        twin["desired"].update(patch)
        twin["desired"]["$version"] += 1
        if twin["subscribed"]:
            message = data(json.dumps({**patch, "$version": twin["desired"]["$version"]}))
            message.annotations = {"resource": "/properties/desired"}
            self.send(device, "twin", message)

    def detach(self, device, way):
        link = self.links.pop((device, way))["sender"]
        link.condition = Condition("amqp:link:detach-forced", "The server is busy.")
        link.close()

    def outcome(self, delivery, state):
        """A delivery was answered."""
        for at, (sent, message_id) in enumerate(self.deliveries):
            if sent == delivery:
                del self.deliveries[at]
                why = delivery.remote.condition
                self.say({"outcome": {
                    "id": message_id,
                    "state": state,
                    "condition": why and why.name,
                    "description": why and why.description,
                    "settled": delivery.settled,
                }})
                return

    def take(self, message, device, way):
        """Takes a message from a device; returns why it is wrong, or None."""
        if message.inferred is False or not isinstance(message.body, (bytes, memoryview)):
            return f"{way}: the body is not one Data section"
        body = bytes(message.body).decode()
        return self.replied(message, body) if way == "methods" else self.asked(message, body, device)

    def replied(self, message, body):
        request = message.correlation_id
        if not isinstance(request, uuid.UUID):
            return f"the reply's correlation-id is {request!r}, not a uuid"
        name = self.calls.pop(request, None)
        status = (message.properties or {}).get("IoThub-status")
        if name is None:
            return "a reply to no call"
        # Not long: C# reads nothing else.
        if not isinstance(status, int32):
            return f"IoThub-status is of type {type(status).__name__}"
        self.say({"reply": {"name": name, "status": status, "payload": json.loads(body)}})
        return None

    def twin(self, device):
        new = {"desired": {"$version": 1}, "reported": {"$version": 1}, "subscribed": False}
        return self.twins.setdefault(device, new)

    def asked(self, message, body, device):
        annotations = message.annotations or {}
        request = annotations.get("operation"), annotations.get("resource")
        if not isinstance(message.correlation_id, str):
            return f"a twin request with correlation-id {message.correlation_id!r}"
        twin, answer = self.twin(device), data("")
        answer.correlation_id = message.correlation_id
        answer.annotations = {"status": int32(200)}
        if request == ("GET", None):
            answer.body = json.dumps({half: twin[half] for half in ("desired", "reported")}).encode()
        elif request == ("PUT", SUBSCRIBE):
            twin["subscribed"] = True
        elif request == ("PATCH", "/properties/reported"):
            patch = json.loads(body)
            twin["reported"].update(patch)
            twin["reported"]["$version"] += 1
            answer.annotations = {"status": int32(204), "version": twin["reported"]["$version"]}
            self.say({"reported": {"device": device, "patch": patch}})
        else:
            return f"a twin request {request}"
        self.say({"twin": {"device": device, "operation": request[0]}})
        self.send(device, "twin", answer)
        return None
