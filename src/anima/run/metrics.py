"""`metrics.jsonl`: one line per epoch and learner, and TensorBoard events where asked for."""

import json
from pathlib import Path
from typing import Any

from anima.core.errors import InputError
from anima.core.files import write_atomically

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """All rows of a metrics file; an unfinished last line (a killed run) is left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def check_tensorboard() -> None:
    """Raises `InputError` if TensorBoard events cannot be written here."""
    _summary_writer()


class MetricsLog:
    """Appends rows to `metrics.jsonl`, and scalars to TensorBoard if `tensorboard`.

    **Raises:** `InputError` if TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False, rows: list[Row] | None = None):
        self._path = folder / "metrics.jsonl"
        write_atomically(self._path, "".join(_line(row) for row in rows or []))
        self._writer = _tensorboard(folder) if tensorboard else None

    def add(self, row: Row) -> None:
        """Appends one row and flushes it."""
        try:
            with self._path.open("a") as file:
                file.write(_line(row))
            if self._writer is not None:
                for name, value in row.items():
                    if isinstance(value, int | float) and name not in ("epoch", "step"):
                        self._writer.add_scalar(f"{row['who']}/{name}", value, row["step"])
                self._writer.flush()
        except OSError as error:
            raise InputError(
                f"cannot write {self._path}: {error.strerror or error}; the last checkpoint is "
                "intact: make room, then resume"
            ) from error

    def close(self) -> None:
        """Closes the TensorBoard writer, if there is one."""
        if self._writer is not None:
            self._writer.close()


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _tensorboard(folder: Path):
    return _summary_writer()(str(folder / "tensorboard"))


def _summary_writer():
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "--tensorboard needs the tensorboard extra: pip install 'anima[tensorboard]'"
        ) from error
    return SummaryWriter
