"""Level 2: a Trainer is the parts of a run, and the loop of level 3 with a standard body."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import torch
from torch import nn

from treadle.config.schema import run_config
from treadle.core.errors import ConfigError, UsageError
from treadle.core.events import Events, Handler, Predicate
from treadle.core.result import Result
from treadle.core.schedules.named import Scheduled, checked
from treadle.core.weights import weight_sets, weights_named
from treadle.core.when import Duration
from treadle.data.batch import copied
from treadle.data.loader import Loader, training_loader
from treadle.evaluation import Models, evaluate, evaluation_loader, feed
from treadle.explain.walk import Plan
from treadle.first_batches import FirstBatches
from treadle.form.forms import Forms
from treadle.log.console import watching
from treadle.log.writer import Writer
from treadle.metrics.group import Group, Metric
from treadle.prediction.deliver import Target, check_target, delivered
from treadle.prediction.outputs import outputs
from treadle.preflight import check_names, check_schedules, materialise
from treadle.run import Run
from treadle.step.objective import Outcome, Supervised, accepted, as_objective, as_outcome, with_values
from treadle.step.step import Step
from treadle.step.whole import Body
from treadle.system.code import maker
from treadle.system.device import check_graphs, pick_device
from treadle.system.precision import Precision
from treadle.system.seed import preserved_rng, seed
from treadle.system.wrap import called
from treadle.validation import check_weight_names, evaluated_sets, splits


class Trainer:
    """Model, objective, data and everything around them, ready to be fitted.

    Args:
        model: a module, or a callable that builds one under the run's seed; or several of these by name.
        objective: a loss module, ``objective(model, batch) -> Tensor | Outcome``, or None for a model that returns
            an object with ``.loss`` or where `step` does the work.
        data: the training data, see `treadle.data.sources`.
        optimizer: a callable that takes parameters, such as ``partial(torch.optim.SGD, lr=0.01)``, or an optimizer; or several by
            name: one for each of several models, or for one model ``{"muon": (muon, rule), "adamw": adamw}``, where a rule is a
            pattern as of `treadle.groups`, or several, and one without a rule gets the rest.
        valid: the validation data: a dataset, an `Evaluation` of one, or several of these by name.
        test: the test data, for nothing but the check that it is apart from the others, and the record.
        metrics: objects with ``update(output, target)``, ``compute()`` and ``reset()``, by name.
        schedules: values that change, by name, see `treadle.schedules`: fields of the optimizer, or keywords of the
            objective or of `step`; apart for some optimizers or parameter groups where one is a dict by their names.
        handlers: objects with methods named ``on_<event>``.
        writers: further views of the journal.
        events: names of events of your own, which ``step.run.fire(name)`` or a handler's ``run.fire(name)`` tells the handlers of.
        step: ``step(step, model, optimizer)`` in place of the standard body of the loop.
        config: a `treadle.Config`, or an own config that inherits from it or holds one.

    Raises:
        ConfigError, ObjectiveError, DataError: where something can be seen to be wrong.

    Example:
        >>> from treadle import Config
        >>> data = (torch.randn(8, 2), torch.randn(8, 1))
        >>> trainer = Trainer(
        ...     nn.Linear(2, 1), nn.MSELoss(), data, optimizer=torch.optim.SGD, config=Config(run_dir="runs/a", duration="1 epoch")
        ... )
        >>> sorted(trainer.evaluate(data))
        ['loss']
    """

    def __init__(
        self,
        model: Any,
        objective: Any,
        data: Any,
        *,
        optimizer: Any,
        config: Any,
        valid: Any = None,
        test: Any = None,
        metrics: Mapping[str, Metric] | None = None,
        schedules: Mapping[str, Scheduled] | None = None,
        handlers: Sequence[object] = (),
        writers: Sequence[Writer] = (),
        events: Sequence[str] = (),
        step: Callable[[Step, Any, Any], object] | None = None,
    ) -> None:
        self.origin = maker(sys._getframe(1), "Trainer")
        """The function that made this trainer, ``file:function``, where it is one that a command can call again."""
        self._given, self.config = config, run_config(config)
        self.device = pick_device(self.config.machine.device)
        check_graphs(self.config.machine.cuda_graph, self.device)
        self._precision = Precision(self.config.machine.precision, self.device)
        self.model: Any = self._built(model)
        self.optimizer = optimizer
        self._fitted: tuple[Any, Any] = (optimizer, None)  # what was given, and what the last fit built from it
        self.objective = as_objective(objective)
        if isinstance(self.objective, Supervised):
            self.objective.to(self.device)
        self.data, self.valid, self.test = data, valid, test
        self.metrics = Group(metrics or {}, self.device)
        self._schedules, self._writers = checked(schedules or {}), list(writers)
        self._own_step = step
        self._step = self._standard_step if step is None else with_values(step, self._schedules)
        self._events = Events(events)
        for handler in handlers:
            self._events.add(handler)
        self._validation = evaluated_sets(valid, self.objective, self.metrics, self.config.evaluate.every, self.device)
        check_weight_names(self._validation, self._events.objects)
        self._train_metrics: Group | None = None
        self._fed = (0, 0)  # up to which step, and which sample of it, they were fed
        self._values: dict[str, float] = {}  # the last step's schedule values

    def on(
        self,
        event: str,
        *,
        every: str | Duration | None = None,
        once: bool = False,
        first: str | Duration | None = None,
        when: Predicate | None = None,
    ) -> Callable[[Handler], Handler]:
        """Decorate a function ``f(run)`` to be called at an event. Where several conditions are given, all of them must agree.

        Args:
            event: run_started, epoch_started, step_finished, evaluated, checkpoint_saved, epoch_finished, run_finished or
                run_failed; or one that was declared with ``events=(...)``.
            every: call it only where this cadence is due, such as ``"100 steps"``; at epoch_started ``"3 epochs"`` are the epochs 1, 4, 7.
            once: call it the first time only, in the whole run: also when it goes on in another process.
            first: call it only during the first so much of the run, such as ``"100 steps"``.
            when: call it only where ``when(run)`` is true: it is asked last, at the moment itself.

        Returns:
            a decorator, which gives the function back. The function gets the `Run`: its ``step``, ``progress``, ``log``, ``latest``,
            ``evaluate``, ``fire``, ``stop``.

        Raises:
            UsageError: there is no such event, and the nearest name is given; or it has no such cadence.
            ConfigError: a length cannot be read.
        """
        return self._events.on(event, every=every, once=once, first=first, when=when)

    def off(self, handler: object) -> None:
        """Call a handler no more: a function, or an object with all its methods; also in the middle of a run, and by the handler itself.

        In a run it stays off when the run goes on in another process. The state of an object stays part of the checkpoints.

        Raises:
            UsageError: it was never registered.
        """
        self._events.off(handler)

    def fit(self, *, accept_changes: bool = False) -> Result:
        """Train. The same call in the same run folder goes on where the run was.

        Args:
            accept_changes: go on in a folder whose run was started with another config, or is over.

        Returns:
            how the run ended.

        Raises:
            TreadleError: something can be seen to be wrong, before training time is spent; or the loss is not finite.
                An exception of the user's own code arrives unchanged.
        """
        run = Run(self._given, schedules=self._schedules, writers=self._writers, accept_changes=accept_changes, origin=self.origin)
        with run:
            self._set_up(run)
            model, optimizer, body = self._model, self.optimizer, self._step
            checked = False
            for step in run.steps(self._loader):
                if not checked:
                    self._check(run, step)
                    body, model = self._form(run, step)
                    if run._loop.halving is not None:
                        body = partial(run._loop.halving.attempt, body)
                    checked = True
                body(step, model, optimizer)
                if step.number == 1 and not step.updates and not step.refused:
                    run.say("warning: the first step made no update through step.update(optimizer), so nothing is clipped, scheduled or checked")
            self._values = dict(run.step.values)
        return run.result

    def evaluate(
        self,
        data: Any,
        metrics: Mapping[str, Metric] | None = None,
        values: Mapping[str, float] | None = None,
        weights: str | None = None,
    ) -> dict[str, Any]:
        """Loss and metrics over a whole dataset, with the model's weights as they are: after `fit`, the last ones.

        For the best: ``treadle.load_weights(result.best, trainer.model)``.

        Args:
            data: the dataset, an `Evaluation` of it, or several by name.
            metrics: other metrics than the trainer's.
            values: keywords for the objective, in place of the last step's schedule values.
            weights: a set of weights that a handler keeps, such as "ema".

        Returns:
            ``{"loss": ..., **metrics}``: exact means over samples (or over what the objective counts). Of several sets, ``name/loss`` and so on.

        Raises:
            UsageError: there are no such weights.
        """
        group = self.metrics if metrics is None else Group(metrics, self.device)
        model = weights_named(self.model, self._events.objects, weights)
        self._to_device()
        found: dict[str, Any] = {}
        with watching("evaluating", self.config.log.console) as watch:
            for one in evaluated_sets(data, self.objective, group, None, self.device):
                known = self._values if values is None else values
                keywords = accepted(one.objective, known) if known is self._values or one.objective is not self.objective else known
                scores = evaluate(model, one.objective, self._reader(one.data), one.metrics, self._precision, keywords, watch)
                found |= {one.prefix("", name): value for name, value in scores.items()}
        return found

    def keywords(self, values: Mapping[str, float]) -> dict[str, float]:
        """Those of some schedule values that the objective takes as keywords, such as the ``values`` of a `run.json`."""
        return accepted(self.objective, values)

    def predict(self, data: Any, to: Target = None, weights: str | None = None) -> Any:
        """The model's outputs for a whole dataset, in its order.

        Args:
            data: the dataset. Of a supervised objective only the input is needed: the first of a tuple, or its field of a dict.
                An own objective is asked for its `Outcome.output`.
            to: where they go, batch by batch, so that memory stays small: a file whose ending says the format (.npy, .safetensors, .jsonl,
                .csv), whole or not there, with the samples' indices in all but .npy; or a function of (ids, output). Unless told, memory.
            weights: a set of weights that a handler keeps, such as "ema".

        Returns:
            the outputs, in the model's own structure and on the CPU. Tensors are joined along their first dimension; a list that has one
            item a sample grows, any other container is structure. The path where they went to a file, None where to a function.

        Raises:
            UsageError: there are several models, or no such weights; or `to` is no place for predictions.
            ObjectiveError: there is no output, or the format cannot hold it.
            OSError: the file cannot be written; nothing of it is left.
        """
        if isinstance(self.model, Mapping):
            raise UsageError("predict needs one model; with several, call the one you want yourself")
        check_target(to)
        model, values = weights_named(self.model, self._events.objects, weights), accepted(self.objective, self._values)
        self._to_device()
        with (
            watching("predicting", self.config.log.console) as watch,
            closing(outputs(model, self.objective, self._reader(data), self._precision, values, watch)) as parts,
        ):
            return delivered(parts, to)

    def _plan(self) -> Plan:
        """What a fit would be made of, for `treadle explain`: nothing is trained, and no run folder made."""
        run = Run(self._given, schedules=self._schedules)  # it is not entered
        self._register(run.events)
        loader = training_loader(self.data, run.config, torch.device("cpu"))  # nothing moves
        return Plan(run.config, run.events, loader, Duration.parse(run.config.duration), self._schedules, self._step)

    # --- the standard body ---

    def _standard_step(self, step: Step, model: Any, optimizer: Any) -> None:
        for batch in step:
            outcome = self.objective(model, batch, **self._keywords(step)) if self._taken else self.objective(model, batch)
            if type(outcome) is not Outcome:
                outcome = as_outcome(outcome, batch)
            step.backward(outcome)
            if self._train_metrics and not step.refused and (place := (step.number, step.reached)) > self._fed:
                feed(self._train_metrics, outcome)
                self._fed = place  # a step that is made again has counted these
        step.update(*self._optimizers, clip=self.config.clip)

    def _keywords(self, step: Step) -> dict[str, float]:
        return {name: step.values[name] for name in self._taken if name in step.values}

    def _form(self, run: Run, step: Step) -> tuple[Body, Any]:
        """The body of the loop in the form that the machine section asks for, and the model that goes into it and into evaluations."""
        metrics, scheduled = self._train_metrics, set(run.step.values)
        feeds = None if metrics is None else partial(feed, metrics)
        self._train_metrics = None  # a trial is none of their business
        own = self._own_step is not None
        forms = Forms(run, self.model, self.optimizer, self.objective, self._step, feeds, has_own_step=own, taken=self._taken, scheduled=scheduled)
        try:
            found = forms.as_asked(step)
        finally:
            self._train_metrics = metrics
        self._model = found.model
        return found.body, found.model

    # --- setting up ---

    def _built(self, model: Any) -> Models:
        several = model if isinstance(model, Mapping) else {"model": model}
        with preserved_rng():
            seed(self.config.seed)
            built = {name: one if isinstance(one, nn.Module) else called(one) for name, one in several.items()}
        return built if isinstance(model, Mapping) else built["model"]

    def _set_up(self, run: Run) -> None:
        self._loader = run.loader(self.data)
        run.check_data(train=self._loader, **splits(self.valid), test=self.test)
        if not self._own_step:
            materialise(self.model, self.objective, self._loader, self.config.seed)
        given = self._fitted[0] if self.optimizer is self._fitted[1] else self.optimizer
        self._model, self.optimizer = run._placed(self.model, given)
        self._fitted = (given, self.optimizer)
        self._optimizers = tuple(_named("optimizer", self.optimizer).values())
        run.track(**_named("model", self.model), **_named("optimizer", self.optimizer))
        loss = getattr(self.objective, "loss", None)
        if isinstance(loss, nn.Module) and loss.state_dict():  # class weights, running statistics
            run.track(objective=loss)
        if self._own_step is None and isinstance(self.model, Mapping):
            raise ConfigError("several models need an own body of the loop: give step=my_step, a function of (step, model, optimizer)")
        check_schedules(self._schedules, self._optimizers, self.objective, self._own_step)
        run._taken = set(self._schedules)
        self._taken: list[str] = list(accepted(self.objective, self._schedules))
        self._handle(run)

    def _handle(self, run: Run) -> None:
        if self._measures_training:
            self._train_metrics, self._fed = self.metrics.fresh_copy(self.device), (0, 0)
            run.track(train_metrics=self._train_metrics)
        self._register(run.events)

    def _register(self, events: Events) -> None:
        """Handlers in the order in which they are called: training metrics, the user's, then the evaluations."""
        if self._measures_training:
            events.on("step_finished", every="1 epoch")(self._log_train_metrics)
        events.include(self._events)
        for one in self._validation:
            every = one.every or self.config.duration
            events.on("step_finished", every=every, at_end=True, evaluates=True)(one.handler(lambda: (self._model, self.model)))

    @property
    def _measures_training(self) -> bool:
        return bool(self.metrics) and self._own_step is None and self.config.log.train_metrics

    def _log_train_metrics(self, run: Run) -> None:
        assert self._train_metrics is not None
        run.log(self._train_metrics.compute(), prefix="train")
        self._train_metrics.reset()

    def _check(self, run: Run, step: Step) -> None:
        """The first batch of each kind goes through everything once, before anything is updated."""
        first = FirstBatches(self._model, run.precision, run.step.values)
        names = {"train/loss", "train/epoch_loss"}.union(*(getattr(handler, "logs", ()) for handler in self._events.objects))
        if self._own_step is None:
            # Training targets that no metric is going to see may be of another kind, such as the mixed labels of mixup.
            seen = self.metrics if self._train_metrics or not self._validation else Group({}, self.device)
            outcome = run.attempt(lambda: first.look(self._loader, copied(next(iter(step))), self.objective, seen, training=True))
            names |= {f"train/{name}" for name in [*outcome.logs, *(self._train_metrics.names if self._train_metrics else ())]}
        kept = [(), *((name,) for name in weight_sets(self._events.objects))]
        for one in self._validation:
            outcome = first.look_at_set(one, run._readers)
            names |= {one.prefix("valid", *weights, name) for name in ["loss", *outcome.logs, *one.metrics.names] for weights in kept}
        monitored = [(type(handler).__name__, getattr(handler, "monitor", None)) for handler in self._events.objects]
        asked = [("checkpoint.best", self.config.checkpoint.best), *monitored]
        for doubt in check_names(asked, names, others=self._own_step is not None or self._events.any_but("treadle.policies")):
            run.say(doubt)

    def _reader(self, data: Any) -> Loader:
        return evaluation_loader(data, self.config, self.device)

    def _to_device(self) -> None:
        for model in _named("model", self.model).values():
            model.to(self.device)


def _named(name: str, item: Any) -> dict[str, Any]:
    """One object under a name, or several as ``name-key``: as a run tracks them."""
    return {f"{name}-{key}": one for key, one in item.items()} if isinstance(item, Mapping) else {name: item}
