"""Figures show the numbers they were given, whatever those are, and leave nothing changed."""

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anima.app import figures
from anima.app.figures import alt_text, confusion, learning_curve, receptive_fields, settling
from anima.core.errors import InputError

STEPS = np.arange(31)
FREE = (np.exp(-STEPS / 5) - 3, np.exp(-STEPS / 3))
NUDGED = (-3 + 0.2 * (1 - np.exp(-STEPS[:11] / 4)), 0.1 * np.exp(-STEPS[:11] / 2))


def rows(accuracies, costs=None) -> list[dict]:
    costs = np.linspace(1, 0.5, len(accuracies)) if costs is None else costs
    return [
        {"epoch": epoch, "test_accuracy": accuracy, "cost": cost}
        for epoch, (accuracy, cost) in enumerate(zip(accuracies, costs, strict=True), start=1)
    ]


def png(figure: Figure) -> bytes:
    into = io.BytesIO()
    figure.savefig(into, format="png")
    return into.getvalue()


def words(axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def drawable() -> dict[str, Figure]:
    rng = np.random.default_rng(0)
    return {
        "learning_curve": learning_curve(rows([0.9, 0.97]), rows([0.91, 0.98])),
        "settling": settling({"free": FREE, "nudged +": NUDGED}, title="One image"),
        "confusion": confusion(rng.integers(0, 90, (10, 10)), [f"{k}" for k in range(10)]),
        "receptive_fields": receptive_fields(rng.normal(size=(64, 70)), (8, 8)),
    }


# What all share.


@pytest.mark.parametrize("name", ["learning_curve", "settling", "confusion", "receptive_fields"])
def test_each_is_drawn_wide_enough_and_says_in_words_what_it_shows(name):
    figure = drawable()[name]
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert len(png(figure)) > 8_000
    assert 880 <= figure.get_figwidth() * figure.dpi <= 940
    assert len(alt_text(figure)) > 60


def test_no_global_setting_is_changed():
    before = dict(matplotlib.rcParams)
    for figure in drawable().values():
        png(figure)
    assert dict(matplotlib.rcParams) == before


def test_the_readers_own_settings_do_not_reach_the_figures():
    plain = png(learning_curve(rows([0.9, 0.95])))
    with matplotlib.rc_context({"font.size": 30, "ytick.labelsize": 30, "lines.linewidth": 9}):
        assert png(learning_curve(rows([0.9, 0.95]))) == plain


def test_importing_costs_no_matplotlib_and_drawing_no_pyplot():
    program = (
        "import sys; from anima.app import figures, report\n"
        "assert 'matplotlib' not in sys.modules, 'imported early'\n"
        "figures.learning_curve([{'epoch': 1, 'test_accuracy': 0.5, 'cost': 1.0}])\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_text_of_a_figure_made_elsewhere_is_empty():
    assert alt_text(Figure()) == ""


# Learning curves.


def test_learning_curve_plots_error_and_cost_of_circuit_and_twin():
    accuracies, others = np.array([0.9, 0.95, 0.975]), np.array([0.91, 0.96, 0.98])
    costs = np.array([0.5, 0.2, 0.1])
    figure = learning_curve(rows(accuracies, costs), rows(others, costs / 2))
    above, below = figure.axes
    for axes, wanted in ((above, 100 * (1 - np.stack([accuracies, others]))),
                         (below, np.stack([costs, costs / 2]))):  # fmt: skip
        assert [line.get_label() for line in axes.lines] == ["circuit", "backprop twin"]
        np.testing.assert_allclose([line.get_ydata() for line in axes.lines], wanted)
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 3])
    assert words(above) == ["circuit  2.50 %", "backprop twin  2.00 %"]
    assert "from 10.00 % to 2.50 %" in alt_text(figure)


def test_learning_curve_without_a_twin_has_one_line_per_panel():
    assert [len(axes.lines) for axes in learning_curve(rows([0.9, 0.95])).axes] == [1, 1]


def test_learning_curve_of_one_epoch_shows_a_dot():
    figure = learning_curve(rows([0.9]))
    assert figure.axes[0].lines[0].get_marker() == "o"
    low, high = figure.axes[1].get_xlim()
    assert [tick for tick in figure.axes[1].get_xticks() if low <= tick <= high] == [1]
    assert len(png(figure)) > 5_000


