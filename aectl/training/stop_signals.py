"""Reasons to stop at the next step: a signal, or time that is up."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
REASONS = (*SIGNALS, "max_time")


class Interruption:
    """Context in which Ctrl-C, SIGTERM and SIGUSR1, and a limit in seconds, are remembered instead of acted on.

    `reason` then says which it was; a second Ctrl-C acts at once, for those in a hurry.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.signal: signal.Signals | None = None

    @property
    def reason(self) -> str | None:
        """Return why training must stop, or None."""
        if self.signal is not None:
            return self.signal.name
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "max_time"
        return None

    def remember(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, and hand Ctrl-C back to Python for the next time."""
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> Interruption:
        self.before = {}
        # Python takes signals in the main thread alone; a run in another one goes without.
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            self.before = {number: signal.signal(number, self.remember) for number in numbers}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
