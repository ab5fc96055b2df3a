"""What an answer costs on this machine: parameters, operations, bytes, milliseconds."""

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
REPETITIONS, LEAST, SECONDS = 100, 20, 30.0
"""Answers of each model that are timed; as soon as all of it has taken so many seconds, fewer, but never under `LEAST`:
a large network would take minutes."""


@dataclass(frozen=True)
class Cost:
    """Of one answer, for one face or one window; finding the face comes on top of it.

    parameters: of the network as it serves, normalisations folded into what is before them.
    flops: floating-point operations of convolutions and matrix products, a multiply-add counting as two; all else is
        left out. Networks of single pictures read a face twice, mirrored as well.
    bytes: of the weights on disk.
    p50, p95: milliseconds, on one thread of `processor`, over `repetitions`, after some to warm up.
    unit: what one answer is for.
    """

    parameters: int
    flops: int
    bytes: int
    p50: float
    p95: float
    repetitions: int
    processor: str
    unit: str


def measure_costs(subjects: Sequence[EvaluatedModel]) -> list[Cost]:
    """Measure models beside each other: they answer in turn, so that what else the machine does slows all of them."""
    return [
        Cost(
            parameters=sum(parameter.numel() for parameter in subject.network.parameters()),
            flops=count_flops(subject),
            bytes=subject.weights.stat().st_size,
            p50=float(np.percentile(times, 50)),
            p95=float(np.percentile(times, 95)),
            repetitions=len(times),
            processor=processor(),
            unit=subject.unit,
        )
        for subject, times in zip(subjects, _milliseconds(subjects), strict=True)
    ]


def count_flops(subject: EvaluatedModel) -> int:
    with _plainly(), FlopCounterMode(display=False) as counter:
        subject.run_once()
    return counter.get_total_flops()


def processor() -> str:
    """Name this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine() or "unknown"


@contextmanager
def _plainly() -> Iterator[None]:
    """Have layers computed by the operations that are counted: the fused ones for attention, transformer layers and
    LSTMs count for nothing."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            # It warns of a setting for other processors that is not ours.
            warnings.simplefilter("ignore", UserWarning)
            with torch.backends.mkldnn.flags(enabled=False):  # type: ignore[attr-defined]
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _milliseconds(subjects: Sequence[EvaluatedModel]) -> list[list[float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: list[list[float]] = [[] for _ in subjects]
    try:
        until = time.perf_counter() + SECONDS
        for done in range(WARM_UP + REPETITIONS):
            if done >= WARM_UP + LEAST and time.perf_counter() > until:
                break
            for subject, own in zip(subjects, times, strict=True):
                begun = time.perf_counter()
                subject.run_once()
                own.append(1000 * (time.perf_counter() - begun))
        return [own[WARM_UP:] for own in times]
    finally:
        torch.set_num_threads(threads)
