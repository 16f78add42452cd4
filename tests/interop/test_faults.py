"""Faults that Microsoft's device SDK for Node asks the emulator for, and its recovery from them."""

import unittest

from with_emulator import WithEmulator


class Faults(WithEmulator, unittest.TestCase):
    """Each of seven faults, by the properties that Microsoft's own tests send."""

    def test_the_node_device_sdk_recovers(self):
        said = self.node("sdk/faults.mjs")
        self.assertEqual(len(said["faults"]), 7)
        for fault in said["faults"]:
            with self.subTest(fault["kind"]):
                self.assertEqual(fault["asked"], "MessageEnqueued")
                self.assertEqual(fault["received"], ["before", "after"])
                self.assertEqual(fault["others"], [])
                closes = fault["kind"] in (
                    "KillAmqpConnection",
                    "KillAmqpSession",
                    "KillAmqpC2DLink",
                    "ShutDownAmqp",
                )
                # Whether the SDK comes through a Close or End by itself, or through the loss of the link it listens on,
                # upon which it opens all anew, depends on what it was just doing.
                self.assertLessEqual(fault["renewed"], 1 if closes else 0)
        sent = sum(fault["sent"] for fault in said["faults"])
        names = {event.message_id for event in self.read(self.ready["hubs"][0], sent)}
        # Nothing is lost; and the messages that asked for a fault are no telemetry.
        self.assertEqual(len(names), sent)
