"""torch.compile, so that a run does not depend on it: what cannot be compiled runs as it is, and that is said.

Every shape has a graph of its own (``dynamic=False``). torch would make a graph for any shape when it meets a second one, and go on
with that; then the bits of a step would depend on which shapes came before, and a run that goes on would not be the run
that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import nn

from treadle.config.schema import MachineConfig
from treadle.system.device import check_graphs

Say = Callable[[str], object]
Backend = Callable[..., Any]
_TOO_MANY = "batches of many shapes would need too many graphs"


def compiled(model: Any, say: Say, backend: str = "inductor") -> Any:
    """The model, or each of several, through torch.compile; one that is compiled already stays what it is.

    Args:
        model: a module, or several by name.
        say: told where a part of it cannot be compiled and runs as it is.
        backend: of torch.compile.
    """
    if isinstance(model, Mapping):
        return {name: compiled(one, say, backend) for name, one in model.items()}
    if is_compiled(model):
        return model
    return torch.compile(model, dynamic=False, backend=_or_as_it_is(backend, say), **_isolated())


def compiled_for_own_loop(model: Any, machine: MachineConfig, device: torch.device, say: Say) -> Any:
    """The model for a loop of the user's own, as the machine section asks for: of such a loop the model is all that can be compiled."""
    check_graphs(machine.cuda_graph, device)
    if machine.compile == "auto":
        say("machine.compile='auto' does nothing in a loop of your own: only a Trainer can try a step before it is made; say True or False")
    if machine.compile == "step" or machine.cuda_graph:
        say("warning: the step of a loop of your own cannot be one graph" + ("; its model is compiled" if machine.compile else ""))
    return compiled(model, say) if machine.compile in (True, "step") else model


def is_compiled(model: Any) -> bool:
    """Whether a model went through torch.compile."""
    return isinstance(model, nn.Module) and hasattr(model, "_orig_mod")


class NotOneGraph(RuntimeError):
    """A function that cannot be one graph; nothing of it was computed."""


class OneGraph:
    """A function as one graph, gradients included.

    Args:
        function: of a batch; it calls `torch.autograd.grad`.
        backend: of torch.compile.
    """

    def __init__(self, function: Callable[[Any], Any], backend: str | Backend = "inductor") -> None:
        def in_graph(batch: Any) -> Any:
            if not torch.compiler.is_compiling():  # torch gives up after so many shapes, and would call it as it is
                raise NotOneGraph(_TOO_MANY)
            return function(batch)

        # That shapes are static is said while a graph is made: said here, torch would say it again at each call, which costs a short step a tenth.
        options: dict[str, Any] | None = {"size_asserts": False} if backend == "inductor" else None  # the guards look at them
        self._compiled = torch.compile(in_graph, fullgraph=True, backend=backend, options=options, **_isolated())
        self._needs_graph: tuple[type[Exception], ...] | None = None  # once there is a graph: how torch says that it is none for these tensors

    def __call__(self, batch: Any) -> Any:
        """Call it.

        Raises:
            NotOneGraph: with what torch says.
        """
        if self._needs_graph is None:
            return self._make(batch)
        try:
            return self._compiled(batch)
        except self._needs_graph:  # out here, gradients cannot be part of a graph, so that none is made
            return self._make(batch)

    def _make(self, batch: Any) -> Any:
        """Make a graph, and call it."""
        from torch._dynamo import exc

        try:
            with _making_graphs():
                found = self._compiled(batch)
        except exc.FailOnRecompileLimitHit as error:
            raise NotOneGraph(_TOO_MANY) from error
        except exc.TorchDynamoException as error:
            raise NotOneGraph(in_short(error)) from error
        self._needs_graph = exc.Unsupported, exc.FailOnRecompileLimitHit
        return found


def _making_graphs() -> Any:
    """Let `torch.autograd.grad` be part of a graph that is made now, and let that be a graph for its shapes alone."""
    from torch._dynamo import config

    if not hasattr(config, "trace_autograd_ops"):
        raise NotOneGraph(f"torch {torch.__version__} does not take gradients into a graph; torch 2.13 does")
    return config.patch(trace_autograd_ops=True, automatic_dynamic_shapes=False, assume_static_by_default=True)


def _isolated() -> dict[str, Any]:
    """A count of graphs for each call of torch.compile, where torch can: else all models of a process share one, which is soon full."""
    return {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}


def _or_as_it_is(backend: str, say: Say) -> Backend:
    """A backend that runs a graph as it is where it cannot be compiled, and says so once."""
    said: list[str] = []

    def compile_graph(graph: Any, inputs: Any) -> Any:
        from torch._dynamo import lookup_backend

        try:
            return lookup_backend(backend)(graph, inputs)
        except Exception as error:
            if not said:
                said.append(in_short(error))
                say(f"warning: machine.compile: the model runs as it is, because torch.compile failed: {said[0]}")
            return graph.forward

    return compile_graph


def in_short(error: BaseException) -> str:
    """The first words of what a compiler says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Set TORCH")]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"
