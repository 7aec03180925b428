"""Errors a user can act on: each message is one line saying what, which value, and what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the caller can mend it, and the message says how. The command exits with 2."""


class DivergedError(RuntimeError):
    """A computation left the finite numbers; the message says where and what to try."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint for a misspelt `word`: the closest known one, and all that are known.

    **Arguments:** `word`, what was given; `known`, what would have been understood.

    >>> nearest("fashoin", ["mnist", "fashion"])
    "did you mean 'fashion'? (known: fashion, mnist)"
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}(known: {', '.join(names)})"


def pick(kind: str, word: str, table: dict):
    """Returns `table[word]`, or raises `InputError` naming the nearest known word."""
    if word not in table:
        raise InputError(f"unknown {kind} {word!r}: {nearest(str(word), table)}")
    return table[word]


def check_positive(owner: str, **values) -> None:
    """Raises `InputError` for a number that is not positive; arrays (swept values) are let pass."""
    for name, value in values.items():
        if isinstance(value, int | float) and not value > 0:
            raise InputError(f"{owner}: {name} is {value}: it must be positive")


def check_range(owner: str, low: float, high: float, **values) -> None:
    """Raises `InputError` for a number outside [low, high); arrays are let pass."""
    for name, value in values.items():
        if isinstance(value, int | float) and not low <= value < high:
            raise InputError(f"{owner}: {name} is {value}: it must be in [{low}, {high})")


def check_fraction(owner: str, **values) -> None:
    """Raises `InputError` for a number outside [0, 1]; arrays (swept values) are let pass."""
    for name, value in values.items():
        if isinstance(value, int | float) and not 0 <= value <= 1:
            raise InputError(f"{owner}: {name} is {value}: it must be in [0, 1]")
