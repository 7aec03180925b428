"""Heads: each density against scipy or a fine sum, each draw against its own density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from anima.act.heads import Categorical, Gaussian, SquashedGaussian
from anima.core.errors import InputError

HEADS = {
    "categorical": lambda: Categorical(5),
    "gaussian": lambda: Gaussian(2),
    "fixed": lambda: Gaussian(2, log_std=jnp.asarray([-0.4, 0.3])),
    "squashed": lambda: SquashedGaussian(Gaussian(2), low=jnp.asarray([-2.0, 0.0]), high=3.0),
}
CONTINUOUS = ("gaussian", "fixed", "squashed")


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param]()


def params_of(head, key):
    return jax.random.normal(key, (head.width,))


def plane(low, high, count):
    """Midpoints of a grid over a rectangle, and the area of a cell."""
    axes = [a + (b - a) * (np.arange(count) + 0.5) / count for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    return jnp.asarray(points), np.prod([(b - a) / count for a, b in zip(low, high, strict=True)])


def test_what_is_drawn_has_the_log_probability_it_says(head, getkey):
    params, key = params_of(head, getkey()), getkey()
    action, log_prob = head.draw(params, key)
    assert jnp.allclose(log_prob, head.log_prob(params, action), rtol=1e-9)
    assert jnp.array_equal(action, head.sample(params, key))
    assert jnp.shape(log_prob) == ()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_density_integrates_to_one_and_its_entropy_is_its_mean_surprise(name, getkey):
    head = HEADS[name]()
    params = params_of(head, getkey()) / 2
    far = ([-2.0, 0.0], [3.0, 3.0]) if name == "squashed" else ([-15.0, -15.0], [15.0, 15.0])
    points, cell = plane(*far, 600)
    log_prob = np.asarray(jax.jit(jax.vmap(lambda a: head.log_prob(params, a)))(points))
    density = np.exp(log_prob)
    assert np.sum(density) * cell == pytest.approx(1, abs=1e-3)
    known = -np.sum(density * log_prob) * cell
    assert float(head.entropy(params)) == pytest.approx(known, abs=2e-3)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_draws_are_reparameterised(name, getkey):
    """With the noise held, an action moves with its parameters as its derivative says."""
    head, key = HEADS[name](), getkey()
    params = params_of(head, getkey()) / 2
    sample = jax.jit(lambda params: head.sample(params, key))
    path = np.asarray(jax.jit(jax.jacfwd(sample))(params))
    step = 1e-6 * np.ones(head.width)
    moved = np.asarray(sample(params + step)) - np.asarray(sample(params - step))
    assert np.allclose(path @ step * 2, moved, rtol=1e-5)
    assert np.all(np.abs(np.diagonal(path)) > 1e-3)


def test_gaussian_agrees_with_scipy(getkey):
    head, params = Gaussian(3), jax.random.normal(getkey(), (6,))
    action = jax.random.normal(getkey(), (3,))
    known = stats.norm(np.asarray(params[:3]), np.exp(np.asarray(params[3:])))
    assert head.log_prob(params, action) == pytest.approx(known.logpdf(np.asarray(action)).sum())
    assert head.entropy(params) == pytest.approx(known.entropy().sum())
    assert jnp.array_equal(head.mode(params), params[:3])


def test_draws_have_the_moments_of_the_gaussian(getkey):
    head, params = Gaussian(1), jnp.asarray([0.7, -0.5])
    drawn = jax.jit(jax.vmap(lambda key: head.sample(params, key)))(
        jax.random.split(getkey(), 20_000)
    )
    assert jnp.mean(drawn) == pytest.approx(0.7, abs=0.02)
    assert jnp.std(drawn) == pytest.approx(np.exp(-0.5), abs=0.02)


def test_log_sigma_is_held_within_its_bounds():
    head = Gaussian(1, bounds=(-2.0, 1.0))
    for given, held in ((-5.0, -2.0), (0.3, 0.3), (4.0, 1.0)):
        assert head.moments(jnp.asarray([0.0, given]))[1] == pytest.approx(held)


def test_categorical_agrees_with_its_definition(getkey):
    head, logits = Categorical(5), jax.random.normal(getkey(), (5,))
    known = np.asarray(logits) - logsumexp(np.asarray(logits))
    log_probs = [head.log_prob(logits, jnp.asarray(a)) for a in range(5)]
    assert np.allclose(log_probs, known)
    assert head.entropy(logits) == pytest.approx(stats.entropy(np.exp(known)))
    assert head.mode(logits) == np.argmax(known)
    drawn = jax.jit(jax.vmap(lambda key: head.sample(logits, key)))(
        jax.random.split(getkey(), 20_000)
    )
    assert np.allclose(np.bincount(drawn, minlength=5) / 20_000, np.exp(known), atol=0.015)


def test_a_forbidden_action_is_never_drawn_and_spoils_nothing(getkey):
    head, logits = Categorical(3), jnp.asarray([0.2, -jnp.inf, -0.3])
    open_logits = logits[jnp.asarray([0, 2])]
    assert head.entropy(logits) == pytest.approx(float(Categorical(2).entropy(open_logits)))
    drawn = jax.jit(jax.vmap(lambda key: head.sample(logits, key)))(jax.random.split(getkey(), 500))
    assert set(drawn.tolist()) == {0, 2}
    for worth in (head.entropy, lambda logits: head.log_prob(logits, jnp.asarray(0))):
        assert np.all(np.isfinite(jax.jit(jax.grad(worth))(logits)))
    assert head.mean(logits, jnp.asarray([1.0, jnp.nan, 1.0])) == pytest.approx(1)


@pytest.mark.float32
def test_a_saturated_squash_stays_finite(getkey):
    """1 - tanh^2 rounds to zero beyond |u| = 9 in float32: its logarithm must not."""
    head, key = SquashedGaussian(Gaussian(1)), getkey()
    drives = jnp.asarray([-400.0, -20.0, 0.0, 20.0, 400.0])

    @jax.jit
    @jax.vmap
    def read(drive):
        params = jnp.asarray([drive, -1.0])
        action, log_prob = head.draw(params, key)
        latent = head.gaussian.sample(params, key)
        slopes = (
            jax.grad(lambda p: head.draw(p, key)[1])(params),
            jax.grad(lambda p: head.log_prob(p, action))(params),
        )
        own = head.gaussian.log_prob(params, latent)
        return action, log_prob, latent[0], own, slopes, head.entropy(params)

    action, log_prob, latent, own, slopes, entropy = jax.tree.map(np.asarray, read(drives))
    size = np.abs(latent).astype(np.float64)
    known = own - 2 * (np.log(2) - size - np.log1p(np.exp(-2 * size)))
    assert np.allclose(log_prob, known, rtol=1e-5, atol=1e-4)
    assert np.all(np.abs(action) <= 1)
    assert all(np.all(np.isfinite(part)) for part in (*slopes, entropy))


def test_the_squashed_entropy_is_exact_for_the_widest_sigma():
    head, params = SquashedGaussian(Gaussian(1)), jnp.asarray([1.5, 2.0])
    latent = np.linspace(-90, 90, 400_001)
    log_density = stats.norm(1.5, np.exp(2)).logpdf(latent)
    size = np.abs(latent)
    slope = 2 * (np.log(2) - size - np.log1p(np.exp(-2 * size)))
    known = np.trapezoid(np.exp(log_density) * (slope - log_density), latent)
    assert head.entropy(params) == pytest.approx(float(known), abs=1e-7)


def test_the_squashed_mode_is_the_median_and_inside_the_range(getkey):
    head = SquashedGaussian(Gaussian(1), low=-2.0, high=5.0)
    params = jnp.asarray([0.4, 0.1])
    drawn = jax.jit(jax.vmap(lambda key: head.sample(params, key)))(
        jax.random.split(getkey(), 10_000)
    )
    assert jnp.mean(drawn[:, 0] < head.mode(params)[0]) == pytest.approx(0.5, abs=0.02)
    assert jnp.min(drawn) > -2 and jnp.max(drawn) < 5


@pytest.mark.parametrize("name", ["categorical", "fixed"])
def test_curvature_bounds_the_hessian_and_is_reached(name, getkey):
    head = HEADS[name]()
    low, high = map(float, head.curvature())
    hessian = jax.jit(jax.hessian(lambda params, action: -head.log_prob(params, action)))
    extremes = []
    for scale in (0.1, 1.0, 5.0):
        params = scale * params_of(head, getkey())
        if name == "categorical":  # two equal choices bend the most
            params = params.at[:2].set(20.0)
        action = head.sample(params, getkey())
        extremes += np.linalg.eigvalsh(hessian(params, action)).tolist()
    assert min(extremes) >= low - 1e-12 and max(extremes) <= high + 1e-12
    assert max(extremes) == pytest.approx(high, rel=1e-3)


def test_a_sigma_that_depends_on_the_state_has_no_curvature_bound():
    assert Gaussian(1).curvature() == (-jnp.inf, jnp.inf)
    head, far = Gaussian(1), jnp.asarray([100.0])
    hessian = jax.jit(jax.hessian(lambda p: -head.log_prob(p, far)))(jnp.zeros(2))
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert eigenvalues[0] < -0.9 and eigenvalues[-1] > 1e3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Categorical(0), "actions is 0"),
        (lambda: Gaussian(0), "size is 0"),
        (lambda: Gaussian(2, log_std=jnp.zeros(3)), "log_std has shape"),
        (lambda: Gaussian(2, bounds=(1.0, 0.0)), "bounds of log sigma"),
        (lambda: SquashedGaussian(Gaussian(2), low=1.0, high=0.0), "low < high"),
        (lambda: SquashedGaussian(Gaussian(2), high=jnp.inf), "finite"),
        (lambda: SquashedGaussian(Gaussian(2), high=jnp.ones(3)), "shape"),
    ],
)
def test_bad_heads_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
