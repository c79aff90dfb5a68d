"""The same noisy images in every kind of data that a run can read, augmented with three random generators."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

import treadle
from treadle import data

LENGTH, BATCH = 203, 32
Sample = tuple[torch.Tensor, torch.Tensor]


def tensors(length: int = LENGTH) -> Sample:
    """Images of two classes, in memory."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 2, (length,), generator=generator)
    return torch.randn(length, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1), labels


def augmented(images: torch.Tensor) -> torch.Tensor:
    """One image, or a batch of them, changed by torch's, NumPy's and Python's generators."""
    images = images + 0.1 * torch.randn_like(images) + float(np.random.normal()) * 0.1
    return images.flip(-1) if random.random() < 0.5 else images


class Images(Dataset[Sample]):
    """Samples by index."""

    def __init__(self) -> None:
        self.images, self.labels = tensors()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return augmented(self.images[index]), self.labels[index]


def chosen(index: int) -> Sample:
    """One image, as it lies there."""
    images, labels = tensors()
    return images[index], labels[index]


def augmented_sample(sample: Sample) -> Sample:
    """A sample that is another one each time."""
    return augmented(sample[0]), sample[1]


def mixed() -> treadle.Samples:
    """Two datasets by weights, one of them read by threads and kept in a cache; an epoch of so many batches."""
    slow = data.cache(data.map(range(60), chosen, threads=3))
    some = data.map(data.mix([slow, data.load_by_random_id(chosen, ids=range(60, LENGTH))], [2, 3]), augmented_sample)
    return data.Infinite(some, batches_per_epoch=7)


def bucketed() -> treadle.Samples:
    """Batches of images of one size or so, at most so many pixels a batch, padded and augmented as a whole."""
    lengths = [1 + number % 7 for number in range(LENGTH)]
    return data.Infinite(treadle.Samples(data.bucket(Images(), lengths, max_tokens=96), collate=augmented_batch), batches_per_epoch=7)


class Stream(IterableDataset[Sample]):
    """Samples in their own order, from the start each time."""

    def __iter__(self) -> Iterator[Sample]:
        images = Images()
        yield from (images[index] for index in range(len(images)))


class StatefulStream(IterableDataset[Sample]):
    """A stream that says where it is, after the last sample that it gave.

    It shuffles each pass with a generator of its own, and adds a running sum to every image: after a wrong restore, samples
    and pixels differ, in this pass or in the next.
    """

    def __init__(self) -> None:
        self.images, self.generator = Images(), random.Random(3)
        self.order: list[int] = []
        self.position, self.sum = 0, 0

    def __iter__(self) -> Iterator[Sample]:
        if self.position == 0:
            self.order = self.generator.sample(range(len(self.images)), len(self.images))
        while self.position < len(self.order):
            index = self.order[self.position]
            self.position += 1
            self.sum = (31 * self.sum + index) % 9973
            image, label = self.images[index]
            yield image + self.sum / 9973, label
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.getstate(), "order": list(self.order), "position": self.position, "sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        version, numbers, gauss = state["generator"]
        self.generator.setstate((version, tuple(numbers), gauss))
        self.order, self.position, self.sum = list(state["order"]), state["position"], state["sum"]


def augmented_batch(samples: list[Sample]) -> Sample:
    """A collate function of the user's."""
    images, labels = default_collate(samples)
    return augmented(images), labels


def torch_loader(workers: int = 0) -> DataLoader[Sample]:
    """A DataLoader as the user made it."""
    return DataLoader(Images(), BATCH, shuffle=True, collate_fn=augmented_batch, num_workers=workers)


def list_of_batches() -> treadle.Batches:
    """Batches at hand."""
    images, labels = tensors()
    return treadle.Batches(list(zip(images.split(BATCH), labels.split(BATCH), strict=True)))


def function_of_batches() -> treadle.Batches:
    """Batches made anew in each epoch."""

    def read() -> Iterator[Sample]:
        for images, labels in list_of_batches().iterable:
            yield augmented(images), labels

    return treadle.Batches(read)
