"""Measure the cost of a prediction on this machine: parameters, FLOPs, bytes and latency."""

import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moodreel.training.evaluation.face_model import EvaluatedModel

WARM_UP = 10
"""Untimed predictions of each model before the timed ones."""
REPETITIONS, MIN_REPETITIONS, MAX_SECONDS = 100, 20, 30.0
"""Timed predictions of each model. Once the minimum is reached, timing stops after this many seconds: large networks
would take minutes."""


@dataclass(frozen=True)
class Cost:
    """Cost of one prediction, for one face or one window, without face detection.

    Attributes:
        parameters: Number of parameters of the network as served, with batch normalization fused.
        flops: Floating-point operations of convolutions and matrix products; a multiply-add counts as two. Networks of
            single images read a face twice, the second time mirrored.
        bytes: Size of the weights file.
        p50: Median latency in milliseconds, on one thread.
        p95: 95th percentile of the latency.
        repetitions: Number of timed predictions.
        processor: Name of the processor.
        unit: The input of one prediction, such as "one face".
    """

    parameters: int
    flops: int
    bytes: int
    p50: float
    p95: float
    repetitions: int
    processor: str
    unit: str


def measure_costs(models: Sequence[EvaluatedModel]) -> list[Cost]:
    """Measure the cost of each model.

    The models predict in turn, so that other load on the machine slows down all of them alike.
    """
    return [
        Cost(
            parameters=sum(parameter.numel() for parameter in model.network.parameters()),
            flops=count_flops(model),
            bytes=model.weights.stat().st_size,
            p50=float(np.percentile(latencies, 50)),
            p95=float(np.percentile(latencies, 95)),
            repetitions=len(latencies),
            processor=processor(),
            unit=model.unit,
        )
        for model, latencies in zip(models, _latencies(models), strict=True)
    ]


def count_flops(model: EvaluatedModel) -> int:
    """Count the floating-point operations of one prediction."""
    with _unfused_layers(), FlopCounterMode(display=False) as counter:
        model.run_once()
    return int(counter.get_total_flops())


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"


@contextmanager
def _unfused_layers() -> Iterator[None]:
    """Turn off fused attention, transformer layers and LSTMs, whose operations `FlopCounterMode` does not count."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            # mkldnn.flags warns about TF32, a setting for Intel GPUs.
            warnings.simplefilter("ignore", UserWarning)
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _latencies(models: Sequence[EvaluatedModel]) -> list[list[float]]:
    """Return the latencies of each model's predictions, in milliseconds, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    latencies: list[list[float]] = [[] for _ in models]
    try:
        deadline = time.perf_counter() + MAX_SECONDS
        for repetition in range(WARM_UP + REPETITIONS):
            if repetition >= WARM_UP + MIN_REPETITIONS and time.perf_counter() > deadline:
                break
            for model, measured in zip(models, latencies, strict=True):
                start = time.perf_counter()
                # The result is on the CPU, so work on a GPU is complete when it returns.
                model.run_once()
                measured.append(1000 * (time.perf_counter() - start))
        return [measured[WARM_UP:] for measured in latencies]
    finally:
        torch.set_num_threads(threads)
