"""Draw the shapes of all schedules for the reference: `python docs/schedules_picture.py`.

A test holds the picture's list to the public names.
"""

from pathlib import Path

from treadle import schedules

PICTURE = Path(__file__).parent / "reference" / "schedules.svg"
SHOWN = [
    "constant(0.5)",
    "linear(1, 0)",
    "polynomial(1, power=3)",
    'cosine(1, warmup="10 steps")',
    "one_cycle(1)",
    'wsd(1, warmup="10 steps", decay="30 steps")',
    'inverse_sqrt(1, warmup="10 steps")',
    'exponential(1, 0.5, every="20 steps")',
    'step_decay(1, 0.3, at=["50 steps", "80 steps"])',
    'piecewise(0.2, {"30 steps": 1, "70 steps": 0}, True)',
    'cyclic(0.1, 1, every="20 steps", shrink=0.7)',
    'cosine_restarts(1, every="15 steps", growth=2)',
    'linear(0, 1).then(cosine(1), at="40 steps")',
    'cosine(1, warmup="10 steps") * 0.5',
    "of(lambda run: 1 - run.fraction ** 3)",
]


def draw(path: Path = PICTURE) -> None:
    """Write the picture: each schedule over a run of 100 steps."""
    names = {name: getattr(schedules, name) for name in schedules.__all__}
    schedules.plot({text: eval(text, names) for text in SHOWN}, "100 steps", path=path)


if __name__ == "__main__":
    draw()
