"""Figures: plain data in, a matplotlib `Figure` out, one hand for all of them.

They live apart from the report and from the training loop so that anyone can draw the same
picture from the same numbers. Nothing here touches pyplot or leaves a global setting changed, and
matplotlib is imported only when a figure is asked for. Each figure carries its alternative text,
in words and numbers, as its label (`alt_text`): whoever cannot see it still gets what it says.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from anima.core.errors import InputError
from anima.run.statistics import interval, iqm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
"""One mapping per epoch, as in `metrics.jsonl`."""

BLUE, RED, TEAL, OCHRE = "#2166ac", "#d6604d", "#1b9e8a", "#b8860b"
INK, QUIET, HAIR = "#1d2430", "#69717d", "#e4e7eb"
DASHES = ("-", (0, (5, 1.6)), (0, (1.6, 1.4)), (0, (6, 1.5, 1.5, 1.5)))

_WIDTH, _DPI = 7.0, 130  # inches: 910 pixels
_FONT, _SIZE, _SMALL = "DejaVu Sans", 9.5, 8.5  # the one font that matplotlib itself brings
_STEPS = ((200, (1,)), (10, (1, 2, 5)), (0, (1, 1.5, 2, 3, 4, 6, 8)))  # ratio -> log ticks
_MINUS = "\N{MINUS SIGN}"
_FLOOR = 1e-12  # a residual below this is drawn here: it has no meaning left, nor 0 a logarithm
_MOST_NUMBERS = 20  # classes beyond which a confusion's counts would be too small to read
_MOST_LABELS = 25  # and beyond which not every class is named
_MOST_FIELDS = 64


# What people ask for.


def learning_curve(rows: Rows, twin: Rows = (), *, judged: str = "test") -> "Figure":
    """Test error (%) and training cost per epoch, with the backprop twin beside if there is one.

    **Arguments:** `rows`, one mapping per epoch: `epoch`, `test_accuracy` in [0, 1] and
    `cost`; a row may lack one of the last two (not every epoch need be tested). `twin`, the
    same for the network of equal size that backprop trained. `judged`, the set that was judged:
    with `"validation"` the key is `validation_accuracy` and the panel says so. An axis whose
    values are positive and span more than a factor 4 is logarithmic.

    **Raises:** `InputError` if no row has one of the keys.

    >>> learning_curve([{"epoch": 1, "test_accuracy": 0.97, "cost": 0.1}])
    """
    runs = {"circuit": rows, "backprop twin": twin} if twin else {"circuit": rows}
    error = {
        name: (epochs, 100 * (1 - accuracy))
        for name, run in runs.items()
        for epochs, accuracy in [_series(name, run, f"{judged}_accuracy")]
    }
    cost = {name: _series(name, run, "cost") for name, run in runs.items()}
    with _style():
        figure, (above, below) = _stacked()
        _curves(above, error, f"{judged.capitalize()} error (%)", "{:.2f} %")
        _curves(below, cost, "Training cost", "{:.3g}")
        _whole_numbers(below, [x for x, _ in (*error.values(), *cost.values())], "Epoch")
    said = [
        f"{name}: {judged} error {_range(error[name][1], '{:.2f} %')}, "
        f"training cost {_range(cost[name][1], '{:.3g}')}"
        for name in runs
    ]
    return _say(figure, f"Learning curves over {len(rows)} epoch(s). {'; '.join(said)}.")


def life_curve(
    rows: Rows, surprise_is: str = "mean |TD error|", changed: float | None = None
) -> "Figure":
    """Greedy return and surprise over environment steps, with 95% intervals over seeds.

    **Arguments:** `rows`, as in the `metrics.jsonl` of a run of agents: `seed`, `step`,
    `judged_return` and `surprise`. The line is the interquartile mean over seeds; with several
    seeds its bootstrap interval is shaded and every seed is a thin line. `changed`: the step at
    which the world became another, which is marked.

    **Raises:** `InputError` if there is no row, or a row lacks one of the keys.
    """
    steps, returns = _by_seed(rows, "judged_return")
    _, surprise = _by_seed(rows, "surprise")
    middle = np.array([iqm(column) for column in returns.T])
    with _style():
        figure, (above, below) = _stacked()
        for axes, values, head in (
            (above, returns, "Return of greedy episodes"),
            (below, surprise, f"Surprise ({surprise_is})"),
        ):
            _seed_lines(axes, steps, values)
            _head(axes, head)
            if changed is not None:
                axes.axvline(changed, color=RED, linewidth=1.0, linestyle=DASHES[1])
        _span(below, surprise)
        _whole_numbers(below, [steps], "Environment step")
        _name_ends(above, {f"{middle[-1]:.1f}": float(middle[-1])})
    last = interval(returns[:, -1:]) if len(returns) > 1 else None
    sure = f", 95% interval {last[0]:.1f} to {last[1]:.1f}" if last else ""
    return _say(
        figure,
        f"Return of {len(returns)} seed(s) over {int(steps[-1])} environment steps: "
        f"{_range(middle, '{:.1f}')} (interquartile mean{sure}).",
    )


def tasks(lives: Mapping[str, np.ndarray]) -> "Figure":
    """Lives of tasks: what is known of all tasks met so far (their mean), and what is left of the
    first.

    **Arguments:** `lives`, up to four ways to remember -> (seeds, tasks, tasks): the accuracy, in
    [0, 1], on the j-th task after the k-th was learnt. Lines are interquartile means over seeds,
    shades their bootstrap intervals.

    **Raises:** `InputError` if there is none, more than four, or one of another shape.
    """
    if not 1 <= len(lives) <= 4:
        raise InputError(f"tasks: {len(lives)} lives: from 1 to 4 can be told apart")
    for name, each in lives.items():
        if np.ndim(each) != 3 or np.shape(each)[1] != np.shape(each)[2]:
            raise InputError(
                f"tasks: {name} has the shape {np.shape(each)}: (seeds, k, k) is meant"
            )
    ends: dict[str, float] = {}
    with _style():
        figure, (above, below) = _stacked()
        for axes, so_far, head in (
            (above, True, "Accuracy on all classes met so far (%)"),
            (below, False, "Accuracy on those of the first task (%)"),
        ):
            last = {}
            for index, (name, each) in enumerate(lives.items()):
                count = each.shape[1]
                known = [each[:, k, : k + 1 if so_far else 1].mean(1) for k in range(count)]
                values, steps = 100 * np.stack(known, 1), np.arange(1, count + 1)
                middle = np.array([iqm(column) for column in values.T])
                look = _look(index, count)
                axes.plot(steps, middle, **look)
                if len(values) > 1:
                    bounds = np.array([interval(column[:, None]) for column in values.T])
                    axes.fill_between(
                        steps, *bounds.T, color=look["color"], alpha=0.16, linewidth=0
                    )
                last[f"{name} {middle[-1]:.1f}"] = float(middle[-1])
            axes.set_ylim(-4, 104)
            _head(axes, head)
            _name_ends(axes, last)
            ends = ends or last
        _whole_numbers(below, [steps], "Tasks learnt")
    return _say(figure, f"Accuracy after all tasks, in per cent: {', '.join(ends)}.")


def gating(rows: Rows) -> "Figure":
    """What a gate did: the share of updates it skipped so far, and its threshold.

    **Arguments:** `rows`, one mapping per epoch: `epoch`, `skipped` in [0, 1], `threshold` (0 of
    a gate that has none).

    **Raises:** `InputError` if no row has one of the keys.
    """
    epochs, skipped = _series("circuit", rows, "skipped")
    _, threshold = _series("circuit", rows, "threshold")
    with _style():
        figure, (above, below) = _stacked()
        _curves(above, {"circuit": (epochs, 100 * skipped)}, "Updates skipped (%)", "{:.0f} %")
        _curves(below, {"circuit": (epochs, threshold)}, "Surprise that is learnt from", "{:.3g}")
        _whole_numbers(below, [epochs], "Epoch")
    return _say(
        figure,
        f"The gate skipped {100 * skipped[-1]:.0f} % of the updates; its threshold at the end was "
        f"{threshold[-1]:.3g}.",
    )


def imagined_futures(
    paths: Mapping[str, np.ndarray],
    best: Mapping[str, np.ndarray],
    lived: Mapping[str, np.ndarray],
    wanted: Mapping[str, float],
    first: np.ndarray,
    energies: np.ndarray,
) -> "Figure":
    """What an agent imagined at a moment of decision: futures by energy, and what then happened.

    **Arguments:** `paths`, quantity -> (futures, steps + 1), from now on; `best`, the same of the
    plan (steps + 1); `lived`, of what really came (any length); `wanted`, where each should be;
    `first`, the first action of every future; `energies`, G of each.

    **Raises:** `InputError` if there is no future.
    """
    if not len(energies):
        raise InputError("imagined_futures: no future: plan first")
    names = list(paths)
    with _style():
        figure = _paper(_WIDTH, 1.4 + 1.75 * len(names))
        grid = figure.add_gridspec(len(names), 2, width_ratios=(2.3, 1))
        order = np.argsort(-energies)
        rank = np.argsort(np.argsort(energies)) / max(len(energies) - 1, 1)
        for row, name in enumerate(names):
            axes = figure.add_subplot(grid[row, 0])
            _quiet(axes)
            draw = lambda path, name=name, axes=axes, **look: axes.plot(_cut(name, path), **look)
            for index in order:
                draw(paths[name][index], color=_heat(float(rank[index])), linewidth=0.7)
            axes.axhline(wanted[name], color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
            draw(best[name], color=RED, linewidth=2.0, label="the plan")
            seen = lived[name][: len(best[name])]
            draw(seen, color=INK, linewidth=1.4, linestyle=DASHES[1], label="what came")
            _head(axes, name.replace("_", " ").capitalize())
            if row == 0:
                axes.legend(frameon=False, fontsize=_SMALL, loc="best")
            if row == len(names) - 1:
                _whole_numbers(axes, [np.arange(len(best[name]))], "Imagined step")
        _energies_by_action(figure.add_subplot(grid[:, 1]), first, energies, rank)
    return _say(
        figure,
        f"{len(energies)} imagined futures over {len(best[names[0]]) - 1} steps: energies from "
        f"{energies.min():.3g} (the plan) to {energies.max():.3g}.",
    )


def _cut(name: str, path: np.ndarray) -> np.ndarray:
    """A path to draw: an angle that goes round leaves a gap, not a line from pi to -pi."""
    if name != "angle":
        return path
    path = np.array(path, dtype=float)
    path[1:][np.abs(np.diff(path)) > math.pi] = np.nan
    return path


def _energies_by_action(axes: "Axes", first: np.ndarray, energies: np.ndarray, rank: np.ndarray):
    """The energy of every future over its first action; the lowest is marked."""
    _quiet(axes)
    whole = first.dtype.kind in "iu"
    spread = 0.28 * whole * np.sin(np.arange(len(first)) * 2.4)  # so that none hides
    colours = [_heat(r) for r in rank]
    axes.scatter(first + spread, energies, s=9, c=colours, linewidths=0)
    low = int(np.argmin(energies))
    axes.scatter(first[low] + spread[low], energies[low], s=42, c=RED, zorder=5)
    if energies.min() > 0 and energies.max() > 8 * energies.min():
        axes.set_yscale("log")
    if whole:
        axes.set_xticks(np.unique(first))
    axes.set_xlabel("First action")
    _head(axes, "Energy G")


def model_errors(rows: Rows, lookahead: int) -> "Figure":
    """How wrong the world model is as its life goes on: one step ahead, and many open loop.

    **Arguments:** `rows`, of `metrics.jsonl`: `seed`, `step`, `error` (root mean square, in
    standard deviations of a change) and `drift` (in those of what is seen, after `lookahead`
    imagined steps).

    **Raises:** `InputError` if there is no row, or a row lacks one of the keys.
    """
    with _style():
        figure, (above, below) = _stacked()
        ends = {}
        for axes, key, head in (
            (above, "error", "Error one step ahead (standard deviations of a change)"),
            (below, "drift", f"Error after {lookahead} imagined steps (standard deviations)"),
        ):
            steps, values = _by_seed(rows, key)
            _seed_lines(axes, steps, values)
            _span(axes, values)
            _head(axes, head)
            ends[key] = np.array([iqm(column) for column in values.T])
        _whole_numbers(below, [steps], "Environment step")
    return _say(
        figure,
        f"Model error: one step ahead {_range(ends['error'], '{:.2g}')}, after {lookahead} "
        f"imagined steps {_range(ends['drift'], '{:.2g}')}.",
    )


def dreamt_states(
    lived: Mapping[str, np.ndarray], dreams: Sequence[tuple[int, Mapping[str, np.ndarray]]]
) -> "Figure":
    """A life beside dreams of it: imagination left to itself from some moments, same actions.

    **Arguments:** `lived`, quantity -> its values; `dreams`, (the moment each begins at, quantity
    -> values from then on).

    **Raises:** `InputError` if there is no dream.
    """
    if not dreams:
        raise InputError("dreamt_states: no dream: imagine first")
    with _style():
        figure = _paper(_WIDTH, 0.8 + 1.45 * len(lived))
        panels = np.atleast_1d(figure.subplots(len(lived), 1, sharex=True))
        for axes, (name, values) in zip(panels, lived.items(), strict=True):
            _quiet(axes)
            for index, (begun, dream) in enumerate(dreams):
                where = np.arange(begun, begun + len(dream[name]))
                said = dict(label="dreamt") if index == 0 else {}
                axes.plot(where, _cut(name, dream[name]), color=BLUE, linewidth=1.8, **said)
                axes.plot(begun, dream[name][0], "o", color=BLUE, markersize=3.5)
            axes.plot(_cut(name, values), color=INK, linewidth=0.9, label="lived")
            _head(axes, name.replace("_", " ").capitalize())
        panels[0].legend(frameon=False, fontsize=_SMALL, loc="best", ncols=2)
        panels[-1].set_xlabel("Step")
    length = len(next(iter(dreams[0][1].values()))) - 1
    return _say(figure, f"{len(dreams)} dreams of {length} steps beside {len(values) - 1} lived.")


def _quiet(axes: "Axes") -> None:
    """A panel with a grid to read heights by and no frame."""
    _ticks(axes)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=HAIR, linewidth=0.8)
    axes.tick_params(axis="y", length=0)


def _heat(rank: float) -> tuple[float, float, float]:
    """From blue (the lowest energy) to nearly the paper's white."""
    low, high = np.array([0.13, 0.40, 0.67]), np.array([0.90, 0.92, 0.95])
    red, green, blue = low + (high - low) * rank**0.6
    return float(red), float(green), float(blue)


