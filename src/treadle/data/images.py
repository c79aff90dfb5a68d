"""Images: raw pixels -> what a model takes, a whole batch at a time, so that the data can stay uint8 in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch.nn.functional import interpolate, pad

from treadle.core.errors import ConfigError, DataError
from treadle.core.structure import describe
from treadle.data.prepare import Draw

Numbers = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Images:
    """Makes images ready for a model: size, random crop and flip, float32, scale, normalise. For `treadle.Samples(prepare=...)`.

    The input of a batch is changed: the first of a tuple, of a dict its ``field``, else the batch itself. It holds uint8
    in 0..255, which is scaled to 0..1, or floats, which are not; of shape (N, H, W), (N, C, H, W), or (N, H, W, C) where
    ``channels="last"``. It becomes float32 (N, C, height, width). What is random depends on seed, epoch and sample alone.

    Args:
        size: height and width wanted; as they are unless told.
        fit: "pad" puts black around the image, "resize" makes it larger or smaller, bilinear with antialiasing.
        crop: this many black pixels are put around, and as many cut off again, at random.
        flip: mirror left and right, every other time at random.
        mean: subtracted after scaling; one number, or one a channel.
        std: divided by then; one number, or one a channel.
        channels: where a fourth dimension has them.
        field: of a dict, which field holds the images.

    Raises:
        ConfigError: a value makes no sense.
        DataError: when called: the batch holds no such images, or they are larger than the size they are padded to.

    Example:
        >>> ready = Images(size=32, mean=0.1307, std=0.3081)
        >>> images, labels = ready((torch.zeros(8, 28, 28, dtype=torch.uint8), torch.zeros(8)))
        >>> images.shape, images.dtype
        (torch.Size([8, 1, 32, 32]), torch.float32)
    """

    size: int | tuple[int, int] | None = None
    fit: Literal["pad", "resize"] = "pad"
    crop: int = 0
    flip: bool = False
    mean: Numbers = 0.0
    std: Numbers = 1.0
    channels: Literal["first", "last"] = "first"
    field: str = "input"
    keeps_targets: ClassVar[bool] = True
    """Only the input is changed, so labels can be checked as they lie in memory."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(map(float, value)) if isinstance(value, (tuple, list)) else float(value))
        sizes = () if self.size is None else (self.size,) if isinstance(self.size, int) else self.size
        for name, holds, allowed in (
            ("size", all(isinstance(side, int) and side > 0 for side in sizes) and len(sizes) < 3, "a number of pixels > 0, or (height, width)"),
            ("fit", self.fit in ("pad", "resize"), '"pad" or "resize"'),
            ("channels", self.channels in ("first", "last"), '"first" or "last"'),
            ("crop", isinstance(self.crop, int) and self.crop >= 0, "a number of pixels >= 0"),
            ("std", min(_several(self.std)) > 0, "above 0"),
        ):
            if not holds:
                raise ConfigError(f"treadle.data.Images: {name} must be {allowed}, got {getattr(self, name)!r}")

    def __repr__(self) -> str:
        told = [(one.name, getattr(self, one.name)) for one in fields(self) if getattr(self, one.name) != one.default]
        return f"Images({', '.join(f'{name}={value!r}' for name, value in told)})"

    def __call__(self, batch: Any, draw: Draw | None = None) -> Any:
        """The batch with its images made ready; anything else in it stays the same object.

        Args:
            batch: a tuple, a dict, or a tensor.
            draw: random numbers for each sample; without them nothing random is done.
        """
        if isinstance(batch, Mapping):
            if self.field not in batch:
                raise DataError(f"the batch has no field {self.field!r}: {describe(batch)}; name it: treadle.data.Images(field=...)")
            return {**batch, self.field: self._ready(batch[self.field], draw)}
        if isinstance(batch, (tuple, list)):
            parts = [self._ready(batch[0], draw), *batch[1:]]
            return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
        return self._ready(batch, draw)

    def _ready(self, images: Any, draw: Draw | None) -> torch.Tensor:
        images = self._sized(self._in_order(images))
        if draw is not None and (self.crop or self.flip):
            images = self._moved(images, draw)
        scale, shift = _scale_and_shift(self.mean, self.std, images.dtype is torch.uint8, images.shape[1], images.device)
        images = images.float()
        if isinstance(scale, float):  # one pass for both
            return torch.add(shift, images, alpha=scale)
        return torch.mul(images, scale).add_(shift)

    def _in_order(self, images: Any) -> torch.Tensor:
        """Images as (N, C, H, W)."""
        if not isinstance(images, torch.Tensor) or images.ndim not in (3, 4) or not (images.dtype is torch.uint8 or images.is_floating_point()):
            raise DataError(f"images must be a uint8 or float tensor of shape (N, H, W) or (N, C, H, W), got {describe(images)}")
        if images.ndim == 3:
            return images.unsqueeze(1)
        return images.permute(0, 3, 1, 2) if self.channels == "last" else images

    def _sized(self, images: torch.Tensor) -> torch.Tensor:
        if self.size is None:
            return images
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        high, wide = height - images.shape[2], width - images.shape[3]
        if high == wide == 0:
            return images
        if self.fit == "resize":
            resized = interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
            return resized / 255 if images.dtype is torch.uint8 else resized
        if min(high, wide) < 0:
            raise DataError(f'images of {describe(images)} cannot be padded to {height}x{width}: they are larger; use fit="resize"')
        return pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))

    def _moved(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Crop and flip at random, in one look-up: each pixel is taken from where it was."""
        count, _, height, width = images.shape
        chance = draw(3)
        rows = torch.arange(height, device=images.device).expand(count, -1)
        columns = torch.arange(width, device=images.device).expand(count, -1)
        if self.flip:
            columns = torch.where(chance[:, 2:] < 0.5, width - 1 - columns, columns)
        if self.crop:
            images = pad(images, (self.crop,) * 4)
            starts = (chance[:, :2] * (2 * self.crop + 1)).long()
            rows, columns = rows + starts[:, :1], columns + starts[:, 1:]
        # One number a pixel: indexing by image, row and column takes seven times as long.
        source = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).view(count, 1, -1).expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, source).view(count, -1, height, width)


def _several(value: Numbers) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


@lru_cache(maxsize=64)
def _scale_and_shift(mean: Numbers, std: Numbers, raw: bool, channels: int, device: torch.device) -> tuple[Any, torch.Tensor]:
    """What normalising multiplies by and adds. Made once, since making a tensor waits for a GPU."""
    means, stds = _several(mean), _several(std)
    for name, values in (("mean", means), ("std", stds)):
        if len(values) not in (1, channels):
            raise DataError(f"treadle.data.Images: {name} has {len(values)} numbers, the images have {channels} channels")
    scales = [1 / ((255 if raw else 1) * value) for value in stds]
    count = max(len(means), len(stds))
    shifts = [-means[place % len(means)] / stds[place % len(stds)] for place in range(count)]
    if len(scales) == 1 == len(shifts):
        return scales[0], torch.tensor(shifts[0], device=device)
    return torch.tensor(scales, device=device).view(1, -1, 1, 1), torch.tensor(shifts, device=device).view(1, -1, 1, 1)
