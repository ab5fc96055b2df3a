"""How training goes, row by row: to metrics.csv, to TensorBoard, and to Weights & Biases where it is asked for."""

import csv
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from moodreel.errors import DataInvalid

log = logging.getLogger(__name__)

FILE = "metrics.csv"
EVENTS = "tensorboard"


class MetricsLogger:
    """Writes rows to all that is there.

    folder: for metrics.csv and TensorBoard's events; None writes no files. history: rows that a run which goes on has
    written already; others of that file, later than its checkpoint, are taken out. wandb: a project's name, or "".
    Raises DataInvalid where wandb is asked for and not installed.
    """

    def __init__(
        self, folder: Path | None, *, history: Sequence[Mapping[str, Any]], wandb: str, about: Mapping[str, Any]
    ) -> None:
        self._rows = list(history)
        self._file = folder / FILE if folder else None
        self._board = self._run = None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            self._rewrite()
            self._board = _open_board(folder / EVENTS, after=self._rows[-1]["step"] if self._rows else -1)
        if wandb:
            if find_spec("wandb") is None:
                raise DataInvalid("wandb is not installed: pip install wandb, or leave --wandb out.")
            import wandb as service

            self._run = service.init(project=wandb, config=dict(about), resume="allow")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._board:
            self._board.close()
        if self._run:
            self._run.finish(exit_code=int(error is not None))

    def write(self, row: Mapping[str, Any]) -> None:
        new = not self._rows or row.keys() - set().union(*self._rows)
        self._rows.append(row)
        if self._file and new:
            self._rewrite()
        elif self._file:
            with self._file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        if self._board:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, row["step"])
        if self._run:
            self._run.log(numbers, step=row["step"])

    def _rewrite(self) -> None:
        """Write the whole file: its columns are known once a row has them all."""
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        if self._file:
            with self._file.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns, restval="")
                writer.writeheader()
                writer.writerows(self._rows)


def _open_board(folder: Path, after: int) -> Any:
    if find_spec("tensorboard") is None:
        log.warning("TensorBoard is not installed, so there is %s alone: pip install -r requirements-extras.txt.", FILE)
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=after + 1)
