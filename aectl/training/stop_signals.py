"""Reasons to stop training at the next step: a signal or a time limit."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
REASONS = (*SIGNALS, "max_time")


class Interruption:
    """Context that records Ctrl-C, SIGTERM, SIGUSR1 and a time limit in `reason` instead of raising.

    A second Ctrl-C raises KeyboardInterrupt at once.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.signal: signal.Signals | None = None

    @property
    def reason(self) -> str | None:
        """The reason why training must stop, or None."""
        if self.signal is not None:
            return self.signal.name
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "max_time"
        return None

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Record the signal, and restore Python's handler of Ctrl-C."""
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> Interruption:
        self.before = {}
        # Python allows signal handlers only in the main thread.
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            self.before = {number: signal.signal(number, self.handle_signal) for number in numbers}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
