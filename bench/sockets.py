"""Measure what open WebSockets cost, and how soon the count of connections follows.

    python -m bench.sockets                  # starts a server with the default settings and two workers
    python -m bench.sockets --sockets 200 --rounds 20

Compare the ratios: machines differ, and times vary. `/predict` with and without sockets alternates within one run.
`--fake` leaves the models out, to measure the sockets alone.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from bench.clips import phone_clip
from bench.command import run_command
from bench.serve import cpu_ms, p50_p95, post, wall_ms
from moodreel.training.cli.options import at_least
from tests.support.server import FAKE_APP, REAL_APP, Server
from tests.support.websocket_client import WebSocketClient, connection_count

REPETITIONS = 3
"""How often the sockets are opened and closed, so that a slow minute of the machine affects both sides."""
IDLE_SECONDS = 10
LINE = "I did not expect to enjoy this evening as much as I did, and now I cannot sleep."


def megabytes(server: Server) -> str:
    return ", ".join(f"{worker.memory_info().rss / 1e6:.0f}" for worker in server.workers)


def idle_share(server: Server) -> float:
    """Return the share of a core that all workers take while nothing happens."""
    before = cpu_ms(server.workers)
    time.sleep(IDLE_SECONDS)
    return (cpu_ms(server.workers) - before) / 1000 / IDLE_SECONDS


@contextmanager
def connected(server: Server, number: int) -> Iterator[list[WebSocketClient]]:
    """Open `number` connections, the only ones, and wait until the last has received the full count."""
    with ExitStack() as stack:
        clients = [stack.enter_context(WebSocketClient(server)) for _ in range(number)]
        clients[-1].wait_for_connections(number)
        yield clients
    while connection_count(server) > 0:
        time.sleep(0.05)


def compare_latency(server: Server, data: bytes, sockets: int, rounds: int) -> None:
    """Compare the latency of calls with and without idle sockets."""
    without: list[float] = []
    with_sockets: list[float] = []

    def calls(taken: list[float]) -> None:
        taken += [wall_ms(lambda: post(server, "/predict", data)) for _ in range(rounds)]

    print(f"memory of each worker: {megabytes(server)} MB")
    for repetition in range(REPETITIONS):
        calls(without)
        with connected(server, sockets):
            calls(with_sockets)
            if repetition == 0:
                print(f"memory of each worker with {sockets} sockets: {megabytes(server)} MB")
    print(f"\n{'/predict':24} {'p50 ms':>8} {'p95 ms':>8}")
    print(f"{'without':24} {p50_p95(without)}")
    print(f"{f'beside {sockets} idle sockets':24} {p50_p95(with_sockets)}")
    print(f"ratio of the medians: {statistics.median(with_sockets) / statistics.median(without):.3f}")


def measure_idle_cpu(server: Server, sockets: int) -> None:
    """Measure the CPU time of idle sockets."""
    with connected(server, sockets):
        share = idle_share(server)
    print(f"\nCPU of all workers while idle: {share:.1%} of a core with sockets, {idle_share(server):.1%} without")


def measure_broadcast(server: Server, sockets: int) -> None:
    """Measure how soon every client receives a changed count."""
    with connected(server, sockets) as clients:
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            with WebSocketClient(server):
                for client in clients:
                    client.wait_for_connections(sockets + 1)
                seconds.append(time.perf_counter() - start)
            for client in clients:
                client.wait_for_connections(sockets)
    print(f"\nuntil all {sockets} have the new count: p50 {statistics.median(seconds):.2f}, most {max(seconds):.2f} s")


def measure_killed_worker(server: Server, sockets: int) -> None:
    """Kill a worker and measure how long its connections are still counted."""
    with connected(server, sockets) as clients:
        rows = server.log_rows(endpoint="/api/ws")
        with_worker = {row["request_id"]: row["worker"] for row in rows if row["status_code"] is None}
        victim = with_worker[clients[0].request_id]
        alive = [client for client in clients if with_worker[client.request_id] != victim]
        psutil.Process(victim).send_signal(signal.SIGKILL)
        start = time.perf_counter()
        for client in alive:
            client.wait_for_connections(len(alive))
        taken = time.perf_counter() - start
    print(f"a killed worker's {sockets - len(alive)} connections were off the count after {taken:.1f} s")


def measure_messages(server: Server, messages: int) -> None:
    print(f"\n{'clients':>8} {'messages/s':>11} {'p50 ms':>8} {'p95 ms':>8}")
    for clients in (1, 2, 8):
        with connected(server, clients) as clients_open, ThreadPoolExecutor(clients) as pool:

            def request(client: WebSocketClient, each: int = messages // clients) -> list[float]:
                return [wall_ms(lambda: client.request(LINE)) for _ in range(each)]

            start = time.perf_counter()
            taken = [value for values in pool.map(request, clients_open) for value in values]
            print(f"{clients:8} {len(taken) / (time.perf_counter() - start):11.0f} {p50_p95(taken)}")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.sockets", description=__doc__.splitlines()[0])
    parser.add_argument("--sockets", type=at_least(1), default=100, help="idle connections (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=at_least(1), default=10, help="calls in each repetition (default: %(default)s)"
    )
    parser.add_argument("--messages", type=at_least(1), default=400, help="messages to answer (default: %(default)s)")
    parser.add_argument("--fake", action="store_true", help="answer without models")
    options = parser.parse_args()
    data = b"a clip" if options.fake else phone_clip(640, 360, 3.0)
    print(f"{os.cpu_count()} cores, two workers, {options.sockets} sockets")
    settings = {"LOG_LEVEL": "WARNING", "SOCKET_MESSAGES_PER_MINUTE": 60_000}
    app = FAKE_APP if options.fake else REAL_APP
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), app, **settings) as server:
        for _ in range(4):  # warm up each worker
            post(server, "/predict", data)
        compare_latency(server, data, options.sockets, options.rounds)
        measure_idle_cpu(server, options.sockets)
        measure_broadcast(server, options.sockets)
        measure_messages(server, options.messages)
        measure_killed_worker(server, options.sockets)


if __name__ == "__main__":
    run_command(main)
