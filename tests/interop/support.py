"""Starts the connector, the emulator and the strict hubs as processes, and ends them by their id."""

import atexit
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE = Path(os.environ["TTI_INTEROP_NODE"])
BINARY = os.environ["TTI_INTEROP_BINARY"]
PAYLOADS = ROOT / "payloads"
# When the golden files take the messages to have reached the connector (payloads/README.md).
GOLDEN_RECEIPT = "2025-03-14T07:00:00.000Z"
CREATION_TIME = "iothub-creation-time-utc"
# Everything here takes well under a second. Long enough for two busy cores, short enough that a failure is quick.
DEADLINE_S = 15
# How long a webhook answer may wait for the hub: within the deadline, so that the answer tells, not a timeout.
WAIT_S = 10
# The machine's proxies are not for its own loopback.
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what):
    """Polls until `condition()` is true; fails after the deadline naming `what`."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


def environment(changes=None):
    """This process's environment without what would steer the connector or Node from outside, plus `changes`."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TTI_CONNECTOR", "NODE_EXTRA_CA", "PN_TRACE"))
    }
    return {**ours, **(changes or {})}


def interrupted(*_):
    """What Ctrl-C does, so that nothing is left behind."""
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, interrupted)


# A key of 32 or 64 bytes in base64, a signature, an API key of The Things Stack.
SECRET = re.compile(r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==)|sig=[^\s&]{10}|NNSXS\.")


