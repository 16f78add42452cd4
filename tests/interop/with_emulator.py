"""What tests with Microsoft's SDKs share: an emulator, Node scripts that use it, and Python's reader of telemetry."""

import threading

from azure.eventhub import EventHubConsumerClient, TransportType

from support import DEADLINE_S, NODE, Emulator, Folder, Process, node


class WithEmulator:
    """One emulator for each test."""

    hubs = 1
    options = ()

    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.remove)
        self.emulator = Emulator(self.folder.path / "emulator", hubs=self.hubs, options=self.options)
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


class BackEnd(Process):
    """A back end on Microsoft's service SDK for Node: sends messages, calls methods, changes and reads twins."""

    def __init__(self, ready_file, ca):
        command = ["node", str(NODE / "sdk/service.mjs"), str(ready_file)]
        super().__init__(command, env={"NODE_EXTRA_CA_CERTS": ca}, name="service")
        try:
            self.next_json("open")
        except BaseException:
            self.stop()
            raise

    def ask(self, command, **arguments):
        """Has a command done; returns its result, or the name of the error."""
        self.tell(**{command: arguments})
        # The longest is a call of a method.
        answer = self.next_json("answer", within=2 * DEADLINE_S)
        return answer[command] if command in answer else answer["error"]

    def send(self, device, message_id, body, **properties):
        """A cloud-to-device message."""
        return self.ask("send", device=device, id=message_id, body=body, properties=properties)

    def feedback(self):
        """Message id, status and description of the next feedback."""
        record = self.next_json("feedback")
        return record["originalMessageId"], record["statusCode"], record.get("description")

    def invoke(self, device, method, payload, **more):
        """A direct method; its status and payload, or the error's name."""
        answer = self.ask("invoke", device=device, method=method, payload=payload, **more)
        return answer if isinstance(answer, str) else (answer["status"], answer["payload"])
