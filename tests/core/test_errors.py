"""Messages say what, which value, and what to do."""

import jax.numpy as jnp
import pytest

from anima.core.errors import InputError, check_fraction, check_positive, check_range, nearest, pick


def test_nearest_guesses_and_lists():
    hint = nearest("fashoin", ["mnist", "fashion"])
    assert hint == "did you mean 'fashion'? (known: fashion, mnist)"
    assert nearest("zzz", ["mnist", "fashion"]) == "(known: fashion, mnist)"


def test_pick():
    assert pick("rule", "sgd", {"sgd": 1}) == 1
    with pytest.raises(InputError, match=r"unknown rule 'sdg': did you mean 'sgd'\?"):
        pick("rule", "sdg", {"sgd": 1})


@pytest.mark.parametrize("value", [0, -1, -0.5, float("nan")])
def test_not_positive(value):
    with pytest.raises(InputError, match=f"Euler: dt is {value}"):
        check_positive("Euler", dt=value)


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan")])
def test_out_of_range(value):
    with pytest.raises(InputError, match=rf"noise: rate is {value}: it must be in \[0, 1\)"):
        check_range("noise", 0, 1, rate=value)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_no_fraction(value):
    with pytest.raises(InputError, match=rf"gae: discount is {value}: it must be in \[0, 1\]"):
        check_fraction("gae", discount=value)


def test_good_numbers_and_swept_arrays_pass():
    check_positive("Euler", dt=0.1, bound=None, swept=jnp.asarray([-1.0]))
    check_fraction("gae", discount=1, decay=0.0, swept=jnp.asarray([2.0]))
    check_range("noise", 0, 1, rate=0, other=0.999, swept=jnp.asarray([2.0]))
