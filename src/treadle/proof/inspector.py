"""Writes down, in a directed process, what a search for causes needs: objects at two moments, and what each module gave in one step."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from treadle.core.structure import leaves
from treadle.proof.attend import Report, add_line, stack
from treadle.proof.digest import digest_of
from treadle.proof.reach import snapshot
from treadle.system.seed import get_rng_state, preserved_rng, set_rng_state
from treadle.system.stage import Inspect

REPEATS, BACKWARDS = 3, 8
"""How often a module is called again with the very same input, and how often a gradient is computed again from the very same graph."""


class Inspector:
    """Attends a run, and adds to a file: ``{"at": "begin" | "traced" | "saved", "step", "entries"}`` and ``{"at": "trace", "module", ...}``.

    Args:
        run: the `Run`.
        inspect: what to write down, and where.
        report: told before the process ends its own life.
    """

    def __init__(self, run: Any, inspect: Inspect, report: Report) -> None:
        self._run, self._inspect, self._report = run, inspect, report
        self._path, self._tracked, self._loaders = Path(inspect.path), [], []  # type: ignore[var-annotated]

    def join(self) -> None:
        """Look on: at what is tracked and loaded from here on, and at the moments that were asked for."""
        run, track, loader = self._run, self._run.track, self._run.loader

        def tracking(**objects: Any) -> None:
            track(**objects)
            self._tracked += objects.values()

        def loading(data: Any) -> Any:
            self._loaders.append(loader(data))
            return self._loaders[-1]

        run.track, run.loader = tracking, loading
        run.events.on("run_started")(self._begin)
        if self._inspect.trace_step:
            run.events.on("step_finished")(self._traced)
        if self._inspect.saved_step:
            run.events.on("checkpoint_saved")(self._saved)

    def _begin(self, run: Any) -> None:
        self._write("begin", run)
        if self._inspect.trace_step:
            for name, model in run._loop.tracked.models().items():
                Trace(run, self._inspect, model, name).join()

    def _traced(self, run: Any) -> None:
        if run.progress.steps == self._inspect.trace_step:
            self._write("traced", run)

    def _saved(self, run: Any) -> None:
        if run.progress.steps >= self._inspect.saved_step:
            self._write("saved", run)
            self._report.die(run.progress.steps, "after it was inspected")

    def _write(self, at: str, run: Any) -> None:
        with preserved_rng():
            tracked = [*self._tracked, *run._loop.tracked.objects()]
            entries = snapshot(run, tracked, self._loaders, stack())
        add_line(self._path, {"at": at, "step": run.progress.steps, "entries": entries})


class Trace:
    """Writes down what each module of a model gives in one step, and which gradients come.

    Args:
        run: the `Run`.
        inspect: which step, and where to write.
        model: the model.
        name: the name under which it is tracked.
    """

    def __init__(self, run: Any, inspect: Inspect, model: nn.Module, name: str) -> None:
        self._run, self._inspect, self._model, self._name = run, inspect, model, name
        self._before: dict[str, Any] = {}
        self._again = False

    def join(self) -> None:
        """Hook into every part of the model."""
        for path, module in self._model.named_modules():
            if not any(True for _ in module.children()):
                title = f"{type(self._model).__name__}.{path}".rstrip(".")
                module.register_forward_pre_hook(partial(self._enter, title))
                module.register_forward_hook(partial(self._leave, title), with_kwargs=True)
        for path, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                title = f"{type(self._model).__name__}.{path}"
                parameter.register_post_accumulate_grad_hook(partial(self._gradient, title))  # type: ignore[no-untyped-call]
        self._backward, self._run.step.backward = self._run.step.backward, self._backward_again

    @property
    def _looks(self) -> bool:
        return not self._again and self._run.step.number == self._inspect.trace_step

    def _enter(self, title: str, module: nn.Module, inputs: Any) -> None:
        if self._looks:
            self._before[title] = get_rng_state()

    def _leave(self, title: str, module: nn.Module, inputs: Any, keywords: Any, output: Any) -> None:
        if not self._looks:
            return
        given, gave = digest_of(list(leaves((inputs, keywords)))), digest_of(list(leaves(output)))
        differs = self._repeat(title, module, inputs, keywords, gave)
        self._note(title, f"{type(module).__name__}, output", gave, given=given, repeat_differs=differs)

    def _repeat(self, title: str, module: nn.Module, inputs: Any, keywords: Any, gave: str) -> bool:
        """Whether the same input, weights and random numbers give other bits in this very process."""
        buffers = {name: item.clone() for name, item in module.named_buffers()}
        self._again = True
        try:
            with preserved_rng(), torch.no_grad():
                for _ in range(REPEATS):
                    set_rng_state(self._before[title])
                    for name, item in module.named_buffers():
                        item.copy_(buffers[name])
                    if digest_of(list(leaves(module(*inputs, **keywords)))) != gave:
                        return True
        finally:
            self._again = False
        return False

    def _backward_again(self, loss: Any, *more: Any, **options: Any) -> None:
        """Whether gradients of the same graph have other bits each time: of those that do, the one nearest to the loss is where it begins."""
        value = getattr(loss, "loss", loss)
        if self._looks and isinstance(value, torch.Tensor) and value.requires_grad and value.numel() == 1:
            named = [(path, parameter) for path, parameter in self._model.named_parameters() if parameter.requires_grad]
            with preserved_rng():
                computed = [self._gradients(value, [parameter for _, parameter in named]) for _ in range(BACKWARDS)]
            differing = [path for place, (path, _) in enumerate(named) if len({digests[place] for digests in computed}) > 1]
            if differing:
                self._note(f"{type(self._model).__name__}.{differing[-1]}", "gradient", "", repeat_differs=True)
        self._backward(loss, *more, **options)

    @staticmethod
    def _gradients(loss: torch.Tensor, parameters: list[nn.Parameter]) -> list[str]:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return ["" if grad is None else digest_of(grad) for grad in found]

    def _gradient(self, title: str, parameter: torch.Tensor) -> None:
        if self._looks and parameter.grad is not None:
            self._note(title, "gradient", digest_of(parameter.grad))

    def _note(self, where: str, what: str, digest: str, **more: Any) -> None:
        add_line(Path(self._inspect.path), {"at": "trace", "where": where, "what": what, "digest": digest, **more})
