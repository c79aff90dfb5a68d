"""Train, then look at the test set once: python src/main.py [key=value ...]"""

from pathlib import Path

import treadle
from safetensors.torch import save_file

import dataset
from config import ProjectConfig
from train import experiment


def main(config: ProjectConfig) -> treadle.Result:
    """Train, then look at the test set once."""
    trainer = experiment(config)
    result = trainer.fit()
    if result.status.startswith("interrupted"):
        return result  # the same command goes on

    treadle.load_weights(result.best or result.last, trainer.model)
    scores = trainer.evaluate(dataset.test_set())
    print(f"test set, weights of the best epoch: accuracy {scores['accuracy']:.3f}, loss {scores['loss']:.3f}")

    kept = Path("models") / f"{result.run_dir.name}.safetensors"
    kept.parent.mkdir(exist_ok=True)
    save_file(trainer.model.state_dict(), kept)
    print(f"weights: {kept}   curves: {result.run_dir / 'plots' / 'curves.png'}")
    return result


if __name__ == "__main__":
    treadle.main(main)
