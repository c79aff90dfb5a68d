"""DCGAN on MNIST: two models, two optimizers, two passes over each batch.

    treadle train recipes/dcgan.py
    treadle train recipes/dcgan.py duration="2 epochs" width=16      # smaller and sooner

After each evaluation `valid/frechet` says how far generated images are from real ones, and `samples.png` in the run folder shows
some, from the same noise each time. Radford, Metz and Chintala, Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks, 2016.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
import treadle_mnist
from annotated_types import Gt
from PIL import Image
from torch import nn
from torch.nn.functional import avg_pool2d, softplus

import treadle

LATENT = 64

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class GANConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/dcgan/{n}"
    duration: str = "5 epochs"
    batch_size: int = 64
    seed: int = 42
    evaluate: treadle.EvaluateConfig = field(default_factory=lambda: treadle.EvaluateConfig(batch_size=500))
    width: Annotated[int, Gt(0)] = 32
    """Channels of the layers nearest to the image; the deeper ones have two and four times as many."""
    lr: Annotated[float, Gt(0)] = 5e-4
    """Learning rate of both."""


# --- 2. The models ---


def generator(width: int) -> nn.Sequential:
    """Noise (N, LATENT) -> images (N, 1, 32, 32) in -1..1."""

    def up(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        nn.Unflatten(1, (LATENT, 1, 1)),
        nn.ConvTranspose2d(LATENT, 4 * width, 4, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU(),
        *up(4 * width, 2 * width), *up(2 * width, width),
        nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1), nn.Tanh(),
    )  # fmt: skip


def critic(width: int) -> nn.Sequential:
    """Images (N, 1, 32, 32) -> how real they look, log odds (N, 1)."""

    def down(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]

    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
        *down(width, 2 * width), *down(2 * width, 4 * width),
        nn.Conv2d(4 * width, 1, 4), nn.Flatten(),
    )  # fmt: skip


def noise(like: torch.Tensor) -> torch.Tensor:
    """Noise for as many images as there are in a batch."""
    return torch.randn(len(like), LATENT, device=like.device)


# --- 3. The step ---


def adversarial(step: treadle.Step, models: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    """The critic learns to tell made images from real ones, then the generator to be taken for real."""
    make, judge = models["generator"], models["critic"]
    for (real,) in step:
        fake = make(noise(real)).detach()
        loss = softplus(-judge(real)).mean() + softplus(judge(fake)).mean()
        step.backward(treadle.Outcome(loss, logs={"critic": loss}))
    step.update(optimizers["critic"])
    for (real,) in step:
        loss = softplus(-judge(make(noise(real)))).mean()
        step.backward(treadle.Outcome(loss, logs={"generator": loss}))
    step.update(optimizers["generator"])


# --- 4. How good it is ---


def compare(models: Mapping[str, nn.Module], batch: Any) -> treadle.Outcome:
    """The objective of an evaluation: what the generator makes, beside real images."""
    (real,) = batch
    fake = models["generator"](noise(real))
    return treadle.Outcome(softplus(-models["critic"](fake)).mean(), output=fake, target=real)


class Frechet:
    """Distance of two sets of images as Gaussians; as Heusel et al., 2017, section 2, but of 8x8 pixels, not of a network's features."""

    def reset(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.seen.append((avg_pool2d(output, 4).flatten(1).cpu().double(), avg_pool2d(target, 4).flatten(1).cpu().double()))

    def compute(self) -> float:
        fake, real = (torch.cat(images) for images in zip(*self.seen, strict=True))
        between = torch.linalg.eigvals(fake.T.cov() @ real.T.cov()).real.clamp(min=0).sqrt().sum()
        return float((fake.mean(0) - real.mean(0)).square().sum() + fake.var(0).sum() + real.var(0).sum() - 2 * between)


# --- 5. The experiment ---


def experiment(config: GANConfig) -> treadle.Trainer:
    images, _ = treadle_mnist.load("train")
    ready = treadle.data.Images(size=32, mean=0.5, std=0.5)
    adam = partial(torch.optim.Adam, lr=config.lr, betas=(0.5, 0.999))
    trainer = treadle.Trainer(
        {"generator": partial(generator, config.width), "critic": partial(critic, config.width)},
        compare,
        treadle.Samples((images[:-2000],), prepare=ready),
        valid=treadle.Samples((images[-2000:],), prepare=ready),
        step=adversarial,
        optimizer={"generator": adam, "critic": adam},
        metrics={"frechet": Frechet()},
        config=config,
    )
    same = torch.randn(100, LATENT, generator=torch.Generator().manual_seed(0))

    @trainer.on("evaluated")
    def draw(run: treadle.Run) -> None:
        make = trainer.model["generator"].eval()
        with torch.no_grad():
            grid = make(same.to(run.device)).reshape(10, 10, 32, 32).transpose(1, 2).reshape(320, 320)
        make.train()
        Image.fromarray((grid * 127.5 + 127.5).byte().cpu().numpy()).save(run.dir / "samples.png")

    return trainer
