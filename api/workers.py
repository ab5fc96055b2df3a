"""Choose the number of worker processes where WEB_CONCURRENCY is not set."""

import os
import subprocess
import sys
from importlib.metadata import version

GPU_MEBIBYTES_PER_WORKER = 1024
"""Each worker has a CUDA context and models of its own on the GPU. An estimate: not measured on a GPU."""
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


def default_workers(use_gpu: str) -> int:
    """Return one worker per core, or as many as the GPU's memory holds if these are fewer.

    Args:
        use_gpu: "auto", "0" or "1".
    """
    cores = os.cpu_count() or 1
    memory = None if use_gpu == "0" else _gpu_mebibytes()
    return cores if memory is None else max(1, min(cores, memory // GPU_MEBIBYTES_PER_WORKER))


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
