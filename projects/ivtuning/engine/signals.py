"""A request to stop: SIGTERM, every cluster's goodbye, or Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from types import FrameType
from typing import Any

from ..errors import Stopped

_KINDS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Inside this context the first SIGTERM or Ctrl-C is a request, and a second one ends at once.

    Outside the main thread, where Python handles no signals, it does nothing.

    Attributes:
        number (int): the signal that came, None before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}
        self._process = os.getpid()
        # torchrun passes on to its processes what a terminal or a cluster has already sent to all of them.
        self._pause = 1.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {kind: signal.signal(kind, self._note) for kind in _KINDS}
        return self

    def __exit__(self, *_) -> None:
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a child: its parent ends it
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            if os.environ.get("RANK", "0") == "0":
                # Not by print, which a signal may have interrupted in the middle.
                os.write(2, b"\nstopping at the end of this step; a second signal ends the run at once\n")
        elif now - self._since >= self._pause:
            self.__exit__()
            os.kill(os.getpid(), number)

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal came."""
        if self.number is not None:
            raise Stopped(self.number, f"stopped by {signal.Signals(self.number).name}")


class Interruptible:
    """`items`, between two of which a stop is obeyed; as long as they are."""

    def __init__(self, items: Collection, stop: StopRequest):
        self.items, self.stop = items, stop

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator:
        for item in self.items:
            self.stop.check()
            yield item
