from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "tensorboard")


@pytest.mark.parametrize(
    "code",
    [
        "import treadle",
        "import treadle.core.when, treadle.core.events, treadle.core.mix, treadle.core.structure, treadle.core.errors\n"
        "import treadle.core.schedules.named, treadle.core.schedules.recurring, treadle.core.schedules.spanning",
        "import treadle.config.schema, treadle.config.build, treadle.config.loading",
        "from treadle import Config, load_config; load_config(Config, {'run_dir': 'a', 'duration': '1 epoch'}, overrides=['seed=3'])",
        "from treadle.cli.main import main\ntry: main(['--help'])\nexcept SystemExit as end: assert not end.code, end.code",
        "from treadle.cli.main import main\nassert main([]) == 0",
    ],
    ids=["treadle", "core", "config", "building a config", "--help", "no arguments"],
)
def test_torch_is_not_imported_by(code: str) -> None:
    code += f"\nimport sys; found = [name for name in {HEAVY!r} if name in sys.modules]; assert not found, found"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_core_and_config_leaves_pydantic_and_yaml_for_later() -> None:
    code = "import treadle.core.events, treadle.config.loading, treadle.config.schema, sys; assert not {'pydantic', 'yaml'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
