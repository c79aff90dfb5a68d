"""Every knob on one page.

Sections are frozen dataclasses, taken from Python, a dict, a YAML file or ``key=value`` (see `loading`). Each part
of Treadle receives only its own section. All but `machine` says what is computed; `machine` says where.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from annotated_types import Ge, Gt, Lt, MinLen

from treadle.config.asked import pass_on
from treadle.config.build import Parsed, check_fields
from treadle.core.errors import ConfigError
from treadle.core.when import Duration, parse_seconds

Length = Annotated[str, Parsed(Duration.parse, "length")]
Time = Annotated[str | float, Parsed(parse_seconds, "time")]
Debug = Annotated[str, Parsed(lambda text: debug_steps(text), "debug mode")]
PositiveInt = Annotated[int, Gt(0)]
PositiveFloat = Annotated[float, Gt(0)]
T = TypeVar("T")


def debug_steps(mode: str) -> int:
    """How many steps a debug mode makes.

    Raises:
        ConfigError: it is none.
    """
    if mode in _DEBUG:
        return _DEBUG[mode]
    with suppress(ConfigError):
        length = Duration.parse(mode)
        if length.unit == "steps":
            return int(length.value)
    raise ConfigError(f"{mode!r} is no debug mode; say 'one batch', 'overfit', or a number of steps such as '10 steps'")


_DEBUG = {"one batch": 1, "overfit": 100}


class Checked:
    """A dataclass whose fields are converted and checked when it is built.

    Raises:
        ConfigError: a value has the wrong type or range; the message has its path and what is allowed.
    """

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class MachineConfig(Checked):
    """Where it is computed. Nothing in here changes which samples are seen, in which order, or what is averaged."""

    device: str = "auto"
    """"auto" (the first GPU, else the CPU), "cpu", "cuda", "cuda:1", "mps"."""
    workers: Annotated[int, Ge(0)] | Literal["auto"] = 0
    """Processes that load data; 0 loads in the training process, "auto" takes one per core, at most 8."""
    micro_batch: PositiveInt | Literal["auto"] | None = None
    """Samples that go through the model at once; None takes the whole batch, "auto" halves that where it does not fit into memory."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Number format of the forward pass, through autocast; weights stay in fp32, fp16 scales the loss. "tf32": products in TF32, on a CUDA GPU."""
    compile: Literal["step", "auto"] | bool = False
    """True passes the model through torch.compile, "step" the whole update where it can be one graph, "auto" keeps the fastest."""
    cuda_graph: bool = False
    """Record the whole update as a CUDA graph and play it, where it can be recorded; for GPUs, where steps are short."""
    channels_last: bool = False
    """Lay out images and the weights of convolutions with the channels last, for models of 2-d convolutions."""
    resident: Literal["auto"] | bool = "auto"
    """Keep data that is in memory on the training device; "auto" does on a CUDA GPU where it takes at most a quarter of the free memory."""
    deterministic: bool = True
    """Ask torch for deterministic kernels; an operation that has none warns."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """How samples are drawn, and whether the splits are apart."""

    sampler: Literal["shuffle", "sequential", "replacement"] = "shuffle"
    """A new permutation each epoch, the data's own order, or independent draws; `treadle.Samples` can say more."""
    leaks: Literal["warn", "refuse", "off"] = "warn"
    """What to do where an item of one split is in another too: warn, refuse to train, or do not look."""
    leaks_limit: Time = "2 seconds"
    """Time for looking for such items before training begins; `treadle check-data` has no limit."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """When the validation set is looked at."""

    every: Length | None = "1 epoch"
    """Cadence of evaluation on `valid`, which is also evaluated at the end; None does at the end only. (`run.due(...)` in an own loop.)"""
    batch_size: PositiveInt | None = None
    """Samples at once in evaluation; None takes machine.micro_batch, else batch_size."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Checked):
    """What survives."""

    every: Length = "1 epoch"
    """Cadence of checkpoints; the end of a run and a stop always save one."""
    keep_last: PositiveInt = 2
    """How many of the newest checkpoints stay."""
    keep_best: PositiveInt = 1
    """How many of the best checkpoints stay, where `best` is set."""
    keep_every: Length | None = None
    """Also keep the first checkpoint that reaches each multiple of this, such as "10 epochs", for as long as it is set."""
    best: str | None = None
    """Name of a logged value, such as "valid/accuracy", that says which checkpoint is best; each improvement is saved."""
    mode: Literal["min", "max"] = "min"
    """Whether the best value is the smallest or the largest."""
    background: bool = True
    """Write while training goes on; the host holds a copy of the state for it. False writes while training waits."""


