"""Progress on stderr: a live line on a terminal, one plain line per epoch anywhere else."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from anima.run.live import Pulse
from anima.run.train import Tick

Report = tuple[Callable[[Any], None], Callable[[str], None]]


class Words(NamedTuple):
    """How to speak of one kind of run, whose ticks have a `step` of `steps`.

    - `where`: e.g. the epoch. - `text`: the numbers. - `landmark`: whether a tick is worth a line
      of its own where there is no terminal.
    """

    where: Callable[[Any], str]
    text: Callable[[Any], str]
    landmark: Callable[[Any], bool]


def learning() -> Words:
    """Of epochs over data."""
    return Words(
        where=lambda now: f"epoch {now.epoch}/{now.epochs}",
        text=describe,
        landmark=lambda now: now.step % (now.steps // now.epochs) == 0,
    )


def living() -> Words:
    """Of lives in worlds."""
    return Words(
        where=lambda now: f"step {now.step}/{now.steps}",
        text=describe_life,
        landmark=lambda now: now.judged,
    )


@contextlib.contextmanager
def display(quiet: bool, stream: Any, words: Words) -> Iterator[Report]:
    """Yields (on tick, on warning): what to tell the user while a run trains.

    Warnings are shown even if `quiet`.
    """

    def warn(message: str) -> None:
        print(f"anima: {message}", file=stream)

    if quiet:
        yield (lambda tick: None), warn
    elif not stream.isatty():
        yield _plain(stream, words), warn
    else:
        with _live(stream, words) as tick:
            yield tick, warn


@contextlib.contextmanager
def downloads(quiet: bool, stream: Any) -> Iterator[Callable[[str, int, int | None], None]]:
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


def _download_bar(stream: Any):
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, console=Console(file=stream))


def _plain(stream: Any, words: Words) -> Callable[[Any], None]:
    def tick(now: Any) -> None:
        if words.landmark(now):
            print(f"{words.where(now)}  {words.text(now)}", file=stream, flush=True)

    return tick


@contextlib.contextmanager
def _live(stream: Any, words: Words) -> Iterator[Callable[[Any], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[where]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task("", total=None, where="", text="compiling")

        def tick(now: Any) -> None:
            text = words.text(now)
            bar.update(task, total=now.steps, completed=now.step, where=words.where(now), text=text)

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


_TOLD = (("epsilon", ".2f"), ("surprise", ".3g"), ("residual", ".1e"))


def describe_life(now: Pulse) -> str:
    """Return, epsilon, surprise, model error, residual and speed, and the last judged return."""
    chart = now.chart
    text = f"return {chart['return']:.1f}  " if "return" in chart else ""
    for name, form in _TOLD:
        if name in chart:
            text += f"{name} {chart[name]:{form}}  "
    if "drift" in chart:
        text += f"model error {chart['drift']:.2f}  skipped {100 * chart['skipped']:.0f}%  "
    text += f"{now.steps_per_second:.0f} steps/s"
    if now.rows:
        text += f"  greedy {np.mean([row['judged_return'] for row in now.rows[-now.seeds :]]):.1f}"
    return text
