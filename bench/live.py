"""Measure the latency of live video, from sending a frame to its result, compared to decoding and detection alone.

    python -m bench.live                                # one client, 60 s at 15 frames a second, 640x360
    python -m bench.live --clients 3 --seconds 20       # several
    python -m bench.live --beside-predict               # while videos are posted, one after the other

This starts a server with two workers. Clients and server share the cores. On a busy machine compare the CPU time of a
frame: latency then depends more on the other work.
"""

import argparse
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import socketio
import torch

from bench.clips import phone_clip
from bench.command import run_command
from bench.serve import cpu_ms, percentile
from moodreel.media import image
from moodreel.pipelines.engine import Engine
from moodreel.training.cli.options import at_least
from tests.support import synthetic_frames, synthetic_image
from tests.support.server import KEY, REAL_APP, STORE, Server

TARGET_P95 = 120.0
"""Milliseconds from a client's send to its result, on two cores."""
NAMESPACE = "/emotion-detection"
WARM_SECONDS = 5.0
"""Not measured: the first frames of a worker load models."""


class Client:
    """Sends frames at a fixed rate whatever comes back, as a camera does. `latencies` are in milliseconds."""

    def __init__(self, server: Server, frames: Sequence[bytes], rate: float, model: str | None) -> None:
        self.latencies: list[float] = []
        self.server_ms: list[float] = []
        self.sent = self.dropped = 0
        self.suggestions: list[str] = []
        self.errors: list[str] = []
        self._frames, self._rate = frames, rate
        self._sent_at: dict[int, float] = {}
        self._socket = socketio.Client(reconnection=False)
        self._socket.on("detection_result", self._on_result, namespace=NAMESPACE)
        self._socket.on("performance_suggestion", lambda data: self.suggestions.append(data["message"]), NAMESPACE)
        self._socket.on("error_message", lambda data: self.errors.append(data["message"]), NAMESPACE)
        self._socket.connect(server.url, auth={"api_key": KEY}, namespaces=[NAMESPACE], transports=["websocket"])
        self._socket.emit("initialize", {"frame_rate": rate, "model": model}, namespace=NAMESPACE)
        self._socket.emit("control", {"action": "start"}, namespace=NAMESPACE)

    def run(self, seconds: float) -> None:
        """Send frames for `seconds`, then wait for the last result."""
        start = time.perf_counter()
        for number in range(int(seconds * self._rate)):
            time.sleep(max(0.0, start + number / self._rate - time.perf_counter()))
            self._sent_at[self.sent] = time.perf_counter()
            frame = {"frame": self._frames[self.sent % len(self._frames)], "sequence": self.sent}
            self.sent += 1
            self._socket.emit("video_frame", frame, namespace=NAMESPACE)
        time.sleep(1.0)

    def reset(self) -> None:
        """Drop what was measured during the warm-up."""
        self.latencies.clear()
        self.server_ms.clear()
        self._before = self.dropped
        self.sent_before = self.sent

    def disconnect(self) -> None:
        self._socket.disconnect()

    @property
    def dropped_since(self) -> int:
        return self.dropped - self._before

    def _on_result(self, result: dict) -> None:
        sent = self._sent_at.pop(result["sequence"], None)
        if sent is not None:
            self.latencies.append((time.perf_counter() - sent) * 1000)
        self.server_ms.append(result["server_ms"])
        self.dropped = result["dropped"]


def baseline(frames: Sequence[bytes]) -> tuple[float, float]:
    """Return the milliseconds that decoding a frame and detecting faces take alone: wall-clock time and CPU time."""
    engine = Engine.load(STORE)
    torch.set_num_threads(1)

    def work() -> None:
        for data in frames:
            engine.landmarker.detect_once(image.decode_image(data, max_side=640).rgb)

    work()
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(3):
        work()
    count = 3 * len(frames)
    return (time.perf_counter() - start) * 1000 / count, (time.process_time() - cpu) * 1000 / count


def worker_megabytes(server: Server) -> list[float]:
    return [worker.memory_info().rss / 2**20 for worker in server.workers]


