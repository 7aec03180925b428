"""How few floating-point operations a training step can do: the floor the benchmark is held to.

Only matrix products are counted, a multiply and an add as two operations. Activations, clipping,
errors and the optimiser are not: for these sizes they are a few per cent of the operations, though
more of the time. A program can still be below a "floor" that presumes dense products everywhere,
by leaving out products that are known to be zero (errors still zero in the first settling steps,
states still zero at the start of a free phase); none of that is taken off here.

Sizes are n_0 ... n_L, P_l = n_{l-1} n_l, S = P_1 + ... + P_L, R = S - P_1. All results are per
sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def products(sizes: Sequence[int]) -> tuple[int, int]:
    """P_1 (the product at the clamped input) and R (all the others together)."""
    if len(sizes) < 3:
        raise ValueError(f"sizes must name at least one hidden layer, got {tuple(sizes)}")
    counts = [below * above for below, above in pairwise(sizes)]
    return counts[0], sum(counts[1:])


def predictive_flops(sizes: Sequence[int], steps: int, *, hoisted: bool = True) -> int:
    """One training step of a predictive circuit, T settling steps, forward start.

    The forward sweep costs 2 S, the weight gradients 2 S. A settling step brings the errors down
    through W_2 .. W_L (2 R) and, after the activities have moved, needs the predictions again.

    hoisted: the input is clamped, so its prediction of layer 1 never changes, and the sweep's own
    predictions serve the first step. T steps need T times 2 R down and T times 2 R up (the last
    of them gives the errors of the weight gradients):

        4 S + 4 T R

    otherwise every step computes every prediction before it moves, and once more for the weights:

        2 S (sweep) + T (2 S + 2 R) + 2 S (errors) + 2 S (gradients) = 6 S + T (2 S + 2 R)
    """
    first, rest = products(sizes)
    total = first + rest
    if hoisted:
        return 4 * total + 4 * steps * rest
    return 6 * total + steps * (2 * total + 2 * rest)


def eqprop_flops(
    sizes: Sequence[int], steps: int, nudged: int, *, phases: int = 2, hoisted: bool = True
) -> int:
    """One training step of equilibrium propagation: T free steps, K in each nudged phase.

    A settling step carries every inner layer's product up and down: 4 R. This is so for synchronous
    steps and for even-odd sweeps, which move each layer once.

    hoisted: x W_1 once (2 P_1), and the gradient of W_1 from the difference of the two states
    (2 P_1), the others from two outer products (4 R):

        4 P_1 + 4 R + (T + phases K) 4 R

    otherwise x W_1 at every step and two outer products for every layer:

        (T + phases K) (2 P_1 + 4 R) + 4 (P_1 + R)

    With one hidden layer R is n_1 n_2, which is tiny beside P_1: hoisting is most of the gain.
    """
    first, rest = products(sizes)
    settling = steps + phases * nudged
    per_step = 4 * rest if hoisted else 2 * first + 4 * rest
    return settling * per_step + 4 * (first + rest)


def flops(
    task: str, sizes: Sequence[int], steps: int, nudged: int = 0, *, hoisted: bool = True
) -> int:
    """The count for a task by name."""
    if task == "predictive":
        return predictive_flops(sizes, steps, hoisted=hoisted)
    if task == "eqprop":
        return eqprop_flops(sizes, steps, nudged, hoisted=hoisted)
    raise ValueError(f"task must be 'predictive' or 'eqprop', got {task!r}")
