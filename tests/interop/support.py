"""Starts the connector, the emulator and the strict hubs as processes, and ends them by their id."""

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE = Path(os.environ["TTI_INTEROP_NODE"])
BINARY = os.environ["TTI_INTEROP_BINARY"]
PAYLOADS = ROOT / "payloads"
# Generous, because two cores may be shared with a build; nothing waits this long unless it failed.
DEADLINE_S = 60


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


class Process:
    """A child process whose stdout is read line by line; ended by its id."""

    def __init__(self, command, env=None, name=None):
        self.name = name or Path(command[0]).name
        self.lines = queue.Queue()
        self.log = []
        self.child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.readers = [
            threading.Thread(target=self._read, args=(self.child.stdout, True), daemon=True),
            threading.Thread(target=self._read, args=(self.child.stderr, False), daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, stream, to_queue):
        for line in stream:
            self.log.append(line.rstrip())
            if to_queue:
                self.lines.put(line)
        if to_queue:
            self.lines.put(None)

    def next_json(self, key):
        """The next stdout line that is a JSON object with `key`."""
        end = time.monotonic() + DEADLINE_S
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
                raise AssertionError(f"{self.name} refused: {record['refused']}\n{self.output()}")
        raise AssertionError(f"{self.name} said no {key!r}\n{self.output()}")

    def output(self):
        """Everything it printed, for failure messages."""
        return "\n".join(self.log[-60:])

    def stop(self):
        """SIGTERM, then SIGKILL after ten seconds."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        for reader in self.readers:
            reader.join(5)
        self.child.stdout.close()
        self.child.stderr.close()


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
    """`tti-connector run` with the environment given as `section.key: value`; ready when it returns."""

    def __init__(self, folder, settings):
        self.webhook_port, self.admin_port = free_port(), free_port()
        settings = {
            "webhook.listen": f"127.0.0.1:{self.webhook_port}",
            "admin.listen": f"127.0.0.1:{self.admin_port}",
            "spool.directory": str(folder / "spool"),
            **settings,
        }
        env = {f"TTI_CONNECTOR__{key.upper().replace('.', '__')}": str(value) for key, value in settings.items()}
        super().__init__([BINARY, "run"], env=env, name="connector")
        wait_until(self._live, "the connector listens")

    def _live(self):
        if self.child.poll() is not None:
            raise AssertionError(f"the connector ended\n{self.output()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/live", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def post(self, body, headers=None):
        """Posts a body to the webhook; returns status and text."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.webhook_port}/webhook",
            data=body if isinstance(body, bytes) else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


class Emulator(Process):
    """`tti-connector emulate` on free ports; `ready` is what it wrote to ready.json."""

    def __init__(self, folder, hubs=1, https_port=0):
        command = [BINARY, "emulate", "--dir", str(folder), "--amqp-port", "0", "--https-port", str(https_port),
                   "--hubs", str(hubs)]
        super().__init__(command, name="emulator")
        path = folder / "ready.json"
        wait_until(lambda: path.exists() or self.child.poll() is not None, "ready.json")
        if not path.exists():
            raise AssertionError(f"the emulator ended\n{self.output()}")
        self.ready = json.loads(path.read_text())


def node(script, *arguments, env=None):
    """Runs a Node script to its end; returns its JSON lines."""
    done = subprocess.run(
        ["node", str(NODE / script), *map(str, arguments)],
        capture_output=True, text=True, timeout=3 * DEADLINE_S, env={**os.environ, **(env or {})},
    )
    if done.returncode != 0:
        raise AssertionError(f"{script} failed ({done.returncode})\n{done.stdout}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class Folder:
    """A temporary folder as a Path, removed at the end."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="tti-interop-"))

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)


def payloads_with_telemetry():
    """(name, body bytes, expected telemetry) of every payload that becomes telemetry."""
    found = []
    for path in sorted(PAYLOADS.glob("*.json")):
        expected = json.loads((PAYLOADS / "expected" / path.name).read_text())
        if expected.get("telemetry"):
            found.append((path.name, path.read_bytes(), expected["telemetry"]))
    assert found, f"no payloads below {PAYLOADS}"
    return found


def python():
    """The interpreter that runs the tests, for child scripts."""
    return sys.executable
