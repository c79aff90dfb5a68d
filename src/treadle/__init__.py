"""Treadle trains PyTorch models: the research stays yours, the engineering is here.

Names are imported when they are first used, so that ``treadle --help`` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle import data, errors, metrics, schedules
    from treadle.checkpoint.restore import load_weights
    from treadle.cli.script import main
    from treadle.config.loading import load_config
    from treadle.config.schema import (
        CheckpointConfig,
        Config,
        DataConfig,
        EvaluateConfig,
        LogConfig,
        MachineConfig,
    )
    from treadle.core.result import Result
    from treadle.data.sources import Batches, Samples
    from treadle.finder import find_lr
    from treadle.log.journal import read_journal
    from treadle.log.plot import Plot
    from treadle.log.writer import Writer
    from treadle.policies.averages import EMA, SWA
    from treadle.policies.early_stop import EarlyStop
    from treadle.policies.freeze import Freeze
    from treadle.policies.noise_scale import NoiseScale
    from treadle.policies.plateau import Plateau
    from treadle.policies.stop_when import StopWhen
    from treadle.policies.time_budget import TimeBudget
    from treadle.policies.watch import Watch
    from treadle.run import Run
    from treadle.step.objective import Outcome, supervised
    from treadle.step.step import Step
    from treadle.system.groups import groups
    from treadle.system.seed import seed
    from treadle.trainer import Trainer
    from treadle.training import train
    from treadle.validation import Evaluation

__version__ = "0.1.0"

_HOMES = {
    "Batches": "treadle.data.sources",
    "CheckpointConfig": "treadle.config.schema",
    "Config": "treadle.config.schema",
    "DataConfig": "treadle.config.schema",
    "EMA": "treadle.policies.averages",
    "EarlyStop": "treadle.policies.early_stop",
    "EvaluateConfig": "treadle.config.schema",
    "Evaluation": "treadle.validation",
    "Freeze": "treadle.policies.freeze",
    "LogConfig": "treadle.config.schema",
    "MachineConfig": "treadle.config.schema",
    "NoiseScale": "treadle.policies.noise_scale",
    "Outcome": "treadle.step.objective",
    "Plateau": "treadle.policies.plateau",
    "Plot": "treadle.log.plot",
    "Result": "treadle.core.result",
    "Run": "treadle.run",
    "SWA": "treadle.policies.averages",
    "Samples": "treadle.data.sources",
    "Step": "treadle.step.step",
    "StopWhen": "treadle.policies.stop_when",
    "TimeBudget": "treadle.policies.time_budget",
    "Trainer": "treadle.trainer",
    "Watch": "treadle.policies.watch",
    "Writer": "treadle.log.writer",
    "find_lr": "treadle.finder",
    "groups": "treadle.system.groups",
    "load_config": "treadle.config.loading",
    "load_weights": "treadle.checkpoint.restore",
    "main": "treadle.cli.script",
    "read_journal": "treadle.log.journal",
    "seed": "treadle.system.seed",
    "supervised": "treadle.step.objective",
    "train": "treadle.training",
}
_MODULES = {"data": "treadle.data", "errors": "treadle.errors", "metrics": "treadle.metrics", "schedules": "treadle.schedules"}

__all__ = [
    "EMA",
    "SWA",
    "Batches",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EarlyStop",
    "EvaluateConfig",
    "Evaluation",
    "Freeze",
    "LogConfig",
    "MachineConfig",
    "NoiseScale",
    "Outcome",
    "Plateau",
    "Plot",
    "Result",
    "Run",
    "Samples",
    "Step",
    "StopWhen",
    "TimeBudget",
    "Trainer",
    "Watch",
    "Writer",
    "data",
    "errors",
    "find_lr",
    "groups",
    "load_config",
    "load_weights",
    "main",
    "metrics",
    "read_journal",
    "schedules",
    "seed",
    "supervised",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'treadle' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
