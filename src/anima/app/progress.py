"""Progress on stderr: a live line on a terminal, one plain line per epoch anywhere else."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TextIO

from anima.run.train import Tick

Report = tuple[Callable[[Tick], None], Callable[[str], None]]


@contextlib.contextmanager
def display(quiet: bool, stream: TextIO) -> Iterator[Report]:
    """Yields (on tick, on warning): what to tell the user while a run trains.

    Warnings are shown even if `quiet`.
    """

    def warn(message: str) -> None:
        print(f"anima: {message}", file=stream)

    if quiet:
        yield (lambda tick: None), warn
    elif not stream.isatty():
        yield _plain(stream), warn
    else:
        with _live(stream) as tick:
            yield tick, warn


@contextlib.contextmanager
def downloads(quiet: bool, stream: TextIO) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields a callback (file, bytes done, bytes in all) that shows a download's progress.

    Nothing is shown where nothing is downloaded.
    """
    with contextlib.ExitStack() as open_bars:
        tasks = {}

        def show(name: str, done: int, total: int | None) -> None:
            if not tasks:
                tasks["bar"] = open_bars.enter_context(_download_bar(stream))
            bar = tasks["bar"]
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield (lambda name, done, total: None) if quiet else show


def _download_bar(stream: TextIO):
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, console=Console(file=stream))


def _plain(stream: TextIO) -> Callable[[Tick], None]:
    def tick(now: Tick) -> None:
        if now.step % (now.steps // now.epochs) == 0:
            print(f"epoch {now.epoch}/{now.epochs}  {describe(now)}", file=stream, flush=True)

    return tick


@contextlib.contextmanager
def _live(stream: TextIO) -> Iterator[Callable[[Tick], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task("", total=None, epoch="1", text="compiling")

        def tick(now: Tick) -> None:
            bar.update(
                task,
                total=now.steps,
                completed=now.step,
                epoch=f"{now.epoch}/{now.epochs}",
                text=describe(now),
            )

        yield tick


def describe(now: Tick) -> str:
    """Loss, accuracy, energy, residual and speed, and the last judged accuracies."""
    text = (
        f"cost {now.cost:.4f}  accuracy {100 * now.accuracy:.1f}%  energy {now.energy:.2f}  "
        f"residual {now.residual:.1e}  {now.steps_per_second:.0f} steps/s"
    )
    for row in now.rows[-2:]:
        for judge in ("test", "validation"):
            if f"{judge}_accuracy" in row and row["epoch"] == now.rows[-1]["epoch"]:
                name = judge if row["who"] == "circuit" else "twin"
                text += f"  {name} {100 * row[f'{judge}_accuracy']:.2f}%"
    if now.rows and "skipped" in now.rows[-1]:
        text += f"  skipped {100 * now.rows[-1]['skipped']:.0f}% of updates"
    return text
