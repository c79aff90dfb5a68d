"""The MNIST database of handwritten digits, as its four original files."""

import gzip
import hashlib
from pathlib import Path

import numpy as np

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# Of the uncompressed files, as published.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split.

    Args:
        split: "train" (60,000) or "test" (10,000).

    Returns:
        images, uint8 of shape (n, 28, 28), ink is 255; labels, int64 of shape (n,), 0 to 9.

    Raises:
        ValueError: there is no such split, or a file is not the original.
    """
    if split not in FILES:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    images, labels = (_read(name) for name in FILES[split])
    return images, labels.astype(np.int64)


def _read(name: str) -> np.ndarray:
    """An IDX file: two zero bytes, the type (8: uint8), the number of dimensions, each as a big-endian int32, the data."""
    raw = gzip.decompress((Path(__file__).parent / f"{name}.gz").read_bytes())
    if (found := hashlib.sha256(raw).hexdigest()) != SHA256[name]:
        raise ValueError(f"{name}.gz is not the original: its SHA-256 is {found}, it should be {SHA256[name]}; install treadle-mnist again")
    shape = tuple(np.frombuffer(raw, ">i4", count=raw[3], offset=4))
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
