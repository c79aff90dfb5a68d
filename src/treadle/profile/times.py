"""Times: stamps of the host, and on a GPU of the device, which does its work later than it is asked to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch


class Stamp(NamedTuple):
    """A moment.

    Args:
        host: seconds of the host's clock.
        event: reached by the device once all work that was asked for before is done; None where there is no such device.
    """

    host: float
    event: Any = None


class Times:
    """Takes stamps without waiting, and makes seconds of them afterwards.

    On a GPU the time between two events is what passed there between the work before the one and the work before the other.
    What the host does meanwhile, such as waiting for data, shows only where the device had nothing to do for it; that is
    what it costs. So these times add up to the whole, too.

    Args:
        device: where it is computed.
        now: the host's clock.
        event: makes and records an event; that of the device unless told.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter, event: Callable[[], Any] | None = None) -> None:
        self._device, self.now = device, now
        self._event = event or (self._recorded if device.type == "cuda" else None)

    def stamp(self) -> Stamp:
        """This moment."""
        return Stamp(self.now(), None if self._event is None else self._event())

    def seconds(self, stamps: Sequence[Stamp]) -> list[float]:
        """When stamps were reached: by the device where there is one, which is waited for; in seconds after the first."""
        if not stamps:
            return []
        first = stamps[0]
        if first.event is None:
            return [stamp.host - first.host for stamp in stamps]
        stamps[-1].event.synchronize()
        return [first.event.elapsed_time(stamp.event) / 1000 for stamp in stamps]

    def _recorded(self) -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
