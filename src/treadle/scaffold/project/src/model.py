"""The model: an ordinary torch.nn.Module. Replace it by your own."""

from itertools import pairwise

import torch
from torch import nn

from config import ModelConfig


class MLP(nn.Module):
    """Hidden layers with ReLU and dropout: inputs, float32 (N, inputs) -> scores (N, classes)."""

    def __init__(self, config: ModelConfig, inputs: int, classes: int) -> None:
        super().__init__()
        widths = [inputs] + [config.hidden] * config.layers
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)