def run_in_threads(tasks: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def post_until(server: Server, clip: bytes, stop: threading.Event, taken: list[float]) -> None:
    while not stop.is_set():
        start = time.perf_counter()
        server.post("/predict", clip)
        taken.append((time.perf_counter() - start) * 1000)


def parse_size(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 640x360")
    return int(match[1]), int(match[2])


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.live", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to send frames")
    parser.add_argument("--rate", type=float, default=15.0, help="frames a second of each client")
    parser.add_argument("--clients", type=at_least(1), default=1, help="clients that send at a time")
    parser.add_argument("--size", type=parse_size, default="640x360", metavar="WIDTHxHEIGHT", help="of the frames")
    parser.add_argument("--model", help="name of a model in the store (default: the store's own)")
    parser.add_argument("--beside-predict", action="store_true", help="post videos of 6 s meanwhile")
    return parser.parse_args(arguments)


def print_latencies(clients: Sequence[Client]) -> list[float]:
    """Print how fast the frames of all clients were answered. Returns the latencies in milliseconds."""
    latencies = [latency for client in clients for latency in client.latencies]
    server_ms = [milliseconds for client in clients for milliseconds in client.server_ms]
    sent = sum(client.sent - client.sent_before for client in clients)
    p95 = percentile(latencies, 0.95)
    print(f"{len(latencies)} of {sent} frames answered, {sum(client.dropped_since for client in clients)} dropped")
    verdict = "met" if p95 < TARGET_P95 else "MISSED"
    print(
        f"send to result: p50 {percentile(latencies, 0.5):.0f} ms, p95 {p95:.0f} ms (target {TARGET_P95:g}: {verdict})"
    )
    print(f"of it in the server: p50 {percentile(server_ms, 0.5):.0f} ms, p95 {percentile(server_ms, 0.95):.0f} ms")
    for name in ("suggestions", "errors"):
        if messages := [text for client in clients for text in getattr(client, name)]:
            print(f"{name}: {len(messages)}, the last: {messages[-1]}")
    return latencies


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    width, height = options.size
    frames = [synthetic_image.encode_image(rgb, quality=80) for rgb in synthetic_frames.face_frames(30, width, height)]
    wall_ms, cpu = baseline(frames)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"frames of {width}x{height}, {len(frames[0]) // 1024} kB"
    )
    print(f"decoding and detection alone: {wall_ms:.1f} ms, {cpu:.1f} of them CPU")
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), REAL_APP, LOG_LEVEL="WARNING", WEB_CONCURRENCY=2) as server,
    ):
        clients = [Client(server, frames, options.rate, options.model) for _ in range(options.clients)]
        stop, taken = threading.Event(), []
        poster = threading.Thread(target=post_until, args=[server, phone_clip(), stop, taken])
        if options.beside_predict:
            poster.start()
        run_in_threads([lambda client=client: client.run(WARM_SECONDS) for client in clients])
        for client in clients:
            client.reset()
        taken.clear()
        before, cpu_before = worker_megabytes(server), cpu_ms(server.workers)
        run_in_threads([lambda client=client: client.run(options.seconds) for client in clients])
        cpu_spent = cpu_ms(server.workers) - cpu_before
        after = worker_megabytes(server)
        stop.set()
        if options.beside_predict:
            poster.join()
        for client in clients:
            client.disconnect()
    latencies = print_latencies(clients)
    print(f"p50 is {percentile(latencies, 0.5) / wall_ms:.2f} times decoding and detection alone")
    if not options.beside_predict and latencies:
        each = cpu_spent / len(latencies)
        print(f"CPU of the server: {each:.1f} ms a frame answered, {each / cpu:.2f} times decoding and detection alone")
    if taken:
        print(f"/predict beside it: {len(taken)} calls, p50 {statistics.median(taken):.0f} ms")
    print(f"memory of the workers: {', '.join(f'{a:.0f} to {b:.0f} MB' for a, b in zip(before, after, strict=True))}")


if __name__ == "__main__":
    run_command(main)
