"""CUDA graphs: a step recorded once and played again, without Python and without a launch for each kernel.

The batch is copied into the tensors that were there when the step was recorded. A graph holds addresses and constants
for good; where one of them is another one by now, the step is recorded anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from treadle.core.structure import describe, map_leaves
from treadle.step.whole import Made, WholeStep, own, tensors_of

WARM_UP = 3
"""Steps before the recording: kernels are chosen, memory is taken. They count as any other step."""


class Unrecordable(RuntimeError):
    """A step that cannot be a CUDA graph."""


class Recorder(Protocol):
    """What records: CUDA graphs, or in a test something that stands for them."""

    def warm(self, make: Callable[[], Made]) -> Made:
        """Make a step as recordings want it, and wait for nothing."""

    def record(self, make: Callable[[], Made]) -> tuple[Callable[[], object], Made]:
        """Record a step without making it: how to play it, and what a play writes into."""


class CudaGraphs:
    """CUDA graphs, each with memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm(self, make: Callable[[], Made]) -> Made:
        """On a stream of its own, as torch asks for before a recording."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            made = make()
        here.wait_stream(self._stream)
        return made

    def record(self, make: Callable[[], Made]) -> tuple[Callable[[], object], Made]:
        """Into a graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            made = make()
        return graph.replay, made


class Captured:
    """A whole step, recorded after its first few turns.

    Args:
        whole: the step, whose constants are looked at.
        make: the same, or what a compiler made of it.
        recorder: what records.

    Raises:
        Unrecordable: when called: the batch is not of tensors alone, or the step cannot be recorded.
    """

    def __init__(self, whole: WholeStep, make: Callable[[Any], Made], recorder: Recorder) -> None:
        self._whole, self._make, self._recorder = whole, make, recorder
        self._shapes: list[tuple[Any, ...]] = []
        self._constants: tuple[Any, ...] = ()
        self._turns = 0
        self._play: Callable[[], object] | None = None
        self._batch: Any = None
        self._inputs: list[torch.Tensor] = []
        self._made: Made | None = None
        self.recordings = 0
        """How often it was recorded."""

    def __call__(self, batch: Any) -> Made:
        """Make the step of a batch."""
        tensors = tensors_of(batch)
        if tensors is None:
            raise Unrecordable(f"a CUDA graph takes batches of tensors alone, this one is {describe(batch)}")
        shapes = [(tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors]
        if shapes != self._shapes:
            if self._play is not None:  # one that is seldom of this shape is made as it is
                return self._recorder.warm(lambda: self._make(batch))
            self._shapes, self._turns = shapes, 0
        constants = self._whole.constants()
        if constants != self._constants:
            self._constants, self._turns, self._play = constants, 0, None
        if self._turns < WARM_UP:
            self._turns += 1
            return self._recorder.warm(lambda: self._make(batch))
        if self._play is None:
            self._record(batch)
        for place, tensor in zip(self._inputs, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        assert self._play is not None and self._made is not None
        self._play()
        return own(self._made)

    def _record(self, batch: Any) -> None:
        self._batch = _laid_out_alike(batch)
        self._inputs = tensors_of(self._batch) or []
        try:
            self._play, self._made = self._recorder.record(lambda: self._make(self._batch))
        except RuntimeError as error:
            raise Unrecordable(f"the step cannot be recorded: {error}") from error
        self.recordings += 1


def _laid_out_alike(batch: Any) -> Any:
    """A batch in memory of its own, laid out alike."""
    return map_leaves(lambda leaf: torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device).copy_(leaf), batch)
