"""The form of a step: as it is written, with a compiled model, or as one graph that is compiled, recorded or both.

What the machine section asks for is done where it can be done. Where it cannot, the next best is taken, and the run
says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from treadle.form.trial import fastest
from treadle.run import Run
from treadle.step.capture import Captured, CudaGraphs, Recorder, Unrecordable
from treadle.step.objective import Objective, Outcome
from treadle.step.step import Step
from treadle.step.whole import Body, Made, WholeBody, WholeStep, why_not_whole
from treadle.system.compiler import NotOneGraph, OneGraph, compiled

NAMES = {"eager": "as it is", "model": "with the model compiled", "step": "as one compiled graph"}
"""What can be asked for, and how it is called."""
_ASKED = {False: "eager", True: "model", "step": "step"}
BACKEND = "inductor"
"""Of torch.compile."""


@dataclass(frozen=True)
class Form:
    """How a step is made.

    Args:
        body: ``body(step, model, optimizer)``.
        model: what goes into it, and into evaluations.
    """

    body: Body
    model: Any


class Forms:
    """The forms that a Trainer's step can take.

    Args:
        run: the run, whose loop has begun.
        model: as it is.
        optimizer: of the model.
        objective: ``objective(model, batch)``.
        standard: the body as it is written, or the user's own.
        feed: takes an outcome, for the metrics; None where nobody wants the output.
        has_own_step: whether that is the user's own.
        taken: schedules that the objective takes as keywords.
        scheduled: names of all schedules.
        recorder: what records a step, in place of CUDA graphs.
    """

    def __init__(
        self,
        run: Run,
        model: Any,
        optimizer: Any,
        objective: Objective,
        standard: Body,
        feed: Callable[[Outcome], object] | None,
        *,
        has_own_step: bool,
        taken: list[str],
        scheduled: set[str],
        recorder: Recorder | None = None,
    ) -> None:
        self._run, self._model, self._optimizer, self._objective = run, model, optimizer, objective
        self._standard, self._feed, self._recorder = standard, feed, recorder
        machine = run.config.machine
        is_cut = machine.micro_batch is not None and machine.micro_batch != run.config.batch_size
        self._why_not = why_not_whole(model, optimizer, run.precision, has_own_step, is_cut, taken, scheduled)
        self._has_own_step, self._records = has_own_step, machine.cuda_graph
        self._graphs: dict[str, tuple[WholeStep, Callable[[Any], Made]]] = {}

    def as_asked(self, step: Step) -> Form:
        """The form that the machine section asks for.

        Args:
            step: the first one, to try with.
        """
        asked = self._run.config.machine.compile
        if asked:
            self._run.say(f"machine.compile={asked!r}: torch.compile is at work; the first step may take a minute")
        form = self._form(self._chosen(step) if asked == "auto" else _ASKED[asked], self._feed)
        if self._why_not and (asked == "step" or self._records):
            self._run.say(f"warning: the step cannot be one graph, because {self._why_not}; it is made {NAMES['model' if asked else 'eager']}")
        return form

    def _form(self, name: str, feed: Callable[[Outcome], object] | None) -> Form:
        """A form by its name, or the strongest one where it cannot be one graph."""
        model = self._model if name == "eager" else self._compiled
        form = Form(self._standard, model)
        return form if self._why_not or not (name == "step" or self._records) else Form(self._whole(name, form, feed), model)

    @cached_property
    def _compiled(self) -> Any:
        return compiled(self._model, self._run.say, BACKEND)

    def _whole(self, name: str, otherwise: Form, feed: Callable[[Outcome], object] | None) -> WholeBody:
        """A body of whole steps, which leaves to others what it is not made for."""
        run = self._run
        whole, make = self._graph(name)

        def seldom(step: Step, model: Any, optimizer: Any) -> None:
            # A batch of another size is too seldom to be compiled for; where there is no graph at all, everything comes this way.
            self._standard(step, otherwise.model if body.is_given_up else self._model, optimizer)

        body = WholeBody(whole, make, run.config.batch_size, feed or _ignored, seldom, run.say, (NotOneGraph, Unrecordable))
        return body

    def _graph(self, name: str) -> tuple[WholeStep, Callable[[Any], Made]]:
        """The step as one function, and what is called in its place; made once, so that what was tried need not be compiled again."""
        if name not in self._graphs:
            run = self._run
            model = self._compiled if name == "model" else self._model
            whole = WholeStep(model, self._objective, self._optimizer, run.precision, run.config.clip, keeps_output=self._feed is not None)
            make: Callable[[Any], Made] = OneGraph(whole, BACKEND) if name == "step" else whole
            self._graphs[name] = whole, Captured(whole, make, self._recorder or CudaGraphs(run.device)) if self._records else make
        return self._graphs[name]

    # --- compile="auto" ---

    def _chosen(self, step: Step) -> str:
        """The form that this run was started with, or the fastest one."""
        run, choices = self._run, self._run._home.folder.choices
        kept = choices.get("compile") or {}
        device = run.device.type
        if kept.get("device") == device and kept.get("form") in NAMES:
            run.say(f"machine.compile='auto': the step is made {NAMES[kept['form']]}, as when the run was started")
            return str(kept["form"])
        if self._has_own_step or isinstance(self._model, Mapping):
            run.say("machine.compile='auto' does nothing for a body of your own: it cannot be tried before it is made; say True or False")
            return "eager"
        found, seconds = fastest(run, self._candidates(), step, self._model, self._optimizer, self._objective)
        told = ", ".join(f"{NAMES[name]} {seconds[name] * 1e3:.3g} ms" for name in seconds)
        run.say(f"machine.compile='auto': the step is made {NAMES[found]}; of a batch of {step.samples}: {told}")
        choices["compile"] = {"form": found, "device": device, "ms": {name: round(value * 1e3, 4) for name, value in seconds.items()}}
        return found

    def _candidates(self) -> dict[str, Callable[[Step], object]]:
        """What is tried, by name; nothing of it reaches a metric."""
        return {name: self._candidate(name) for name in NAMES if name != "step" or not self._why_not}

    def _candidate(self, name: str) -> Callable[[Step], object]:
        form = self._form(name, None)

        def make(step: Step) -> None:
            form.body(step, form.model, self._optimizer)
            if isinstance(form.body, WholeBody) and not form.body.takes(step):
                raise Unrecordable("the step is no graph")

        return make


def _ignored(outcome: Outcome) -> None:
    """Feed nobody."""