def settling(phases: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str = "") -> "Figure":
    """How a circuit came to rest: energy, and below it the residual, over settling steps.

    **Arguments:** `phases`: name -> (energy, residual), each of shape (steps + 1,) as `trace`
    returns them. The first phase begins at step 0, every other one where the first ended:
    `{"free": ..., "nudged +": ..., "nudged -": ...}`. Residuals of 0 or below 1e-12 are drawn
    at 1e-12. `title` stands above both.

    **Raises:** `InputError` if there is no phase, or energy and residual differ in length.
    """
    paths = _paths(phases)
    with _style():
        figure, (above, below) = _stacked()
        for index, (name, (steps, energy, residual)) in enumerate(paths.items()):
            look = _look(index, steps.size, label=_phase(name))
            above.plot(steps, _finite(energy), **look)
            below.plot(steps, np.maximum(_finite(residual), _FLOOR), **look)
        _head(above, "Energy")
        above.ticklabel_format(axis="y", useOffset=False)
        _head(below, "Residual (largest free force)")
        _residual_axis(below, [residual for _, _, residual in paths.values()])
        _whole_numbers(below, [steps for steps, _, _ in paths.values()], "Settling step")
        _name_phases(above, below, paths)
        if title:
            figure.suptitle(_plain(title), x=0.01, ha="left", size=11, weight="bold")
    said = [
        f"{name} ({steps.size - 1} steps): energy {_range(energy, '{:.4g}')}, "
        f"residual {_range(residual, '{:.1e}')}"
        for name, (steps, energy, residual) in paths.items()
    ]
    return _say(figure, f"{title or 'Settling'}: energy and residual. {'; '.join(said)}.")


