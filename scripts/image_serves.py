"""Starts an image on the CPU, asks it and stops it: scripts/image_serves.py IMAGE ENGINE..., the engine's command.

The engine runs on this machine, so that the program is a process here too. As its last line, to standard output, it
prints JSON. Ends with 1 if the program is not what it should be; it and its container are gone then too.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

PATIENCE = 120
# A program for cards runs on the CPU where it is told so.
ON_CPU = "FOREBAY_DEVICE=cpu"


def check(holds, otherwise):
    if not holds:
        sys.exit(f"image: {otherwise}")


def said(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def descendants(pid):
    """A process and those below it, which any of its threads may have started."""
    found = [pid]
    for thread in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (thread / "children").read_text().split()
        except OSError:
            # It has ended meanwhile.
            continue
        found += [below for child in children for below in descendants(int(child))]
    return found


def commands(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Buildah:
    """A container of buildah: on the host's network, its processes are children of the command that runs them."""

    def __init__(self, engine, image):
        self.engine, self.running = engine, None
        self.container = said(*engine, "from", "--pull-never", image)

    def begin(self, port):
        self.port, self.program = port, self.settings()["Entrypoint"]
        self.running = subprocess.Popen(self.command(*self.program))
        return self.running

    def command(self, *inside):
        told = ["--env", f"PORT={self.port}", "--env", ON_CPU]
        return [*self.engine, "run", *told, self.container, "--", *inside]

    def pid(self):
        return next((pid for pid in descendants(self.running.pid) if commands(pid) == self.program[0]), None)

    def settings(self):
        return json.loads(said(*self.engine, "inspect", self.container))["Docker"]["config"]

    def terminate(self):
        os.kill(self.pid(), signal.SIGTERM)

    def remove(self):
        # Where something went wrong it runs still.
        if self.running and self.running.poll() is None:
            for pid in reversed(descendants(self.running.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.running.wait()
        subprocess.run([*self.engine, "rm", self.container], stdout=subprocess.DEVNULL)


class Docker:
    """A container of docker or podman."""

    def __init__(self, engine, image):
        self.engine, self.image, self.name = engine, image, f"forebay-image-{os.getpid()}"

    def begin(self, port):
        told = ["--publish", f"127.0.0.1:{port}:8080", "--env", ON_CPU]
        self.running = subprocess.Popen([*self.engine, "run", "--rm", "--name", self.name, *told, self.image])
        return self.running

    def command(self, *inside):
        return [*self.engine, "exec", self.name, *inside]

    def pid(self):
        return int(said(*self.engine, "inspect", "--format", "{{.State.Pid}}", self.name))

    def settings(self):
        return json.loads(said(*self.engine, "image", "inspect", self.image))[0]["Config"]

    def terminate(self):
        subprocess.run([*self.engine, "kill", "--signal", "TERM", self.name], check=True, stdout=subprocess.DEVNULL)

    def remove(self):
        subprocess.run([*self.engine, "rm", "--force", self.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


def is_ready(container, url):
    """Seconds from the engine's command, and from the program's own start, until it is ready."""
    begun = time.monotonic()
    while status(f"{url}/health/ready") != 200:
        check(container.running.poll() is None, f"the program ended by itself, with {container.running.returncode}")
        check(time.monotonic() - begun < PATIENCE, f"it is not ready after {PATIENCE} s")
        time.sleep(0.005)
    ready, now = time.monotonic() - begun, time.clock_gettime(time.CLOCK_BOOTTIME)
    # The 22nd field, in ticks since the machine was booted; the second one, a name in brackets, may hold spaces.
    ticks = int(pathlib.Path(f"/proc/{container.pid()}/stat").read_text().rpartition(")")[2].split()[19])
    return ready, now - ticks / os.sysconf("SC_CLK_TCK")


def answered(url, ask):
    request = urllib.request.Request(url, json.dumps(ask).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def tells_a_tone(url):
    """Whether a new project's model, which counts words, tells a glad text from a sad one."""
    glad, sad = (answered(f"{url}/tone", {"text": text})["tone"] for text in ("what a happy day", "what a sad day"))
    check(glad > sad, f"a glad text has the tone {glad}, and a sad one {sad}")


def embeds(url):
    """Whether two texts get vectors of length 1 that tell them apart."""
    answer = answered(f"{url}/v1/embeddings", {"input": ["a cat sits on the mat", "interest rates rise"]})
    vectors = [entry["embedding"] for entry in answer["data"]]
    lengths = [sum(value * value for value in vector) ** 0.5 for vector in vectors]
    check([len(vector) for vector in vectors] == [384, 384], "an embedding has 384 values, and these have not")
    check(all(abs(length - 1) < 1e-3 for length in lengths), f"vectors have the lengths {lengths}, but should have 1")
    likeness = sum(a * b for a, b in zip(*vectors))
    check(likeness < 0.5, f"texts of different things are alike by {likeness:.3f}")


def serves(container, image):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    container.begin(port)
    ready, own = is_ready(container, url)
    if "embed-http" in image:
        embeds(url)
    if "new-project" in image:
        tells_a_tone(url)
    how, *health = container.settings()["Healthcheck"]["Test"]
    check(how == "CMD", f"the health check needs a shell ({how})")
    checked = time.monotonic()
    check(subprocess.run(container.command(*health)).returncode == 0, "its health check says that it is not healthy")
    checked = time.monotonic() - checked
    owner = pathlib.Path(f"/proc/{container.pid()}/status").read_text()
    uids = next(line.split()[1:] for line in owner.splitlines() if line.startswith("Uid:"))
    check("0" not in uids, "it runs as root")
    stopped = time.monotonic()
    container.terminate()
    code = container.running.wait(timeout=PATIENCE)
    stopped = time.monotonic() - stopped
    check(code == 0, f"told to stop it ended with {code}, but should end with 0")
    return {
        "ready_seconds": round(ready, 3),
        "program_ready_seconds": round(own, 2),
        "health_seconds": round(checked, 3),
        "stop_seconds": round(stopped, 3),
        "uid": int(uids[0]),
        "exit_code": code,
    }


def main(image, *engine):
    container = (Buildah if engine[0] == "buildah" else Docker)(engine, image)
    try:
        found = serves(container, image)
    finally:
        container.remove()
    print(
        f"ready {found['ready_seconds']} s after it was started, healthy, of uid {found['uid']}, ended with 0",
        file=sys.stderr,
    )
    print(json.dumps(found, separators=(",", ":")))


if __name__ == "__main__":
    main(*sys.argv[1:])
