"""Choose the number of worker processes where WEB_CONCURRENCY is not set."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

MEGABYTES_PER_WORKER, MEGABYTES_SHARED = 560, 120
"""Memory of a worker with all models in use and of the processes that decode for it, and what the workers share
(docs/operate.md, "Workers and memory")."""
GPU_MEBIBYTES_PER_WORKER = 1024
"""Each worker has a CUDA context and models of its own on the GPU. An estimate: not measured on a GPU."""
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


def default_workers(use_gpu: str) -> int:
    """Return one worker per core, or as many as the memory, also that of the GPU, holds if these are fewer."""
    limits = [_cores(), workers_in_memory()]
    if use_gpu != "0" and (gpu := _gpu_mebibytes()) is not None:
        limits.append(gpu // GPU_MEBIBYTES_PER_WORKER)
    return max(1, min(limits))


def workers_in_memory() -> int:
    """Return how many workers the memory holds; at least one."""
    return max(1, (memory_megabytes() - MEGABYTES_SHARED) // MEGABYTES_PER_WORKER)


def memory_megabytes() -> int:
    """Return the memory of the host, or the limit of its control group if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return total // 10**6


def _cores() -> int:
    """Return the cores of the host, or the quota of its control group if that is lower."""
    cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # there is none, or it is "max"
        return cores


def _gpu_mebibytes() -> int | None:
    """Return the memory of the GPU that torch will use, in MiB; None without one.

    torch is not asked: if the master process initializes CUDA, its forked workers cannot use it.
    """
    if sys.platform == "darwin":
        # Apple's GPU shares the machine's memory with the processes, which need as much again.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**21
    if "+cpu" in version("torch"):
        return None
    try:
        done = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=10, check=True)
        return int(done.stdout.splitlines()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
