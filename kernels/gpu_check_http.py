"""Figures of a running server, for kernels/gpu-check: throughput by concurrency, two versions side by side, a rollback
under load, and a version that is woken. Only the standard library, so that it is tried without a GPU, too:

    python3 kernels/gpu_check_http.py target/release/switchback /tmp/out.md cpu models/v1 models/v2 2 1,4
"""

import http.client
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

HOST, PUBLIC, ADMIN = "127.0.0.1", 8090, 8091
PROMPT, OUTPUT = 64, 128


class Server:
    """A server with one model `m` of some versions, all of its traffic on the first; and `p1`, the first with a prompt."""

    def __init__(self, program, device, folders, running):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="switchback-"))
        (self.work / "prompt.md").write_text("Answer briefly.\n")
        versions = [f"v{i + 1}: {{ image: \"{folder.resolve()}\" }}" for i, folder in enumerate(folders)]
        versions.append(f"p1: {{ image: \"{folders[0].resolve()}\", prompt: prompt.md }}")
        versions = ", ".join(versions)
        engine = f"{{ device: \"{device}\", max_running: {running}, max_step_tokens: {max(running, 1024)}, queue: 1024 }}"
        (self.work / "switchback.yaml").write_text(
            f"server: {{ mode: dev, listen: \"{HOST}:{PUBLIC}\", admin: \"{HOST}:{ADMIN}\", store: state.db, "
            f"images: images }}\nengine: {engine}\n"
            f"models: {{ m: {{ versions: {{ {versions} }}, route: {{ v1: 100 }} }} }}\n")
        self.log = (self.work / "log").open("w")
        self.process = subprocess.Popen([program, "serve", "--config", self.work / "switchback.yaml"], cwd=self.work,
                                        stdout=self.log, stderr=self.log)

    def __enter__(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if ask("GET", PUBLIC, "/ready", None)[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.2)
        said = (self.work / "log").read_text()[-400:]
        self.__exit__()
        raise RuntimeError(f"the server is not ready: {said}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()


def rows_of(table):
    """What appends a row to a table, and says it."""

    def row(what, outcome):
        with table.open("a") as file:
            file.write(f"| {what} | {outcome} |\n")
        print(what, outcome, flush=True)

    return row


def ask(method, port, path, body, timeout=120):
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


def admin(method, path, body):
    status, answer = ask(method, ADMIN, path, body)
    if status != 200:
        raise RuntimeError(f"{method} {path}: {status} {answer}")
    return answer


def split(**weights):
    admin("PUT", "/admin/models/m/route", {"weights": weights})


def request_of(number, **more):
    tokens = [(number * 7919 + i * 104729) % 1000 for i in range(PROMPT)]
    return {"model": "m", "prompt": tokens, "max_tokens": OUTPUT, "ignore_eos": True, "temperature": 0,
            "user": f"user-{number}", **more}


class Load:
    """So many clients, each of whom asks again as soon as he is answered."""

    def __init__(self, clients):
        self.failed, self.lock, self.over = 0, threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.client, args=(i,), daemon=True) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def client(self, number):
        connection = http.client.HTTPConnection(HOST, PUBLIC, timeout=120)
        while not self.over.is_set():
            try:
                body = json.dumps(request_of(number))
                connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
                response = connection.getresponse()
                response.read()
                answered = response.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                answered = False
            with self.lock:
                self.failed += not answered
            number += len(self.threads)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(130)
        return self.failed


def generated():
    """Tokens that all engines have generated, those of answers under way too."""
    connection = http.client.HTTPConnection(HOST, PUBLIC, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("switchback_engine_generated_tokens_total{"))


def measured(clients, seconds):
    """Tokens a second of so many clients, and how many of their requests failed."""
    load = Load(clients)
    time.sleep(min(2, seconds))
    before, begun = generated(), time.monotonic()
    time.sleep(seconds)
    rate = (generated() - before) / (time.monotonic() - begun)
    return rate, load.stop()


def first_token(number):
    """Seconds to the first token of a streamed answer, and the version that gave it."""
    connection = http.client.HTTPConnection(HOST, PUBLIC, timeout=120)
    begun = time.monotonic()
    connection.request("POST", "/v1/completions", json.dumps(request_of(number, stream=True)),
                       {"content-type": "application/json"})
    response = connection.getresponse()
    while not response.readline().startswith(b"data:"):
        pass
    seconds = time.monotonic() - begun
    version = response.getheader("x-switchback-version")
    response.read()
    connection.close()
    return seconds, version


def by_concurrency(row, seconds, numbers):
    rates = []
    for clients in numbers:
        rate, failed = measured(clients, seconds)
        rates.append(f"{clients}: {rate:.0f} tok/s" + (f" ({failed} FAILED)" if failed else ""))
    row(f"over HTTP, {PROMPT} in, {OUTPUT} out, by clients", "; ".join(rates))


def two_versions(row, seconds, clients):
    alone, _ = measured(clients, seconds)
    for stable, canary in ((95, 5), (50, 50)):
        split(v1=stable, v2=canary)
        rate, failed = measured(clients, seconds)
        row(f"two versions at {stable}/{canary}, {clients} clients",
            f"{rate:.0f} tok/s, {100 * rate / alone:.0f} % of one alone; {failed} failed")


def two_prompts(row, seconds, clients):
    split(v1=100)
    alone, _ = measured(clients, seconds)
    split(v1=50, p1=50)
    rate, failed = measured(clients, seconds)
    row(f"two prompts of one image at 50/50, {clients} clients",
        f"{rate:.0f} tok/s, {100 * rate / alone:.0f} % of one alone; {failed} failed")


def rollback(row, seconds, clients):
    split(v1=100)
    load = Load(clients)
    split(v2=100)
    time.sleep(seconds)
    begun = time.monotonic()
    admin("POST", "/admin/models/m/rollback", {})
    answered = time.monotonic() - begun
    waited, version = first_token(1_000_003)
    failed = load.stop()
    row(f"rollback under {clients} clients", f"answered in {1e3 * answered:.1f} ms; first token {waited:.3f} s later, from "
        f"{version}; {failed} failed")


def wake(row, host_to_device):
    split(v1=100)
    weight_bytes = admin("POST", "/admin/models/m/versions/v2/unload", {"to": "warm"})["weight_bytes"]
    begun = time.monotonic()
    admin("POST", "/admin/models/m/versions/v2/load", {})
    seconds = time.monotonic() - begun
    speed = weight_bytes / seconds
    share = f", {100 * speed / host_to_device:.0f} % of what the bus was measured at" if host_to_device else ""
    row("a warm version woken", f"{seconds:.2f} s with its cache and recorded steps, {speed / 1e9:.1f} GB/s of weights{share}")


def figures(row, program, device, folders, seconds, numbers, host_to_device=None):
    most = max(numbers)
    with Server(program, device, folders, most):
        for figure, arguments in ((by_concurrency, (seconds, numbers)), (two_versions, (seconds, most)),
                                  (two_prompts, (seconds, most)), (rollback, (seconds, most)),
                                  (wake, (host_to_device,))):
            try:
                figure(row, *arguments)
            except Exception as error:  # a figure that fails is a row, and the others are still wanted
                row(figure.__name__, f"FAILED: {type(error).__name__}: {str(error)[-300:]}".replace("\n", " "))


if __name__ == "__main__":
    program, table, device, first, second, seconds, numbers = sys.argv[1:]

    figures(rows_of(pathlib.Path(table)), pathlib.Path(program).resolve(), device, [pathlib.Path(first), pathlib.Path(second)], float(seconds),
            [int(n) for n in numbers.split(",")])