def test_learning_curve_of_a_perfect_run_and_of_one_that_diverged():
    png(learning_curve(rows([1.0, 1.0], [0.0, 0.0])))
    gone = learning_curve(rows([0.9, 0.1], [1.0, float("nan")]), rows([0.9], [float("inf")]))
    assert np.isnan(gone.axes[1].lines[0].get_ydata()[1])
    png(gone)


def test_learning_curve_is_logarithmic_only_where_the_values_span_much():
    above, below = learning_curve(rows([0.9, 0.92], [1.0, 0.01])).axes
    assert (above.get_yscale(), below.get_yscale()) == ("linear", "log")
    assert above.get_ylim()[0] == 0


def test_learning_curve_skips_epochs_that_were_not_tested():
    run = rows([0.5, 0.6, 0.7])
    del run[1]["test_accuracy"]
    above, below = learning_curve(run).axes
    np.testing.assert_array_equal(above.lines[0].get_xdata(), [1, 3])
    np.testing.assert_array_equal(below.lines[0].get_xdata(), [1, 2, 3])


def test_learning_curve_says_which_set_was_judged():
    run = [{"epoch": 1, "validation_accuracy": 0.75, "cost": 1.0}]
    above = learning_curve(run, judged="validation").axes[0]
    assert above.get_title(loc="left") == "Validation error (%)"
    np.testing.assert_allclose(above.lines[0].get_ydata(), [25])


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ([], "of 0 rows"),
        ([{"epoch": 1, "accuracy": 0.5}], "'test_accuracy'.*with keys: accuracy, epoch"),
        ([{"test_accuracy": 0.5, "cost": 1.0}], "no 'epoch'"),
    ],
)
def test_learning_curve_names_what_is_missing(run, said):
    with pytest.raises(InputError, match=said):
        learning_curve(run)


def test_labels_that_would_overlap_are_moved_apart_in_order_and_within():
    placed = figures._apart([0.5, 0.51, 0.9], 0.1)
    np.testing.assert_allclose(placed, [0.455, 0.555, 0.9])
    np.testing.assert_allclose(figures._apart([0.0, 0.0], 0.1), [0.0, 0.1])
    np.testing.assert_allclose(figures._apart([1.2, 1.1], 0.1), [1.0, 0.9])


# Settling.


def test_settling_starts_nudged_phases_where_the_free_one_ended():
    figure = settling({"free": FREE, "nudged +": NUDGED, "nudged -": NUDGED})
    above, below = figure.axes
    for axes, part in ((above, 0), (below, 1)):
        free, plus, minus = axes.lines[:3]
        np.testing.assert_array_equal(free.get_xdata(), np.arange(31))
        np.testing.assert_array_equal(plus.get_xdata(), 30 + np.arange(11))
        np.testing.assert_array_equal(minus.get_xdata(), plus.get_xdata())
        np.testing.assert_allclose(free.get_ydata(), FREE[part])
        np.testing.assert_allclose(minus.get_ydata(), NUDGED[part])
    assert below.get_yscale() == "log"
    assert words(above) == ["free", "nudged +", "nudged \N{MINUS SIGN}"]


def test_settling_draws_residuals_that_vanish_at_the_floor_and_says_so():
    residual = np.where(STEPS > 10, 0.0, 1e-3)
    residual[-1] = 1e-15
    figure = settling({"free": (FREE[0], residual)})
    below = figure.axes[1]
    np.testing.assert_allclose(below.lines[0].get_ydata(), np.maximum(residual, 1e-12))
    assert any("below" in text for text in words(below))
    png(figure)


@pytest.mark.parametrize("residual", [np.zeros(31), np.full(31, np.nan), np.full(31, 1e-30)])
def test_settling_with_no_residual_worth_the_name(residual):
    png(settling({"free": (FREE[0], residual)}))


def test_settling_that_diverged_or_took_no_step():
    with np.errstate(over="ignore"):
        png(settling({"free": (np.array([1.0, np.inf, np.nan]), np.array([1.0, np.inf, np.nan]))}))
    png(settling({"free": (np.ones(1), np.ones(1)), "nudged": NUDGED}))


def test_settling_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="no phase"):
        settling({})
    with pytest.raises(InputError, match=r"'free'.*\(3,\).*\(2,\)"):
        settling({"free": (np.ones(3), np.ones(2))})


# Confusion.


