"""Freeze parts of a model, for a while or for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import LBFGS

from treadle.core.errors import ConfigError, did_you_mean
from treadle.core.modes import rest_where_frozen, set_train_mode
from treadle.core.patterns import Pattern, as_patterns, chosen, plain_name, shown
from treadle.core.schedules.named import ByName
from treadle.core.settings import SCALE, check_settings, for_group
from treadle.core.when import Duration


@dataclass(frozen=True)
class _Cut:
    """What was taken out of one parameter group: some of its parameters, and all of its settings."""

    optimizer: Any
    group: dict[str, Any]


class Freeze:
    """Freeze parts of a model: no gradient, evaluation mode (BatchNorm's statistics stay), and no parameter group.

    At `until` they train: their parameters get groups of their own, with the name and the settings of those that they were taken out of
    unless told otherwise, and everybody else's state in the optimizer stays as it is. Several of these unfreeze a model part by part. When the run
    is over, what is still frozen is put back as it was found.

    Args:
        patterns: which parameters: names such as ``"features"`` (all that is in it) or ``"*.bias"``, a ``re.compile(...)``, which is searched
            for, or ``f(name, parameter) -> bool``.
        until: when they begin to train, such as ``"3 epochs"``; None never.
        model: which of several models the run tracks, by name.
        settings: of the new groups, such as ``lr=1e-4`` or ``weight_decay=0.0``; or ``lr_scale=0.1``, a factor on the learning rate, also on one
            that a schedule gives.

    Raises:
        ConfigError: here, or when the run begins: a pattern matches no parameter, nothing is left to train, or the
            optimizer has no such setting; the nearest names are given.

    Example:
        >>> Freeze("features", until="3 epochs", lr_scale=0.1)
        Freeze('features', until='3 epochs')
    """

    def __init__(self, *patterns: Pattern, until: str | Duration | None = None, model: str | None = None, **settings: Any) -> None:
        self._patterns = as_patterns(patterns, "Freeze")
        self._until = None if until is None else Duration.parse(until)
        self._name, self._settings = model, settings
        if settings and until is None:
            raise ConfigError(f"{self!r}: {', '.join(settings)} would never hold, since without until= the parts stay frozen")
        self._model: Any = None
        self._frozen: list[Any] = []
        self._optimizers: dict[str, Any] = {}
        self._cuts: list[_Cut] = []
        self._is_over = False

    def __repr__(self) -> str:
        until = "" if self._until is None else f", until='{self._until}'"
        return f"Freeze({', '.join(map(shown, self._patterns))}{until})"

    # --- what the run calls ---

    def prepare(self, run: Any) -> None:
        """Freeze: schedules were bound to the groups as they were built, and nothing is restored yet."""
        name, model = self._model_of(run)
        named = {plain_name(key): parameter for key, parameter in model.named_parameters(remove_duplicate=False)}
        names = chosen(self._patterns, named, f"{self!r}: the model {name!r}")
        params = {id(named[key]): named[key] for key in names}
        held = {id(p): optimizer for optimizer in run.optimizers.values() for group in optimizer.param_groups for p in group["params"]}
        if self._until is not None:
            self._check_until(run)
            if lost := [key for key in names if id(named[key]) not in held]:
                raise ConfigError(
                    f"{self!r}: {lost[0]!r} is in no optimizer, so nobody knows how it would train: it is frozen by another Freeze or by hand "
                    "(requires_grad=False), or the optimizer was built without it. Build that from all parameters; Freeze takes them out"
                )
        self._check_rest(run, set(params))
        self._model, self._optimizers, self._is_over = model, dict(run.optimizers), False
        self._frozen = [p for p in params.values() if p.requires_grad]
        self._freeze()
        self._check_schedules(run)
        count = sum(p.numel() for p in params.values())
        run.say(f"{self!r}: {len(params):,} tensors, {count:,} parameters")

    def detach(self, run: Any) -> None:
        """Put back what is still frozen: the run is over."""
        if not self._is_over:
            self._thaw()
        self._model, self._frozen, self._optimizers, self._is_over = None, [], {}, False

    def on_step_finished(self, run: Any) -> None:
        """Unfreeze when it is time."""
        if self._is_over or self._until is None or self._until.count(run.progress) < 1:
            return
        self._thaw()
        self._is_over = True
        run.say(f"{self!r}: trains from step {run.progress.steps + 1:,} on")

    def on_run_finished(self, run: Any) -> None:
        """Say so where the time never came."""
        if self._until is not None and not self._is_over and run.progress.finished:
            run.say(f"warning: {self!r}: the run was over before that")

    def state_dict(self) -> dict[str, Any]:
        """Whether the time has come, for a checkpoint."""
        return {"over": self._is_over}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as `state_dict` said: the groups are as they were then, so that the optimizer's state fits."""
        if state["over"] and not self._is_over:
            self._thaw()
        elif self._is_over and not state["over"]:
            self._freeze()
        self._is_over = state["over"]

    # --- freezing and unfreezing ---

    def _freeze(self) -> None:
        frozen = set(map(id, self._frozen))
        for parameter in self._frozen:
            parameter.requires_grad_(False)
            parameter.grad = None
        self._cuts = [cut for optimizer in self._optimizers.values() for cut in _cut_out(optimizer, frozen)]
        rest_where_frozen(self._model, frozen)

    def _thaw(self) -> None:
        if self._model is None:
            return
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        for cut in self._cuts:
            cut.optimizer.add_param_group(self._group(cut))
        self._cuts = []
        if self._model.training:
            set_train_mode(self._model)

    def _group(self, cut: _Cut) -> dict[str, Any]:
        """A new group: what was taken out of an old one, with its settings and the user's own."""
        group = {**cut.group, **{key: value for key, value in self._settings.items() if key != SCALE}}
        if (scale := self._settings.get(SCALE)) is not None:
            group[SCALE] = scale * cut.group.get(SCALE, 1.0)
            group["lr"] = group["lr"] * scale
        return group

    # --- before the first step ---

    def _model_of(self, run: Any) -> tuple[str, Any]:
        """The model whose parts these are: the one that is trained, unless told which."""
        models = run.models
        if self._name is not None:
            for name in (self._name, f"model-{self._name}"):
                if name in models:
                    return name, models[name]
            raise ConfigError(f"{self!r}: the run tracks no model named {self._name!r}{did_you_mean(self._name, models)}")
        moved = {id(p) for optimizer in run.optimizers.values() for group in optimizer.param_groups for p in group["params"]}
        trained = {name: model for name, model in models.items() if any(id(p) in moved for p in model.parameters())}
        if len(trained) != 1:
            raise ConfigError(f"{self!r}: say which model, as model=...; this run trains {', '.join(map(repr, trained)) or 'none that it tracks'}")
        return next(iter(trained.items()))

    def _check_schedules(self, run: Any) -> None:
        """Raise where a setting of the new groups would not last."""
        for key, value in self._settings.items():
            names = {
                name.removeprefix("optimizer-"): [cut.group["name"] for cut in self._cuts if cut.optimizer is one]
                for name, one in run.optimizers.items()
            }
            if key in run.schedules and any(_sets(run.schedules[key], name, group, key) for name, groups in names.items() for group in groups):
                hint = f"; give {SCALE}=..., a factor on it" if key == "lr" else ""
                raise ConfigError(f"{self!r}: {key}={value!r} would not last, since the schedule {key!r} sets it{hint}")

    def _check_until(self, run: Any) -> None:
        progress = run.progress
        assert self._until is not None
        if self._until.needs_epoch_size() and progress.epoch_size is None:
            raise ConfigError(f"{self!r}: '{self._until}' cannot be told, because this data has no length; give it in steps")

    def _check_rest(self, run: Any, frozen: set[int]) -> None:
        """Raise where an optimizer would be left with nothing, or has none of the settings."""
        for name, optimizer in run.optimizers.items():
            groups = optimizer.param_groups
            ids = {id(p) for group in groups for p in group["params"]}
            if ids and ids <= frozen:
                raise ConfigError(f"{self!r} leaves nothing to train for {name!r} ({type(optimizer).__name__})")
            if ids & frozen and isinstance(optimizer, LBFGS):
                raise ConfigError(
                    f"{self!r}: LBFGS keeps one list of its parameters from the beginning, so that none can be taken out of it or put in; "
                    "freeze them by hand before it is built, with requires_grad_(False), or take another optimizer"
                )
            if ids & frozen:
                check_settings(repr(self), self._settings, optimizer)


def _sets(schedule: Any, optimizer: str, group: str, setting: str) -> bool:
    """Whether a schedule gives a value to a group of an optimizer."""
    if not isinstance(schedule, ByName):
        return True
    named = for_group(schedule.parts, group, setting) is not None
    return named or (optimizer in schedule.parts and _sets(schedule.parts[optimizer], "", group, setting))


def _cut_out(optimizer: Any, frozen: set[int]) -> list[_Cut]:
    """Take parameters out of an optimizer, with their state; a group that is left with none goes, too."""
    cuts, kept = [], []
    for place, group in enumerate(optimizer.param_groups, 1):
        group.setdefault("name", f"group {place}")  # what it is called by schedules and messages, whatever comes before it later
        inside = [id(p) in frozen for p in group["params"]]
        if any(inside):
            lists = {key: list(zip(group[key], inside, strict=True)) for key in ("params", "param_names") if key in group}
            out = {key: [one for one, is_out in pairs if is_out] for key, pairs in lists.items()}
            group.update({key: [one for one, is_out in pairs if not is_out] for key, pairs in lists.items()})
            for parameter in out["params"]:
                optimizer.state.pop(parameter, None)
            cuts.append(_Cut(optimizer, {**group, **out}))
        if group["params"]:
            kept.append(group)
    optimizer.param_groups[:] = kept
    return cuts
