"""VAE on MNIST: an objective of one's own, whose KL weight is a schedule.

    treadle train recipes/vae.py
    treadle train recipes/vae.py latent=2 warmup="2000 steps"

The weight of the KL term grows from 0 to 1 during the warm-up, as in Bowman et al., Generating Sentences from a Continuous
Space, 2016, section 3.1; `schedule/kl_weight` in the journal is what it was. What is compared between epochs is `valid/nll`,
with the whole term; `samples.png` in the run folder shows what the decoder makes of random codes. Kingma and Welling,
Auto-Encoding Variational Bayes, 2014.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
import treadle_mnist
from annotated_types import Gt
from PIL import Image
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import treadle

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class VAEConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/vae/{n}"
    duration: str = "10 epochs"
    batch_size: int = 128
    seed: int = 42
    evaluate: treadle.EvaluateConfig = field(default_factory=lambda: treadle.EvaluateConfig(batch_size=500))
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/nll"))
    latent: Annotated[int, Gt(0)] = 20
    """Numbers in the code of an image."""
    warmup: str = "1 epoch"
    """How long the weight of the KL term grows, from 0 to 1."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Learning rate."""


# --- 2. The model ---


class VAE(nn.Module):
    """Images (N, 1, 28, 28) in 0..1 -> log odds of each pixel (N, 1, 28, 28), mean and log variance of the code (N, latent)."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, 400), nn.ReLU(), nn.Linear(400, 784), nn.Unflatten(1, (1, 28, 28)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(code), mean, log_variance


# --- 3. The objective ---


def elbo(model: nn.Module, batch: Any, kl_weight: float) -> treadle.Outcome:
    """Reconstruction and KL term, in nats an image; `kl_weight` is what its schedule says at this step."""
    (images,) = batch
    pixels, mean, log_variance = model(images)
    error = binary_cross_entropy_with_logits(pixels, images, reduction="sum") / len(images)
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
    return treadle.Outcome(error + kl_weight * kl, logs={"error": error, "kl": kl, "nll": error + kl})


# --- 4. The experiment ---


def experiment(config: VAEConfig) -> treadle.Trainer:
    images, _ = treadle_mnist.load("train")
    ready = treadle.data.Images()
    trainer = treadle.Trainer(
        partial(VAE, config.latent),
        elbo,
        treadle.Samples((images[:55_000],), prepare=ready),
        valid=treadle.Samples((images[55_000:],), prepare=ready),
        optimizer=partial(torch.optim.Adam, lr=config.lr),
        schedules={"kl_weight": treadle.schedules.linear(0.0, 1.0, over=config.warmup)},
        config=config,
    )
    codes = torch.randn(100, config.latent, generator=torch.Generator().manual_seed(0))

    @trainer.on("evaluated")
    def draw(run: treadle.Run) -> None:
        """A hundred images, each from a code drawn at random, into `samples.png`."""
        with torch.no_grad():
            grid = trainer.model.decoder(codes.to(run.device)).sigmoid().reshape(10, 10, 28, 28).transpose(1, 2).reshape(280, 280)
        Image.fromarray((grid * 255).byte().cpu().numpy()).save(run.dir / "samples.png")

    return trainer