@dataclass(frozen=True, kw_only=True)
class LogConfig(Checked):
    """What is written down while it runs."""

    every: Length = "50 steps"
    """Cadence of rows in the journal; values stay on the device until then."""
    console: Literal["auto", "rich", "plain", "quiet"] = "auto"
    """A progress bar and tables, plain lines, or nothing; "auto" is rich on a terminal and in a notebook, plain elsewhere."""
    tensorboard: Literal["auto"] | bool = "auto"
    """Write TensorBoard event files; "auto" does where the tensorboard package is installed."""
    train_metrics: bool = True
    """Also compute the metrics on the training outputs, at no extra forward pass."""


@dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """A whole run. Own experiments inherit from it, or hold one in a field.

    Example:
        >>> Config(run_dir="results/demo", duration="3 epochs", batch_size=64, seed=42).machine.precision
        'fp32'
    """

    run_dir: Annotated[str, MinLen(1)]
    """Folder of the run; the same folder continues the run. In "results/{n}" a number stands for {n}: each new run gets the next."""
    duration: Length
    """Length of the whole run: "10 epochs", "5000 steps" or "1e6 samples"."""
    batch_size: PositiveInt = 32
    """Samples in one optimizer step, over all micro-batches."""
    seed: Annotated[int, Ge(0), Lt(2**64)] = 0
    """The one seed: weights, order, augmentation, dropout."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it is smaller."""
    clip: PositiveFloat | None = None
    """Largest norm of the gradient of one optimizer step; None does not clip. (`step.update(clip=...)` in an own loop.)"""
    skip_non_finite: Annotated[int, Ge(0)] = 0
    """How many updates may be left out because the loss or the gradient is NaN or infinite; one more stops the run, before it updates anything."""
    debug: Debug | None = None
    """See in seconds whether all works: "one batch", "10 steps", or "overfit", which learns one batch by heart; in a folder that is thrown away."""
    time_limit: Time | None = None
    """Stop after this time, saved and ready to continue: "2 hours", "90 minutes" or seconds."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)


PLACES = (
    "run_dir", "time_limit", "machine", "log.console", "log.tensorboard",
    "data.leaks", "data.leaks_limit", "evaluate.batch_size", "checkpoint.every", "checkpoint.keep_last", "checkpoint.keep_best",
    "checkpoint.keep_every", "checkpoint.background",
)  # fmt: skip
"""Fields of `Config` that may differ when a run continues: where it is computed, kept and shown, not what."""


def is_place(tree: object, key: str) -> bool:
    """Whether a key of a user's config says where a run is computed, kept and shown, and not what it is."""
    prefix = f"{held}." if (held := config_path(tree)) else ""
    return any(f"{key}.".startswith(f"{prefix}{place}.") for place in PLACES)


def run_config(tree: object) -> Config:
    """The `Config` in a user's own config: itself, where it inherits, else the one field that holds one.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if isinstance(tree, Config):
        return tree
    held: Config = getattr(tree, config_path(tree))
    return held


def with_run_dir(tree: T, run_dir: str) -> T:
    """The same config for another run folder."""
    return with_config(tree, dataclasses.replace(run_config(tree), run_dir=run_dir))


def with_config(tree: T, held: Config) -> T:
    """A user's own config with another `Config` in it, and with what was remembered of how it was asked for."""
    path = config_path(tree)
    changed: T = dataclasses.replace(tree, **{path: held}) if path else held  # type: ignore[type-var,assignment]
    pass_on(tree, changed)
    return changed


def config_path(tree: object) -> str:
    """The name of the field that holds the `Config`; empty where the tree is one itself."""
    if isinstance(tree, Config):
        return ""
    fields = dataclasses.fields(tree) if dataclasses.is_dataclass(tree) else ()
    held = [f.name for f in fields if isinstance(getattr(tree, f.name), Config)]
    if len(held) != 1:
        raise ConfigError(f"config must be a treadle.Config, inherit from it, or hold one in a field; got {type(tree).__name__}")
    return held[0]