def confusion(counts: np.ndarray, names: Sequence[str]) -> "Figure":
    """Which class was taken for which: colour is the share of the true class, numbers are counts.

    The colour grows with the cube root of the share, so that an error of one in a hundred is seen
    beside a diagonal of ninety-nine.

    **Arguments:** `counts`, shape (K, K), true class x predicted class; `names`, K of them. Up to
    20 classes have their counts and their recall written; a class never seen has no recall.

    **Raises:** `InputError` unless counts is square, not negative, and has one name per class.
    """
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape != (len(names),) * 2 or not counts.size:
        raise InputError(
            f"confusion: counts of shape {counts.shape} with {len(names)} names: "
            "give a (K, K) array, true x predicted, and K names"
        )
    if not np.all(counts >= 0):
        raise InputError("confusion: a count is negative or not a number: counts are 0 or more")
    seen = counts.sum(1, keepdims=True)
    share = np.divide(counts, seen, out=np.zeros(counts.shape), where=seen > 0)
    with _style():
        figure, axes = _single(_WIDTH, 6.1)
        _shares(figure, axes, share)
        _class_axes(axes, names)
        if len(names) <= _MOST_NUMBERS:
            _write_counts(axes, counts, share)
            _write_recall(axes, share, seen[:, 0])
    return _say(figure, _confusion_words(counts, names))