class Process:
    """A child process that is told, and whose stdout is read, line by line; ended by its id."""

    def __init__(self, command, env=None, name=None):
        self.name = name or Path(command[0]).name
        self.lines = queue.Queue()
        self.unasked = []
        self.log = []
        # What our own program must not write into its log.
        self.is_ours, self.leaks = str(command[0]) == BINARY, []
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(env),
        )
        # For a suite that is ended in its middle.
        atexit.register(self.stop)
        self.readers = [
            threading.Thread(target=self._read, args=(self.child.stdout, True), daemon=True),
            threading.Thread(target=self._read, args=(self.child.stderr, False), daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, stream, to_queue):
        for line in stream:
            self.log.append(line.rstrip())
            if not to_queue and self.is_ours and SECRET.search(line):
                self.leaks.append(line.rstrip())
            if to_queue:
                self.lines.put(line)
        if to_queue:
            self.lines.put(None)

    def next_json(self, key, within=DEADLINE_S):
        """What the next stdout line says that is a JSON object with `key`; the others wait for whoever asks."""
        for at, record in enumerate(self.unasked):
            if key in record:
                del self.unasked[at]
                return record[key]
        end = time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            try:
                line = self.lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                break
            record = json.loads(line)
            if key in record:
                return record[key]
            if "refused" in record:
                raise AssertionError(f"{self.name} refused: {record['refused']}{self.output()}")
            self.unasked.append(record)
        raise AssertionError(f"{self.name} said no {key!r}{self.output()}")

    def tell(self, **command):
        """Writes one JSON object to its stdin."""
        self.child.stdin.write(json.dumps(command) + "\n")
        self.child.stdin.flush()

    def forget(self):
        """Drops the lines that nobody has read."""
        self.unasked.clear()
        while not self.lines.empty():
            self.lines.get_nowait()

    def output(self):
        """The end of what it printed, for failure messages."""
        return "".join(f"\n  [{self.name}] {line[:400]}" for line in self.log[-30:])

    def stop(self):
        """SIGTERM, then SIGKILL after ten seconds."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        atexit.unregister(self.stop)
        for reader in self.readers:
            reader.join(5)
        for pipe in (self.child.stdin, self.child.stdout, self.child.stderr):
            pipe.close()
        if self.leaks:
            raise AssertionError(f"secrets in the log of {self.name}: {self.leaks[:3]}")


class Certificates:
    """A CA and a server certificate for localhost, made with openssl."""

    def __init__(self, folder):
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        ca_key, request, extensions = folder / "ca.key", folder / "request.pem", folder / "san.txt"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")

        def openssl(*arguments):
            subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", "-x509", *ec, "-keyout", ca_key, "-out", self.ca, "-days", 2, "-subj", "/CN=interop CA")
        openssl("req", *ec, "-keyout", self.key, "-out", request, "-subj", "/CN=localhost")
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial",
                "-days", 2, "-extfile", extensions, "-out", self.cert)


class Connector(Process):
    """`tti-connector run` with the environment given as `section.key: value`; ready when it returns.

    One that takes another's place has its `webhook_port`.
    """

    def __init__(self, folder, settings, webhook_port=None):
        self.webhook_port, self.admin_port = webhook_port or free_port(), free_port()
        settings = {
            "webhook.listen": f"127.0.0.1:{self.webhook_port}",
            "admin.listen": f"127.0.0.1:{self.admin_port}",
            "spool.directory": str(folder / "spool"),
            # Failures are to be seen, not waited out.
            "azure.connect_timeout": "5s",
            "uplink.retry_max": "1s",
            "shutdown.grace": "2s",
            **settings,
        }
        self.env = {
            f"TTI_CONNECTOR__{key.upper().replace('.', '__').replace('-', '_')}": str(value)
            for key, value in settings.items()
        }
        super().__init__([BINARY, "run"], env=self.env, name="connector")
        try:
            wait_until(self._live, "the connector listens")
        except BaseException:
            self.stop()
            raise

    def _live(self):
        if self.child.poll() is not None:
            raise AssertionError(f"the connector ended{self.output()}")
        try:
            with LOOPBACK.open(f"http://127.0.0.1:{self.admin_port}/live", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def command(self, *arguments):
        """Runs another command of the binary, with the same settings, to its end; it must succeed."""
        done = subprocess.run([BINARY, *arguments], env=environment(self.env), capture_output=True, text=True,
                              timeout=DEADLINE_S)
        if done.returncode != 0:
            raise AssertionError(f"{arguments} failed ({done.returncode})\n{done.stdout}\n{done.stderr}")

    def post(self, body, wait=WAIT_S):
        """Posts a body to the webhook, which answers once the hub did; returns status and text."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.webhook_port}/webhook",
            data=body if isinstance(body, bytes) else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Prefer": f"wait={wait}"},
        )
        try:
            with LOOPBACK.open(request, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


class Emulator(Process):
    """`tti-connector emulate` on free ports; `ready` is what it wrote to ready.json."""

    def __init__(self, folder, hubs=1, options=()):
        command = [BINARY, "emulate", "--dir", str(folder), "--amqp-port", "0", "--https-port", "0",
                   "--things-stack-port", "0", "--hubs", str(hubs), *options]
        super().__init__(command, name="emulator")
        path = folder / "ready.json"
        try:
            wait_until(lambda: path.exists() or self.child.poll() is not None, "ready.json")
            if not path.exists():
                raise AssertionError(f"the emulator ended{self.output()}")
            self.ready = json.loads(path.read_text())
        except BaseException:
            self.stop()
            raise


class ThingsStack:
    """The emulated Things Stack of an emulator: what an application's devices do, and what waits for them."""

    def __init__(self, ready, application):
        self.url, self.key, self.application = ready["thingsStackUrl"], ready["thingsStackApiKey"], application

    def settings(self):
        """A connector's settings for it."""
        return {"things_stack.base_url": self.url, f"things_stack.applications.{self.application}.api_key": self.key}

    def post_to(self, connector):
        """From now on the webhook is this connector's."""
        self._call("PUT", "/emulator/webhook", {"url": f"http://127.0.0.1:{connector.webhook_port}/webhook"})

    def uplink(self, device, **uplink):
        """Plays an uplink: one that opens class A windows, for what is queued."""
        self._call("POST", f"/emulator/applications/{self.application}/devices/{device}/uplink", uplink)

    def fault(self, **fault):
        """The next calls of its API go wrong."""
        self._call("POST", "/emulator/faults", fault)

    def mend(self):
        """No call goes wrong any more."""
        self._call("DELETE", "/emulator/faults")

    def formatter(self, device):
        """The device's formatter makes the JSON text's bytes out of a decoded payload."""
        path = f"/emulator/applications/{self.application}/devices/{device}/formatter"
        self._call("PUT", path, {"formatter": True})

    def queue(self, device):
        """The downlinks that wait."""
        answer = self._call("GET", f"/api/v3/as/applications/{self.application}/devices/{device}/down")
        return json.loads(answer).get("downlinks", [])

    def sent(self, device):
        """The downlinks that gateways sent, the newest last, five at most."""
        path = f"/api/v3/ns/applications/{self.application}/devices/{device}?field_mask=mac_state.recent_downlinks"
        return json.loads(self._call("GET", path)).get("mac_state", {}).get("recent_downlinks", [])

    def class_c(self, device):
        """The device listens always from now on."""
        self._call("PUT", f"/emulator/applications/{self.application}/devices/{device}/class", {"class": "C"})

    def _call(self, method, path, body=None):
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        with LOOPBACK.open(request, timeout=DEADLINE_S) as answer:
            return answer.read()


def node(script, *arguments, env=None):
    """Runs a Node script to its end; returns what its JSON lines say, as one dictionary."""
    command = ["node", str(NODE / script), *map(str, arguments)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=2 * DEADLINE_S, env=environment(env))
    except subprocess.TimeoutExpired as hung:
        said, complained = ((text or b"").decode(errors="replace") for text in (hung.stdout, hung.stderr))
        raise AssertionError(f"{script} did not end in {hung.timeout} s\n{said}\n{complained}") from None
    if done.returncode != 0:
        raise AssertionError(f"{script} failed ({done.returncode})\n{done.stdout}\n{done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {key: value for line in lines for key, value in line.items()}


class Folder:
    """A temporary folder as a Path, removed at the end."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="tti-interop-"))
        atexit.register(self.remove)

    def remove(self):
        atexit.unregister(self.remove)
        shutil.rmtree(self.path, ignore_errors=True)


class Payload:
    """One file of payloads/ that becomes telemetry, and what it must become."""

    def __init__(self, path, telemetry):
        self.name, self.body, self.telemetry = path.name, path.read_bytes(), telemetry
        self.message_id = telemetry["messageId"]
        self.device = json.loads(self.body)["end_device_ids"]["device_id"]

    def difference(self, properties, body):
        """What differs from the golden file, or None.

        The golden files take it that the message came at a fixed moment, which shows only where the message itself
        has no usable time. Here it comes now, so there the time must have the right form and be of this minute.
        """
        got = {"properties": dict(properties), "body": json.loads(body)}
        wanted = {part: dict(self.telemetry[part]) for part in got}
        for part, name in (("properties", CREATION_TIME), ("body", "ReceivedAtUtc")):
            if wanted[part].get(name) != GOLDEN_RECEIPT:
                continue
            text = got[part].pop(name, None)
            del wanted[part][name]
            if not is_now(text):
                return f"{name} is {text!r}, not the time of receipt"
        return None if got == wanted else f"{self.name}\nwanted {wanted}\ngot    {got}"


def is_now(text):
    """Whether it is a UTC time with milliseconds, ISO 8601, of the last minute."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text):
        return False
    age = datetime.now(timezone.utc) - datetime.fromisoformat(text.replace("Z", "+00:00"))
    return -1 < age.total_seconds() < 60


def payloads_with_telemetry():
    """Every payload that becomes telemetry."""
    found = []
    for path in sorted(PAYLOADS.glob("*.json")):
        expected = json.loads((PAYLOADS / "expected" / path.name).read_text())
        if expected.get("telemetry"):
            found.append(Payload(path, expected["telemetry"]))
    assert found, f"no payloads below {PAYLOADS}"
    return found


def python():
    """The interpreter that runs the tests, for child scripts."""
    return sys.executable
