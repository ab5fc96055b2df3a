"""Log the metrics of a run, row by row, to metrics.csv, TensorBoard and, if requested, Weights & Biases."""

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from moodreel.errors import DataInvalid

FILE = "metrics.csv"
EVENTS = "tensorboard"

MetricsRow = Mapping[str, float | str]
"""A row of metrics.csv: the name of the phase, the step, the learning rate, the loss, and the metrics of the task."""


class MetricsLogger:
    """Write rows of metrics to all backends."""

    def __init__(self, folder: Path, *, history: Sequence[MetricsRow], wandb: str, about: Mapping[str, object]) -> None:
        """Open the backends.

        Args:
            folder: For metrics.csv and TensorBoard's events.
            history: Rows that a resumed run has written already; later ones in its files are dropped.
            wandb: Project of Weights & Biases, or "".
            about: Configuration of the run, which Weights & Biases shows.

        Raises:
            DataInvalid: wandb is requested and not installed.
        """
        self._wandb: Any = None
        if wandb:
            if find_spec("wandb") is None:
                raise DataInvalid("wandb is not installed: pip install wandb, or leave --wandb out.")
            import wandb as service  # an optional package

            self._wandb = service.init(project=wandb, config=dict(about), resume="allow")
        from torch.utils import tensorboard  # slow to import

        self._rows, self._file = list(history), folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        self._write_file()
        last_step = int(self._rows[-1]["step"]) if self._rows else -1
        self._tensorboard = tensorboard.SummaryWriter(str(folder / EVENTS), purge_step=last_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._tensorboard.close()
        if self._wandb:
            self._wandb.finish(exit_code=int(error is not None))

    def write(self, row: MetricsRow) -> None:
        """Log a row: numbers to all backends, strings only to metrics.csv."""
        self._rows.append(row)
        self._write_file()
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        for name, value in numbers.items():
            self._tensorboard.add_scalar(name, value, int(row["step"]))
        if self._wandb:
            self._wandb.log(numbers, step=row["step"])

    def _write_file(self) -> None:
        """Write the whole file: it is short, and a row may bring new columns."""
        with self._file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, dict.fromkeys(name for row in self._rows for name in row), restval="")
            writer.writeheader()
            writer.writerows(self._rows)
