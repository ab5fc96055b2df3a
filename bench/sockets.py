"""What open WebSockets cost: calls beside them, memory, and how soon a worker that dies is off the count.

    python -m bench.sockets                  # starts a server of its own, with the default settings on two workers
    python -m bench.sockets --sockets 200 --rounds 20

Machines differ and are noisy: `/predict` beside the sockets and without them take turns within one run, and their ratio
is what to compare. `--fake` leaves the models out, to see what the sockets alone take.
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
from bench.serve import milliseconds, p50_p95, post
from tests.support.server import FAKE_APP, REAL_APP, Server
from tests.support.websocket_client import WebSocketClient, connection_count

TURNS = 3
"""How often the sockets are opened and closed again, so that a slower minute is nobody's alone."""
IDLE_SECONDS = 10
LINE = "I did not expect to enjoy this evening as much as I did, and now I cannot sleep."


def megabytes(server: Server) -> str:
    return ", ".join(f"{worker.memory_info().rss / 1e6:.0f}" for worker in server.workers)


def cpu_seconds(server: Server) -> float:
    return sum(sum(worker.cpu_times()[:2]) for worker in server.workers)


@contextmanager
def connected(server: Server, number: int) -> Iterator[list[WebSocketClient]]:
    """Open so many connections, and go on when everybody has heard of the last."""
    before = connection_count(server)
    with ExitStack() as stack:
        clients = [stack.enter_context(WebSocketClient(server)) for _ in range(number)]
        clients[-1].wait_for_connections(before + number)
        yield clients
    while connection_count(server) > before:
        time.sleep(0.05)


def beside(server: Server, data: bytes, sockets: int, rounds: int) -> None:
    """Compare calls with and without idle sockets."""
    alone: list[float] = []
    among: list[float] = []

    def calls(taken: list[float]) -> None:
        taken += [milliseconds(lambda: post(server, "/predict", data)) for _ in range(rounds)]

    print(f"memory of each worker: {megabytes(server)} MB")
    for turn in range(TURNS):
        calls(alone)
        with connected(server, sockets):
            calls(among)
            if turn == 0:
                print(f"memory of each worker with {sockets} sockets: {megabytes(server)} MB")
    print(f"\n{'/predict':24} {'p50 ms':>8} {'p95 ms':>8}")
    print(f"{'alone':24} {p50_p95(alone)}")
    print(f"{f'beside {sockets} idle sockets':24} {p50_p95(among)}")
    print(f"ratio of the medians: {statistics.median(among) / statistics.median(alone):.3f}")


def idling(server: Server, sockets: int) -> None:
    """Tell what sockets take that do nothing but exist."""
    with connected(server, sockets):
        before = cpu_seconds(server)
        time.sleep(IDLE_SECONDS)
        share = (cpu_seconds(server) - before) / IDLE_SECONDS
    begun = cpu_seconds(server)
    time.sleep(IDLE_SECONDS)
    without = (cpu_seconds(server) - begun) / IDLE_SECONDS
    print(f"\nCPU of all workers while nothing happens: {share:.1%} of a core with sockets, {without:.1%} without")


def coming_and_going(server: Server, sockets: int) -> None:
    """Tell how soon everybody knows."""
    with connected(server, sockets) as clients:
        seconds = []
        for _ in range(10):
            begun = time.perf_counter()
            with WebSocketClient(server):
                for client in clients:
                    client.wait_for_connections(sockets + 1)
                seconds.append(time.perf_counter() - begun)
            for client in clients:
                client.wait_for_connections(sockets)
    print(f"\nuntil all {sockets} know that one came: p50 {statistics.median(seconds):.2f}, most {max(seconds):.2f} s")


def dying(server: Server, sockets: int) -> None:
    """Kill a worker and tell how long its connections are still counted."""
    with connected(server, sockets) as clients:
        rows = server.log_rows(endpoint="/api/ws")
        with_worker = {row["request_id"]: row["worker"] for row in rows if row["status_code"] is None}
        victim = with_worker[clients[0].request_id]
        alive = [client for client in clients if with_worker[client.request_id] != victim]
        psutil.Process(victim).send_signal(signal.SIGKILL)
        begun = time.perf_counter()
        for client in alive:
            client.wait_for_connections(len(alive))
        taken = time.perf_counter() - begun
    print(f"a killed worker's {sockets - len(alive)} connections were off the count after {taken:.1f} s")


def talking(server: Server, messages: int) -> None:
    print(f"\n{'clients':>8} {'messages/s':>11} {'p50 ms':>8} {'p95 ms':>8}")
    for clients in (1, 2, 8):
        with connected(server, clients) as talkers, ThreadPoolExecutor(clients) as pool:

            def talk(talker: WebSocketClient, each: int = messages // clients) -> list[float]:
                return [milliseconds(lambda: talker.request(LINE)) for _ in range(each)]

            begun = time.perf_counter()
            taken = [value for values in pool.map(talk, talkers) for value in values]
            print(f"{clients:8} {len(taken) / (time.perf_counter() - begun):11.0f} {p50_p95(taken)}")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.sockets", description=__doc__.splitlines()[0])
    parser.add_argument("--sockets", type=int, default=100, help="idle connections (default 100)")
    parser.add_argument("--rounds", type=int, default=10, help="calls in each of the turns (default 10)")
    parser.add_argument("--messages", type=int, default=400, help="messages to answer (default 400)")
    parser.add_argument("--fake", action="store_true", help="answer without models")
    options = parser.parse_args()
    data = b"a clip" if options.fake else phone_clip(640, 360, 3.0)
    print(f"{os.cpu_count()} cores, two workers, {options.sockets} sockets")
    settings = {"LOG_LEVEL": "WARNING", "SOCKET_MESSAGES_PER_MINUTE": 60_000}
    app = FAKE_APP if options.fake else REAL_APP
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), app, **settings) as server:
        for _ in range(4):  # until each worker is warm
            post(server, "/predict", data)
        beside(server, data, options.sockets, options.rounds)
        idling(server, options.sockets)
        coming_and_going(server, options.sockets)
        talking(server, options.messages)
        dying(server, options.sockets)


if __name__ == "__main__":
    main()
