"""What may be said of several seeds: interquartile means, and how sure one can be of them."""

import numpy as np
from jaxtyping import Float

_DRAWS = 10_000


def iqm(values: Float[np.ndarray, "..."]) -> float:
    """The interquartile mean: of the middle half of all values, ends counted in part.

    A quarter of the mass is cut at each end (Agarwal et al., 2021), so one lucky or lost seed
    moves it little; of up to two values it is the mean.
    """
    return float(_iqm(np.sort(np.ravel(np.asarray(values, float)))))


def interval(values: Float[np.ndarray, "seeds episodes"], *, seed: int = 0) -> tuple[float, float]:
    """A 95% interval of the interquartile mean: the percentile bootstrap.

    Seeds are drawn anew with replacement, each with its episodes, as the seed is what varies
    independently; where there is one seed only its episodes are, and the interval then says
    nothing of other seeds.
    """
    values = np.asarray(values, float)
    random = np.random.default_rng(seed)
    if len(values) == 1:
        values = values.T
    means = values.mean(1)
    drawn = random.integers(0, len(means), (_DRAWS, len(means)))
    found = _iqm(np.sort(means[drawn], -1))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _iqm(ordered: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch"]:
    count = ordered.shape[-1]
    edges = np.arange(count + 1) / count
    share = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return np.asarray(ordered @ (2 * share))
