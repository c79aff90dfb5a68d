"""An experiment is a function from a config to a Trainer; this finds it in a file, and builds its config."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_type_hints

from treadle.config.loading import load_config
from treadle.config.schema import run_config
from treadle.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from treadle.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A function from a config to a Trainer, and where it stands."""

    module: ModuleType
    function: Callable[[Any], Trainer]
    config_type: type
    defaults: Any
    origin: str

    def config(self, *sources: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
        """Its config: defaults < files < ``key=value``."""
        return load_config(self.config_type, *sources, overrides=overrides, defaults=self.defaults)

    def trainer(self, config: Any) -> Trainer:
        """Its trainer, built under the run's seed."""
        from treadle.system.seed import seed
        from treadle.trainer import Trainer

        seed(run_config(config).seed)
        trainer = self.function(config)
        if not isinstance(trainer, Trainer):
            raise UsageError(f"{self.origin} must return a treadle.Trainer, it returned {type(trainer).__name__}")
        return trainer

    def __getitem__(self, name: str) -> Callable[[], Any]:
        """Another function of the same file."""
        found = getattr(self.module, name, None)
        if not callable(found):
            known = [key for key, value in vars(self.module).items() if inspect.isfunction(value)]
            raise UsageError(f"{self.module.__file__} has no function {name!r}{did_you_mean(name, known)}")
        return found  # type: ignore[no-any-return]


def load_experiment(target: str) -> Experiment:
    """Import ``FILE[:function]``; the function is ``experiment`` unless told.

    Raises:
        UsageError: there is no such file or function, or its parameter is not annotated with its config's type.
    """
    file, _, name = (target, "", "") if Path(target).is_file() else target.rpartition(":")
    file, name = (file, name or "experiment") if file else (target, "experiment")
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {file!r}")
    module = _import(path)
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(
            f"{file} has no function {name!r}{did_you_mean(name, known)}; an experiment is `def experiment(config: MyConfig) -> treadle.Trainer`"
        )
    parameters = list(inspect.signature(function).parameters.values())
    hint = get_type_hints(function).get(parameters[0].name) if parameters else None
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        raise UsageError(f"{file}:{name} must take its config first, annotated with its type: `def {name}(config: treadle.Config)`")
    default = parameters[0].default
    return Experiment(module, function, hint, None if default is parameters[0].empty else default, f"{path}:{name}")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config f.yaml``, ``--accept-changes``, ``--quiet`` and ``key=value ...``."""
    parser.add_argument("--config", metavar="FILE", action="append", default=[], help="YAML file of values; of several, the last wins")
    parser.add_argument("--accept-changes", action="store_true", help="go on in a run folder whose run had another config, or is over")
    parser.add_argument("--quiet", action="store_true", help="show nothing but warnings and errors")
    parser.epilog = "key=value ... on the same line wins over everything, such as seed=7 machine.device=cpu"


def configured(experiment: Experiment, options: argparse.Namespace) -> Any:
    """The config that a command line asks for."""
    quiet = [f"{_prefix(experiment.config_type)}log.console=quiet"] if options.quiet else []
    return experiment.config(*options.config, overrides=[*options.overrides, *quiet])


def _prefix(config_type: Any) -> str:
    """Where `treadle.Config` stands in an own config: at the top, or in one field."""
    from treadle.config.build import hints
    from treadle.config.schema import Config

    if issubclass(config_type, Config):
        return ""
    held = [name for name, hint in hints(config_type).items() if isinstance(hint, type) and issubclass(hint, Config)]
    return f"{held[0]}." if held else ""


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # As when Python runs the file: its neighbours can be imported, and worker processes find its classes.
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
