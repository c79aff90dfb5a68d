"""Does the project still work? python -m pytest"""

import sys
from pathlib import Path

import treadle

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import dataset  # noqa: E402
from config import ProjectConfig  # noqa: E402
from train import experiment  # noqa: E402


def test_no_sample_is_in_two_sets() -> None:
    sets = (dataset.train_set(), dataset.valid_set(), dataset.test_set())
    train, valid, test = ({tuple(row) for row in inputs.flatten(1).tolist()} for inputs, _ in sets)
    assert not (train & valid or train & test or valid & test)


def test_the_model_learns(tmp_path: Path) -> None:
    result = experiment(ProjectConfig(run_dir=str(tmp_path / "run"), duration="10 epochs")).fit()
    losses = [row["valid/loss"] for row in treadle.read_journal(result.run_dir) if "valid/loss" in row]
    assert losses[-1] < losses[0] / 2


def test_the_same_config_gives_the_same_numbers(tmp_path: Path) -> None:
    configs = [ProjectConfig(run_dir=str(tmp_path / name), duration="2 epochs") for name in ("one", "two")]
    one, two = (experiment(config).fit() for config in configs)
    assert one.metrics == two.metrics