def receptive_fields(weight: np.ndarray, shape: tuple[int, int] | tuple[int, int, int]) -> "Figure":
    """What units look for: the incoming weights of up to 64 of them, the largest norm first.

    All share one colour scale, symmetric about 0; its ends are the 0.2 % of weights that are
    largest. With three channels a pixel's own red, green and blue are shown about mid-grey; with
    any other number the channels lie side by side.

    **Arguments:** `weight`, shape (pixels, units); `shape`, of one input: (height, width) or
    (height, width, channels), whose product is pixels.

    **Raises:** `InputError` if the two do not fit, there is no unit, or a weight is not finite.
    """
    weight = np.asarray(weight, dtype=float)
    if weight.ndim != 2 or not weight.size or weight.shape[0] != math.prod(shape):
        raise InputError(
            f"receptive_fields: weight of shape {weight.shape} for inputs of shape {shape}: "
            f"give a (pixels, units) array with pixels = {math.prod(shape)}"
        )
    if not np.isfinite(weight).all():
        raise InputError("receptive_fields: a weight is not finite: draw an earlier checkpoint")
    norms = np.linalg.norm(weight, axis=0)
    chosen = np.argsort(-norms, kind="stable")[:_MOST_FIELDS]
    sizes = np.abs(weight[:, chosen])
    limit = float(np.quantile(sizes, 0.998)) or float(sizes.max()) or 1.0
    sheet = _sheet(_tiles(weight[:, chosen], shape))
    height, width = sheet.shape[:2]
    with _style():
        figure, axes = _single(_WIDTH, min(max(6.2 * height / width, 1.2), 9.0) + 0.3)
        _draw_fields(figure, axes, sheet, limit)
    return _say(
        figure,
        f"Incoming weights of {chosen.size} of {weight.shape[1]} units as "
        f"{shape[0]} by {shape[1]} images, largest norm first: norms from "
        f"{norms[chosen[0]]:.3g} to {norms[chosen[-1]]:.3g}, colours from {-limit:.2g} "
        f"to {limit:.2g}.",
    )


