"""Texts a second, beside the bare network; memory that a worker gains; how often English is called foreign.

    python -m bench.text [--data PATH] [--rounds N]

PATH is GoEmotions' folder, for the last of these. Times are CPU time of this process on one thread, since a worker has
one: what else the machine does changes them little.
"""

import argparse
import ctypes
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from moodreel.pipelines.language_id import LanguageIdentifier

STORE = Path(__file__).resolve().parents[1] / "model_store"
LINE = "I finally told her how I feel, and I have been smiling ever since 😊"
ENTRY = (LINE + " Then we went home and I cooked dinner, nothing special, and watched the rain for a while. ") * 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="GoEmotions' folder")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # As Gunicorn's workers have it (api/gunicorn.conf.py): blocks of a matrix's size are given back when they are free.
    ctypes.CDLL(None).mallopt(-3, 1024 * 1024)
    from moodreel.models.face_registry import face_model_registry

    # A worker has loaded it in any case, with all that torch itself takes for that.
    face_model_registry(STORE).get()
    before = _megabytes()
    from moodreel.pipelines.text import TextPipeline

    imported = _megabytes()
    reader = TextPipeline.load(STORE, use_gpu="0")
    reader.predict([LINE])
    print(
        f"memory: {imported - before:.0f} MB of imports beside those of faces, {_megabytes() - imported:.0f} of models"
    )

    predictor = reader.models.get()
    for name, texts in (("a line", [LINE]), ("64 lines", [LINE] * 64), (f"{len(ENTRY):,} characters", [ENTRY])):
        windows = [window for text in texts for window in predictor.tokenizer.tokenize(text)]
        whole = _median(lambda texts=texts: reader.predict(texts), options.rounds)
        bare = _median(lambda windows=windows: predictor.predict(windows), options.rounds)
        print(
            f"{name}: {whole:.1f} ms ({whole / bare:.2f} x the network alone, {bare:.1f} ms), "
            f"{1000 * len(texts) / whole:.0f} texts a second"
        )
    if options.data:
        _count_false_alarms(options.data)


def _count_false_alarms(data: Path) -> None:
    """Names are filled in: GoEmotions has [NAME] in their place, which is no word."""
    finder = LanguageIdentifier(STORE / "lid.176")
    for split in ("dev", "train"):
        rows = (data / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        texts = [re.sub(r"\[[A-Z]+\]", "Anna", row.split("\t")[0]) for row in rows if row]
        foreign = [finder.detect(text) not in ("en", None) for text in texts]
        few = [len(re.findall(r"[^\W\d_]+", text)) <= 3 for text in texts]
        of_few = sum(alarm for alarm, short in zip(foreign, few, strict=True) if short) / sum(few)
        print(f"{split}: {sum(foreign) / len(texts):.2%} of {len(texts)} English comments called foreign, ", end="")
        print(f"{of_few:.1%} of the {sum(few)} of three words or fewer")


def _median(work: Callable[[], object], rounds: int) -> float:
    """CPU milliseconds, of all threads."""
    work()
    spent = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        spent.append(1000 * (time.process_time() - begun))
    return statistics.median(spent)


def _megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


if __name__ == "__main__":
    main()
