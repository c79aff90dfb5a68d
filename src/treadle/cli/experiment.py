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

from treadle.config.asked import accept_changes
from treadle.config.loading import load_config
from treadle.config.schema import run_config
from treadle.core.errors import UsageError, did_you_mean
from treadle.system.code import is_own

if TYPE_CHECKING:
    from treadle.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Configured:
    """A function that takes a config first.

    Args:
        function: the function.
        config_type: what its first parameter is annotated with, a dataclass.
        defaults: the value that this parameter has by default, None where it has none.
    """

    function: Callable[[Any], Any]
    config_type: type
    defaults: Any

    @classmethod
    def of(cls, function: Callable[[Any], Any], where: str) -> Configured:
        """Read a function's signature.

        Raises:
            UsageError: its first parameter is not annotated with a dataclass.
        """
        parameters = list(inspect.signature(function).parameters.values())
        try:
            hint = get_type_hints(function).get(parameters[0].name) if parameters else None
        except (TypeError, NameError):  # no plain function, or an annotation that its module does not know
            hint = None
        if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
            name = getattr(function, "__name__", "function")
            raise UsageError(f"{where} must take its config first, annotated with its type: `def {name}(config: treadle.Config)`")
        default = parameters[0].default
        return cls(function, hint, None if default is parameters[0].empty else default)

    def config(self, *sources: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
        """Its config: defaults < files < ``key=value``."""
        return load_config(self.config_type, *sources, overrides=overrides, defaults=self.defaults)

    def keys(self) -> str:
        """Every key of its config, for a help page."""
        from treadle.config.describe import describe

        lines = []
        for key in describe(self.config_type, self.defaults):
            given = "must be given" if key.default is None else f"default {key.default or repr('')}"
            lines += [f"  {key.path}={key.allowed.replace(' | ', '|')}   ({given})", f"      {key.text}" if key.text else ""]
        return "\n".join(["", "values of the config, as key=value:", *filter(None, lines), ""])


@dataclasses.dataclass(frozen=True)
class Experiment(Configured):
    """A function from a config to a Trainer, and where it stands."""

    module: ModuleType
    origin: str

    def trainer(self, config: Any) -> Trainer:
        """Its trainer, built under the run's seed."""
        from treadle.system.seed import seed
        from treadle.trainer import Trainer

        seed(run_config(config).seed)
        trainer = self.function(config)
        if not isinstance(trainer, Trainer):
            raise UsageError(f"{self.origin} must return a treadle.Trainer, it returned {type(trainer).__name__}")
        trainer.origin = self.origin
        return trainer

    def __getitem__(self, name: str) -> Callable[[], Any]:
        """Another function of the same file, or of a file of the project's that it imports."""
        modules = [self.module, *(item for item in vars(self.module).values() if isinstance(item, ModuleType) and is_own(item))]
        for module in modules:
            if callable(found := getattr(module, name, None)):
                return found  # type: ignore[no-any-return]
        known = [function for module in modules for function in _functions(module)]
        raise UsageError(f"{self.module.__file__} has no function {name!r}{did_you_mean(name, known)}")


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
        raise UsageError(
            f"{file} has no function {name!r}{did_you_mean(name, _functions(module))}; "
            "an experiment is `def experiment(config: MyConfig) -> treadle.Trainer`"
        )
    found = Configured.of(function, f"{file}:{name}")
    return Experiment(function, found.config_type, found.defaults, module, f"{path}:{name}")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config f.yaml`` and ``key=value ...``."""
    parser.add_argument("--config", metavar="FILE", action="append", default=[], help="YAML file of values; of several, the last wins")
    parser.set_defaults(takes_values=True)
    parser.epilog = "key=value on the same line, such as seed=7, wins over everything"


def add_console_arguments(parser: argparse.ArgumentParser) -> None:
    """``--quiet`` and ``--json``."""
    parser.add_argument("--quiet", action="store_true", help="show nothing but warnings and errors")
    parser.add_argument("--json", action="store_true", help="as --quiet, and print the result as one JSON object")


def add_accept_argument(parser: argparse.ArgumentParser) -> None:
    """``--accept-changes``."""
    text = "go on in a run folder whose run had another config, code or data, or is over; what is different goes into its record"
    parser.add_argument("--accept-changes", action="store_true", help=text)


def configured(experiment: Configured, options: argparse.Namespace) -> Any:
    """The config that a command line asks for."""
    silent = options.quiet or options.json
    quiet = [f"{_prefix(experiment.config_type)}log.console=quiet"] if silent else []
    config = experiment.config(*options.config, overrides=[*options.overrides, *quiet])
    if getattr(options, "accept_changes", False):
        accept_changes(config)
    return config


def _functions(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if inspect.isfunction(value)]


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