def dreams(images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> "Figure":
    """Dreams: a row for every label, or one sheet if there is but one.

    **Arguments:** `images`, (dreams, pixels) in [0, 1]; `labels`, one a dream, each as often as
    the others; `shape` of an image.

    **Raises:** `InputError` if these do not fit each other.
    """
    images, labels = _pictures("dreams", images, shape), np.asarray(labels)
    names, counts = np.unique(labels, return_counts=True)
    if labels.shape != images.shape[:1] or len(set(counts)) != 1:
        raise InputError(f"dreams: {len(images)} images, labels {labels.shape}: as many of each")
    order, columns = np.argsort(labels, kind="stable"), int(counts[0])
    several = len(names) > 1
    sheet = _sheet(images[order], columns if several else None)
    with _style():
        figure, axes = _gallery(sheet)
        if several:
            _name_rows(axes, [str(name) for name in names], sheet.shape[0])
    spread = np.mean([images[labels == name].std(0).mean() for name in names])
    return _say(
        figure,
        f"{len(images)} dreams of {', '.join(map(str, names))}, {columns} of each; pixels differ "
        f"within a label by {spread:.3f} (standard deviation).",
    )


def film(frames: np.ndarray, energy: np.ndarray, shape: tuple[int, ...], *, show: int = 10):
    """One dream settling: `show` moments of it, evenly spread over log time, and its energy.

    **Arguments:** `frames`, (steps + 1, pixels) in [0, 1]; `energy`, (steps + 1,); `shape`.

    **Raises:** `InputError` if these do not fit each other.
    """
    pictures, energy = _pictures("film", frames, shape), np.asarray(energy, dtype=float)
    if energy.shape != pictures.shape[:1]:
        raise InputError(f"film: {len(pictures)} frames, energies {energy.shape}: one a frame")
    steps = len(pictures) - 1
    moments = np.unique(np.round(np.geomspace(1, steps + 1, show)).astype(int) - 1)
    with _style():
        figure = _paper(_WIDTH, 3.0)
        grid = figure.add_gridspec(2, len(moments), height_ratios=[1, 1.6])
        for column, moment in enumerate(moments):
            axes = figure.add_subplot(grid[0, column])
            axes.set_axis_off()
            axes.imshow(pictures[moment], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(str(moment), loc="center", size=_SMALL, weight="normal", color=QUIET)
        axes = figure.add_subplot(grid[1, :])
        _ticks(axes)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=HAIR, linewidth=0.8)
        axes.plot(np.arange(steps + 1), _finite(energy), color=BLUE, linewidth=1.4)
        _head(axes, "Energy")
        axes.set_xlabel("Settling step")
    return _say(
        figure,
        f"A dream settling for {steps} steps, seen at steps {', '.join(map(str, moments))}: "
        f"energy {_range(energy, '{:.4g}')}.",
    )


def completions(
    truth: np.ndarray, seen: np.ndarray, completed: np.ndarray, shape: tuple[int, ...]
) -> "Figure":
    """Three rows: what was shown, how it was completed, and what was there.

    **Arguments:** `truth`, `completed`, (images, pixels) in [0, 1]; `seen`, (pixels,) booleans;
    `shape` of an image. What was not shown is drawn in a light grey.

    **Raises:** `InputError` if these do not fit each other.
    """
    truth, completed = np.asarray(truth, float), np.asarray(completed, float)
    seen = np.asarray(seen, bool)
    if truth.shape != completed.shape or seen.shape != truth.shape[1:]:
        raise InputError(
            f"completions: images {truth.shape}, completed {completed.shape}, seen {seen.shape}"
        )
    rows = np.concatenate([np.where(seen, truth, 0.12), completed, truth])
    sheet = _sheet(_pictures("completions", rows, shape), len(truth))
    error = np.abs(completed - truth)[:, ~seen].mean()
    with _style():
        figure, axes = _gallery(sheet)
        _name_rows(axes, ["shown", "completed", "truth"], sheet.shape[0])
    return _say(
        figure,
        f"{len(truth)} images of which {100 * seen.mean():.0f} % of the pixels were shown: the "
        f"completed pixels are off by {error:.3f} on average.",
    )


def alt_text(figure: "Figure") -> str:
    """What the figure says, for those who cannot see it; empty for a figure made elsewhere."""
    return str(figure.get_label())


# One hand for all: paper, ink and axes.


def _style() -> AbstractContextManager[None]:
    """The look of all text and lines made within; whatever was set before comes back after."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "font.family": [_FONT],
            "font.size": _SIZE,
            "text.usetex": False,
            "text.color": INK,
            "axes.facecolor": "white",
            "axes.edgecolor": QUIET,
            "axes.labelcolor": QUIET,
            "axes.labelsize": _SIZE,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 8,
            "axes.linewidth": 0.8,
            "axes.axisbelow": True,
            "image.origin": "upper",
            "lines.solid_capstyle": "round",
        }
    )


def _paper(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, hspace=0.04)  # type: ignore[union-attr]
    return figure


def _stacked() -> tuple["Figure", tuple["Axes", "Axes"]]:
    """Two wide panels that share their x axis."""
    figure = _paper(_WIDTH, 4.7)
    above, below = figure.subplots(2, 1, sharex=True)
    for axes in (above, below):
        _ticks(axes)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=HAIR, linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        axes.margins(y=0.08)
    above.tick_params(axis="x", length=0)
    above.spines["bottom"].set_color(HAIR)
    return figure, (above, below)


def _single(width: float, height: float) -> tuple["Figure", "Axes"]:
    """One panel without a frame."""
    figure = _paper(width, height)
    axes = figure.add_subplot()
    _ticks(axes)
    axes.spines[:].set_visible(False)
    return figure, axes


def _ticks(axes: "Axes") -> None:
    # said outright, not by `_style`: matplotlib makes ticks late, when the style is gone again
    axes.tick_params(
        which="both",
        color=QUIET,
        labelcolor=QUIET,
        labelsize=_SMALL,
        labelfontfamily=_FONT,
        length=3,
        width=0.8,
        top=False,
        right=False,
    )
    axes.tick_params(which="minor", length=0)


def _head(axes: "Axes", text: str) -> None:
    """A panel's quantity stands level above it, where it is read without turning the head."""
    axes.set_title(text, loc="left")


def _look(index: int, points: int, **more: Any) -> dict[str, Any]:
    """The index-th line: its colour, its dashes, and a dot where it ends."""
    return {
        "color": (BLUE, RED, TEAL, OCHRE)[index % 4],
        "linestyle": DASHES[index % 4],
        "linewidth": 1.9,
        "marker": "o",
        "markersize": 4.5,
        "markevery": [points - 1],
        "zorder": 4 - index if index < 4 else 1,
        "clip_on": False,
        **more,
    }


def _say(figure: "Figure", words: str) -> "Figure":
    figure.set_label(words)
    return figure


def _plain(text: object) -> str:
    """Text that matplotlib will not take for mathematics."""
    return str(text).replace("$", r"\$")


def _phase(name: str) -> str:
    """A phase's name with its minus as long as its plus."""
    return re.sub(r"(?<=\s)-(?=\S*$)", _MINUS, _plain(name))


# Lines.


def _series(name: str, rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, values) of the rows that have `key`; what is not finite becomes a gap."""
    having = [row for row in rows if row.get(key) is not None]
    if not having:
        known = sorted({str(k) for row in rows for k in row})
        raise InputError(
            f"learning_curve: no row of the {name} has {key!r} "
            f"(of {len(rows)} rows, with keys: {', '.join(known) or 'none'})"
        )
    if missing := [row for row in having if "epoch" not in row]:
        raise InputError(f"learning_curve: a row of the {name} has no 'epoch': {dict(missing[0])}")
    epochs = np.array([row["epoch"] for row in having], dtype=float)
    return epochs, _finite([row[key] for row in having])


def _finite(values: Any) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _range(values: np.ndarray, form: str) -> str:
    """ "from first to last", in words."""
    first, last = form.format(values[0]), form.format(values[-1])
    return last if len(values) == 1 else f"from {first} to {last}"


def _curves(
    axes: "Axes", lines: Mapping[str, tuple[np.ndarray, np.ndarray]], head: str, form: str
) -> None:
    """Lines named at their ends, with the value they end at."""
    for index, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, **_look(index, x.size, label=name))
    _head(axes, head)
    _span(axes, np.concatenate([y for _, y in lines.values()]))
    ends = {name: y[np.isfinite(y)] for name, (_, y) in lines.items()}
    last = {name: float(y[-1]) if y.size else math.nan for name, y in ends.items()}
    _name_ends(axes, {f"{name}  {form.format(y)}": y for name, y in last.items()})


def _span(axes: "Axes", values: np.ndarray) -> None:
    """A logarithmic axis for what spans more than a factor 4; else one that does not hide 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    if low > 0 and high > 4 * low:
        steps = next(steps for ratio, steps in _STEPS if high > ratio * low)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(low / (high / low) ** 0.12, high * (high / low) ** 0.08)
        return
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if low >= 0:
        axes.set_ylim(0, 1.12 * high or 1.0)


def _whole_numbers(axes: "Axes", runs: Sequence[np.ndarray], label: str) -> None:
    """An x axis of whole numbers, from the first to the last."""
    from matplotlib.ticker import MaxNLocator

    every = np.concatenate(runs)
    low, high = float(every.min()), float(every.max())
    pad = 0.015 * (high - low) or 0.5
    axes.set_xlim(low - pad, high + pad)
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    axes.set_xlabel(label)


def _name_ends(axes: "Axes", ends: Mapping[str, float], first: int = 0) -> None:
    """Each label right of the panel at the height its line ends, moved apart where they meet."""
    axes.get_ylim()  # settles the limits, which the transform reads
    place = axes.transData + axes.transAxes.inverted()
    wanted = [place.transform((1.0, y))[1] if math.isfinite(y) else 0.5 for y in ends.values()]
    for index, (label, y) in enumerate(zip(ends, _apart(wanted, 0.115), strict=True)):
        colour = (BLUE, RED, TEAL, OCHRE)[(first + index) % 4]
        axes.text(
            1.015, y, label, color=colour, transform=axes.transAxes, va="center", weight="bold"
        )


def _apart(wanted: Sequence[float], gap: float) -> np.ndarray:
    """The heights nearest to `wanted` that keep `gap` between each other, kept within [0, 1]."""
    heights = np.asarray(wanted, dtype=float)
    order = np.argsort(heights, kind="stable")
    shift = gap * np.arange(heights.size)
    groups: list[list[float]] = []
    for height in (
        heights[order] - shift
    ):  # isotonic regression: neighbours in each other's way share their mean
        groups.append([height])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    level = np.concatenate([np.full(len(g), np.mean(g)) for g in groups])
    level = np.clip(level, 0, max(0.0, 1 - gap * (heights.size - 1)))
    placed = np.empty(heights.size)
    placed[order] = level + shift
    return placed


def _by_seed(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values of shape (seeds, steps)): as far as all seeds came."""
    series: dict[Any, dict[float, float]] = {}
    for row in rows:
        if any(row.get(name) is None for name in ("seed", "step", key)):
            raise InputError(f"life_curve: a row lacks seed, step or {key}: give metrics rows")
        series.setdefault(row["seed"], {})[row["step"]] = row[key]
    if not series:
        raise InputError("life_curve: no row: live first")
    shared = sorted(set.intersection(*(set(points) for points in series.values())))
    values = [[points[step] for step in shared] for points in series.values()]
    return np.asarray(shared, float), np.asarray(values, float)


def _seed_lines(axes: "Axes", steps: np.ndarray, values: np.ndarray) -> None:
    """The interquartile mean, its interval as a shade, every seed as a thin line."""
    if len(values) > 1:
        for line in values:
            axes.plot(steps, line, color=BLUE, linewidth=0.6, alpha=0.25)
        bounds = np.array([interval(column[:, None]) for column in values.T])
        axes.fill_between(steps, *bounds.T, color=BLUE, alpha=0.16, linewidth=0)
    middle = np.array([iqm(column) for column in values.T])
    axes.plot(steps, middle, **_look(0, steps.size))


# Settling.


def _paths(
    phases: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Name -> (steps, energy, residual), each phase after the first begun where that one ended."""
    if not phases:
        raise InputError('settling: no phase: give at least {"free": (energy, residual)}')
    paths: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for name, (energy, residual) in phases.items():
        energy, residual = np.asarray(energy, dtype=float), np.asarray(residual, dtype=float)
        if energy.ndim != 1 or energy.shape != residual.shape or not energy.size:
            raise InputError(
                f"settling: phase {name!r} has energy of shape {energy.shape} and residual of "
                f"shape {residual.shape}: both must be (steps + 1,)"
            )
        origin = next(iter(paths.values()))[0][-1] if paths else 0
        paths[name] = (origin + np.arange(energy.size), energy, residual)
    return paths


def _residual_axis(axes: "Axes", residuals: Sequence[np.ndarray]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    every = np.concatenate(residuals)
    every = every[np.isfinite(every)]
    drawn = np.maximum(every, _FLOOR) if every.size else np.ones(1)
    axes.set_yscale("log")
    axes.set_ylim(drawn.min() / 2.5, drawn.max() * 2.5)
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(_powers())
    if np.any(every < _FLOOR):
        place = {"transform": axes.get_yaxis_transform(), "va": "bottom", "ha": "left"}
        axes.axhline(_FLOOR, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.text(0.005, _FLOOR, "0, or below 10⁻¹²", color=QUIET, size=_SMALL, **place)


def _powers() -> Any:
    """10⁻³ in the text's own font; what is no power of ten as it is."""
    from matplotlib.ticker import FuncFormatter

    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def power(value: float, _: object) -> str:
        exponent = math.log10(value) if value > 0 else math.nan
        if not math.isclose(exponent, round(exponent), abs_tol=1e-9):
            return f"{value:g}"
        return f"10{str(round(exponent)).translate(raised)}"

    return FuncFormatter(lambda value, at: power(value, at) if value > 0 else "0")


def _name_phases(
    above: "Axes", below: "Axes", paths: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> None:
    """Phases named at their ends; if several, the first within, and a rule where it ends."""
    ends = {
        _phase(name): float(good[-1]) if (good := energy[np.isfinite(energy)]).size else math.nan
        for name, (_, energy, _) in paths.items()
    }
    if len(paths) == 1:
        return _name_ends(above, ends)
    (first, height), *rest = ends.items()
    turn = next(iter(paths.values()))[0][-1]
    for axes in (above, below):
        axes.axvline(turn, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    if math.isfinite(height):
        above.annotate(
            first,
            (turn, height),
            (-8, 7),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=BLUE,
            weight="bold",
        )
    return _name_ends(above, dict(rest), first=1)


# Confusion.


def _shares(figure: "Figure", axes: "Axes", share: np.ndarray) -> None:
    """The coloured matrix, thin white rules between its cells, and its scale."""
    from matplotlib.colors import PowerNorm

    size = share.shape[0]
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(1 / 3, 0, 1), interpolation="nearest")
    if size <= 50:
        axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.4 if size <= _MOST_NUMBERS else 0.5)
    marks = [0, 0.01, 0.05, 0.1, 0.2, 0.5, 1]
    bar = figure.colorbar(image, ax=axes, ticks=marks, aspect=32, shrink=0.82, pad=0.02)
    _ticks(bar.ax)
    bar.ax.set_yticklabels([f"{mark:.0%}" for mark in marks])
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("Share of the true class", color=QUIET)


def _class_axes(axes: "Axes", names: Sequence[str]) -> None:
    """The predicted class along the top, the true one down the left: read as a table is."""
    size = len(names)
    shown = np.arange(0, size, math.ceil(size / _MOST_LABELS))
    words = [_plain(names[int(i)]) for i in shown]
    slant = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticks(shown, words, **(slant if max(map(len, words)) > 3 else {}))
    axes.set_yticks(shown, words)
    axes.tick_params(
        length=0, top=False, bottom=False, labeltop=True, labelbottom=False, labelcolor=INK
    )
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("Predicted class", labelpad=8)
    axes.set_ylabel("True class", labelpad=8)


def _write_counts(axes: "Axes", counts: np.ndarray, share: np.ndarray) -> None:
    """Each count in its cell, but no noughts: an empty cell says it better."""
    cell = 4.5 * 72 / len(counts)  # points
    size = min(_SIZE, cell / (0.68 * len(f"{counts.max():.0f}")))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.17 else INK
            weight = "bold" if row == column else "normal"
            where: dict[str, Any] = {"ha": "center", "va": "center"}
            axes.text(column, row, f"{count:.0f}", color=colour, size=size, weight=weight, **where)


def _write_recall(axes: "Axes", share: np.ndarray, seen: np.ndarray) -> None:
    """Right of each row, how much of its class was found."""
    edge = len(share) - 0.35
    where = {"va": "center", "ha": "left", "size": min(_SMALL, 170 / len(share)), "color": QUIET}
    for row, total in enumerate(seen):
        axes.text(edge, row, f"{share[row, row]:.1%}" if total else "none seen", **where)
    axes.text(edge, -0.62, "Recall", **{**where, "va": "bottom", "size": _SMALL})


def _confusion_words(counts: np.ndarray, names: Sequence[str]) -> str:
    total, right = counts.sum(), np.trace(counts)
    words = f"Confusion of {len(names)} classes: {right:.0f} of {total:.0f} right"
    wrong = counts * (1 - np.eye(len(names)))
    if not wrong.any():
        return words + ", none confused."
    row, column = divmod(int(np.argmax(wrong)), len(names))
    worst = f"{names[row]} taken for {names[column]}, {wrong[row, column]:.0f} times"
    return f"{words}. Most often confused: {worst}."


# Receptive fields.


def _tiles(weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(units, height, width), or (units, height, width, 3) for colour."""
    fields = weight.T.reshape(-1, *shape)
    if len(shape) == 2 or shape[2] == 3:
        return fields
    units, height, width, channels = fields.shape
    return fields.transpose(0, 1, 3, 2).reshape(units, height, channels * width)


def _sheet(tiles: np.ndarray, columns: int | None = None) -> np.ndarray:
    """All tiles on one sheet, near to square by default, gutters that are not a number."""
    units, height, width = tiles.shape[:3]
    square = min(units, max(1, math.ceil(math.sqrt(units * height / width))))
    across = square if columns is None else columns
    rows = math.ceil(units / across)
    gap = max(1, round(0.07 * min(height, width)))
    size = (rows * (height + gap) - gap, across * (width + gap) - gap, *tiles.shape[3:])
    sheet = np.full(size, np.nan)
    for index, tile in enumerate(tiles):
        top, left = (height + gap) * (index // across), (width + gap) * (index % across)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _draw_fields(figure: "Figure", axes: "Axes", sheet: np.ndarray, limit: float) -> None:
    axes.set_axis_off()
    if sheet.ndim == 3:
        coloured = np.clip(0.5 + sheet / (2 * limit), 0, 1)
        axes.imshow(np.where(np.isnan(sheet), 1.0, coloured), interpolation="nearest")
        return
    image = axes.imshow(sheet, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    clipped = "both" if np.nanmax(np.abs(sheet)) > limit else "neither"
    bar = figure.colorbar(
        image, ax=axes, ticks=[-limit, 0, limit], aspect=36, shrink=0.6, pad=0.02, extend=clipped
    )
    _ticks(bar.ax)
    bar.ax.set_yticklabels([f"{_MINUS}{limit:.2g}", "0", f"+{limit:.2g}"])
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("Incoming weight", color=QUIET)


# Pictures.


def _pictures(what: str, images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Flat images as tiles."""
    images = np.asarray(images, dtype=float)
    if images.ndim != 2 or not images.size or images.shape[1] != math.prod(shape):
        raise InputError(f"{what}: images of shape {images.shape} for pixels of shape {shape}")
    return _tiles(images.T, shape)


def _gallery(sheet: np.ndarray) -> tuple["Figure", "Axes"]:
    """A sheet of pictures, ink on paper."""
    height, width = sheet.shape[:2]
    figure, axes = _single(_WIDTH, min(max(6.4 * height / width, 0.8), 9.0) + 0.2)
    if sheet.ndim == 3:
        axes.imshow(np.where(np.isnan(sheet), 1.0, sheet), interpolation="nearest")
    else:
        axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    return figure, axes


def _name_rows(axes: "Axes", names: Sequence[str], height: int) -> None:
    """A name beside each of the rows that share a sheet's height evenly."""
    step = height / len(names)
    axes.set_yticks([step * (row + 0.5) for row in range(len(names))], [_plain(n) for n in names])
    axes.tick_params(axis="y", length=0)
