"""Ctrl-C and SIGTERM as a question asked between compiled chunks: nothing is cut in half."""

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def terminated_is_interrupted() -> Iterator[None]:
    """Within, SIGTERM raises `KeyboardInterrupt`, as Ctrl-C does (in the main thread only)."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM is only noted; a second Ctrl-C interrupts at once.

    Yields a function that tells whether a stop was asked for. Outside the main thread, where
    signals cannot be handled, it always says no.
    """
    asked = []

    def note(number, frame):
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread
        pass
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
