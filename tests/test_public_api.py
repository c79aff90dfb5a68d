"""The public names, written down once more: a change here is a change for users."""

import inspect
import subprocess
import sys

import pytest

import treadle

NAMES = {
    "Batches", "CheckpointConfig", "Config", "DataConfig", "EMA", "EarlyStop", "EvaluateConfig", "Evaluation", "Freeze", "LogConfig",
    "MachineConfig", "NoiseScale", "Outcome", "Plateau", "Plot", "Result", "Run", "SWA", "Samples", "Step", "StopWhen", "TimeBudget", "Trainer",
    "Watch", "Writer", "data", "errors", "find_lr", "groups", "load_config", "load_weights", "main", "metrics",
    "read_journal", "schedules", "seed", "supervised", "train",
}  # fmt: skip

SIGNATURES = {
    "train": "model objective data optimizer config valid test metrics schedules handlers writers events step accept_changes",
    "Trainer": "model objective data optimizer config valid test metrics schedules handlers writers events step",
    "Run": "config schedules handlers writers events accept_changes origin",
    "Config": "run_dir duration batch_size seed drop_last clip skip_non_finite debug time_limit machine data evaluate checkpoint log",
    "MachineConfig": "device workers micro_batch precision compile cuda_graph channels_last resident deterministic",
    "DataConfig": "sampler leaks leaks_limit",
    "EvaluateConfig": "every batch_size",
    "CheckpointConfig": "every keep_last keep_best keep_every best mode background",
    "LogConfig": "every console tensorboard train_metrics",
    "Result": "status steps epochs metrics best last run_dir kept",
    "Outcome": "loss output target count logs",
    "Evaluation": "data metrics every objective",
    "EMA": "decay every start warmup name models",
    "SWA": "start every name models",
    "EarlyStop": "monitor patience mode min_delta",
    "NoiseScale": "every",
    "Plateau": "monitor factor patience cooldown min_lr mode min_delta",
    "Freeze": "patterns until model settings",
    "groups": "optimizer rules no_decay layers layer_decay",
    "Plot": "names",
    "StopWhen": "condition reason every",
    "TimeBudget": "budget clock",
    "Watch": "every patterns",
    "find_lr": "trainer low high steps optimizer",
    "main": "function arguments",
    "Samples": "dataset sampler collate prepare random batch_size batches_per_epoch",
    "Batches": "iterable",
    "supervised": "loss input target",
    "load_weights": "path model name strict",
    "load_config": "cls sources overrides defaults",
}

METHODS = {
    "Run": "attempt autocast check_data config dir due evaluate fire keep latest loader log models off on optimizers prepare progress result say "
    "step steps stop track",
    "Trainer": "evaluate fit keywords off on predict",
}


def test_the_public_names_are_these() -> None:
    assert set(treadle.__all__) == NAMES
    assert set(dir(treadle)) - {"__version__"} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(treadle, name))


@pytest.mark.parametrize(("name", "parameters"), SIGNATURES.items())
def test_signatures(name: str, parameters: str) -> None:
    assert " ".join(inspect.signature(getattr(treadle, name)).parameters) == parameters
    assert len(parameters.split()) <= 14


@pytest.mark.parametrize(("name", "methods"), METHODS.items())
def test_methods(name: str, methods: str) -> None:
    assert sorted(n for n in vars(getattr(treadle, name)) if not n.startswith("_")) == methods.split()


def test_every_config_field_has_a_string_under_it() -> None:
    import ast

    from treadle.config import schema

    for node in ast.parse(inspect.getsource(schema)).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                section = isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation).endswith("Config")
                if isinstance(field, ast.AnnAssign) and not section:
                    assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), f"{node.name}.{ast.unparse(field.target)}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainr'"):
        _ = treadle.Trainr


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, treadle; treadle.Config; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_function_train_is_not_hidden_by_a_module() -> None:
    code = "import treadle.training, treadle; print(callable(treadle.train))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
