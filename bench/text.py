"""Measure the throughput of texts, the memory of a worker, and the false alarms of language identification.

    python -m bench.text [--data PATH] [--rounds N]

PATH is the folder of GoEmotions, for the false alarms. Times are CPU time on one thread, as in a worker, so that they
hardly depend on what else the machine does.
"""

import argparse
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from api.process_setup import set_malloc_parameters
from bench.command import run_command
from moodreel.pipelines.language_id import LanguageIdentifier
from moodreel.training.cli.options import at_least
from tests.support.server import STORE

LINE = "I finally told her how I feel, and I have been smiling ever since 😊"
ENTRY = (LINE + " Then we went home and I cooked dinner, nothing special, and watched the rain for a while. ") * 9


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.text", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of GoEmotions, to count false alarms")
    parser.add_argument("--rounds", type=at_least(1), default=20, help="repetitions (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_malloc_parameters()  # as in the workers
    from moodreel.models.face_registry import face_model_registry

    # A worker has loaded this in any case, and with it torch.
    face_model_registry(STORE).get()
    before = _megabytes()
    from moodreel.pipelines.text import TextPipeline

    imported = _megabytes()
    pipeline = TextPipeline.load(STORE, use_gpu="0")
    pipeline.predict([LINE])
    print(
        f"memory: {imported - before:.0f} MB of imports beside those for faces, {_megabytes() - imported:.0f} of models"
    )

    predictor = pipeline.models.get()
    for name, texts in (("a line", [LINE]), ("64 lines", [LINE] * 64), (f"{len(ENTRY):,} characters", [ENTRY])):
        windows = [window for text in texts for window in predictor.tokenizer.tokenize(text)]
        total_ms = _median(lambda texts=texts: pipeline.predict(texts), options.rounds)
        network_ms = _median(lambda windows=windows: predictor.predict(windows), options.rounds)
        print(
            f"{name}: {total_ms:.1f} ms ({total_ms / network_ms:.2f} x the network alone, {network_ms:.1f} ms), "
            f"{1000 * len(texts) / total_ms:.0f} texts a second"
        )
    if options.data:
        _count_false_alarms(options.data)


def _count_false_alarms(data: Path) -> None:
    """Print how many English comments are identified as another language. A name replaces GoEmotions' [NAME]."""
    identifier = LanguageIdentifier(STORE / "lid.176")
    for split in ("dev", "train"):
        rows = (data / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        texts = [re.sub(r"\[[A-Z]+\]", "Anna", row.split("\t")[0]) for row in rows if row]
        foreign = [identifier.identify(text) not in ("en", None) for text in texts]
        is_short = [len(re.findall(r"[^\W\d_]+", text)) <= 3 for text in texts]
        short_rate = sum(alarm for alarm, short in zip(foreign, is_short, strict=True) if short) / sum(is_short)
        print(
            f"{split}: {sum(foreign) / len(texts):.2%} of {len(texts)} English comments taken for another language, ",
            end="",
        )
        print(f"{short_rate:.1%} of the {sum(is_short)} of three words or fewer")


def _median(work: Callable[[], object], rounds: int) -> float:
    """Return the median CPU time in milliseconds, over all threads."""
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def _megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


if __name__ == "__main__":
    run_command(main)
