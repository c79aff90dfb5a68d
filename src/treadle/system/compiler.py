"""torch.compile, so that a run does not depend on it: what cannot be compiled runs as it is, and that is said.

Every shape has a graph of its own (``dynamic=False``). torch would make a graph for any shape when it meets a second one, and go on
with that; then the bits of a step would depend on which shapes came before, and a run that goes on would not be the run
that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

Say = Callable[[str], object]
Backend = Callable[..., Any]


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
    return torch.compile(model, dynamic=False, backend=_or_as_it_is(backend, say))


def is_compiled(model: Any) -> bool:
    """Whether a model went through torch.compile."""
    return isinstance(model, nn.Module) and hasattr(model, "_orig_mod")


class OneGraph:
    """A function as one graph, gradients included.

    Args:
        function: of a batch; it may call `torch.autograd.grad`.
        backend: of torch.compile.
    """

    def __init__(self, function: Callable[[Any], Any], backend: str = "inductor") -> None:
        self._compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, batch: Any) -> Any:
        """Call it.

        Raises:
            any of `not_compiled()`: it cannot be one graph. Nothing was computed then.
        """
        from torch._dynamo import exc

        try:
            return self._compiled(batch)
        except exc.Unsupported:  # a first time, or a new shape: the graph is made where gradients may be in one
            with _gradients_in_graphs():
                return self._compiled(batch)


def not_compiled() -> tuple[type[Exception], ...]:
    """What torch.compile raises before it has computed anything."""
    from torch._dynamo import exc

    return (exc.TorchDynamoException, exc.FailOnRecompileLimitHit)


def _gradients_in_graphs() -> Any:
    from torch._dynamo import config, exc

    if not hasattr(config, "trace_autograd_ops"):
        raise exc.Unsupported(f"torch {torch.__version__} does not take gradients into a graph; torch 2.13 does")
    return config.patch(trace_autograd_ops=True)


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
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"