def test_confusion_colours_shares_of_the_true_class_and_writes_counts():
    counts = np.array([[8, 2, 0], [0, 5, 5], [1, 0, 9]])
    figure = confusion(counts, ["a", "b", "c"])
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), counts / 10)
    written = words(axes)
    assert written[:6] == ["8", "2", "5", "5", "1", "9"]
    assert written[6:] == ["80.0%", "50.0%", "90.0%", "Recall"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert "22 of 30 right" in alt_text(figure)
    assert "b taken for c, 5 times" in alt_text(figure)


def test_confusion_of_a_class_never_seen():
    figure = confusion(np.array([[3, 1], [0, 0]]), ["a", "b"])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array()[1], [0, 0])
    assert "none seen" in words(figure.axes[0])
    png(figure)


@pytest.mark.parametrize("size", [1, 20, 100])
def test_confusion_of_few_and_many_classes(size):
    counts = np.random.default_rng(0).integers(0, 30, (size, size))
    figure = confusion(counts, [f"a class ${k}$" for k in range(size)])
    assert bool(words(figure.axes[0])) == (size <= 20)
    assert len(figure.axes[0].get_yticks()) <= 25
    png(figure)


def test_confusion_refuses_what_does_not_fit():
    with pytest.raises(InputError, match=r"\(2, 3\) with 2 names"):
        confusion(np.ones((2, 3)), ["a", "b"])
    with pytest.raises(InputError, match="negative"):
        confusion(np.array([[-1]]), ["a"])


# Receptive fields.


def test_receptive_fields_shows_the_largest_first_on_a_scale_symmetric_about_zero():
    weight = np.zeros((6, 3))
    weight[:, 0], weight[:, 1], weight[:, 2] = 0.1, np.arange(6), -1
    image = receptive_fields(weight, (2, 3)).axes[0].images[0]
    low, high = image.get_clim()
    assert low == -high < 0
    sheet = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_allclose(sheet[:2, :3], np.arange(6).reshape(2, 3))
    np.testing.assert_allclose(sheet[:2, 4:7], -1)
    assert np.isnan(sheet[:2, 3]).all()


def test_receptive_fields_shows_64_at_most():
    weight = np.random.default_rng(0).normal(size=(16, 100)) * np.arange(100)
    figure = receptive_fields(weight, (4, 4))
    assert figure.axes[0].images[0].get_array().shape == (8 * 5 - 1, 8 * 5 - 1)
    assert "64 of 100 units" in alt_text(figure)


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 6, 1), (4, 6, 2), (1, 24), (24, 1)])
def test_receptive_fields_of_any_shape(shape):
    weight = np.random.default_rng(0).normal(size=(np.prod(shape), 7))
    png(receptive_fields(weight, shape))


def test_receptive_fields_in_colour_are_grey_where_nothing_is_learnt():
    image = receptive_fields(np.zeros((12, 1)), (2, 2, 3)).axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), 0.5)


def test_receptive_fields_before_learning_are_all_zero():
    png(receptive_fields(np.zeros((4, 3)), (2, 2)))


def test_receptive_fields_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="pixels = 9"):
        receptive_fields(np.ones((4, 3)), (3, 3))
    with pytest.raises(InputError, match="not finite"):
        receptive_fields(np.full((4, 3), np.nan), (2, 2))


def test_lives_of_tasks_show_what_is_kept():
    kept = np.array([[[1.0, 0.0], [0.9, 0.8]], [[1.0, 0.0], [0.7, 0.6]]])
    figure = figures.tasks({"dreams": kept, "naive": kept[:1] * [1.0, 0.0]})
    assert "dreams 75.0, naive 45.0" in figures.alt_text(figure)
    above, below = figure.axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), [100, 75])
    np.testing.assert_allclose(below.lines[0].get_ydata(), [100, 80])
    with pytest.raises(InputError, match="seeds, k, k"):
        figures.tasks({"dreams": kept[:, :1]})
    with pytest.raises(InputError, match="from 1 to 4"):
        figures.tasks({})


def test_what_a_gate_did_is_drawn_by_epoch():
    rows = [{"epoch": e, "skipped": 0.4 * e, "threshold": 1 / e} for e in (1, 2)]
    figure = figures.gating(rows)
    assert "skipped 80 % of the updates; its threshold at the end was 0.5" in figures.alt_text(
        figure
    )
    with pytest.raises(InputError, match="skipped"):
        figures.gating([{"epoch": 1}])
