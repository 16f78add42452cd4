"""A cloud-to-device message that The Things Stack does not take in time goes back to its hub: a minute, as the lock."""

import time
import unittest

from strict_hub import RHEA, StrictHubWithStack

LOCK_S = 60


class RheaHub(StrictHubWithStack, unittest.TestCase):
    """rhea, for Node."""

    command = RHEA

    def test_a_message_is_released_before_its_lock_ends_and_then_goes_its_way(self):
        self.stack.fault(status=503, calls="write", count=1000)
        handed_out = time.monotonic()
        self.assertEqual(self.send("m-1", "AQI=", within=LOCK_S, Port="10")["state"], "released")
        held = time.monotonic() - handed_out
        self.assertTrue(LOCK_S / 2 < held < LOCK_S, f"held for {held} s")
        self.assertEqual(self.payloads(), [])
        self.stack.mend()
        self.assertEqual(self.send("m-1", "AQI=", Port="10")["state"], "accepted")
        self.assertEqual(self.payloads(), [(10, "AQI=")])


if __name__ == "__main__":
    unittest.main()
