"""Images: raw pixels -> model input, against the same thing written out by hand."""

from collections import namedtuple

import numpy as np
import pytest
import torch

from treadle.core.errors import ConfigError, DataError
from treadle.data import Images
from treadle.data.prepare import Draw

GREY = torch.arange(3 * 6 * 5).remainder(256).to(torch.uint8).view(3, 6, 5)
COLOUR = torch.arange(2 * 3 * 4 * 4).to(torch.uint8).view(2, 3, 4, 4)
CPU = torch.device("cpu")


def draw(samples, seed=1, epoch=0):
    return Draw(seed, epoch, np.arange(samples), CPU)


def test_pixels_are_scaled_and_normalised():
    found = Images(mean=0.1307, std=0.3081)(GREY)
    torch.testing.assert_close(found, (GREY.unsqueeze(1) / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-6)
    assert found.dtype is torch.float32


@pytest.mark.parametrize(("mean", "std"), [((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), ((0.1, 0.2, 0.3), 0.5), (0.1, (0.5, 0.6, 0.7)), ([0.1, 0.2, 0.3], 1)])
def test_each_channel_has_its_own_mean_and_deviation(mean, std):
    means, stds = (torch.tensor(value).view(1, -1, 1, 1) for value in (mean, std))
    torch.testing.assert_close(Images(mean=mean, std=std)(COLOUR), (COLOUR / 255 - means) / stds, rtol=1e-5, atol=1e-6)


def test_floats_are_not_scaled():
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Images(mean=0.5, std=0.25)(images), (images - 0.5) / 0.25)


def test_padding_puts_black_around_the_image_before_it_is_normalised():
    found = Images(size=(9, 8), mean=0.5)(GREY)
    expected = torch.full((3, 1, 9, 8), -0.5)
    expected[:, 0, 1:7, 1:6] += GREY / 255
    torch.testing.assert_close(found, expected)


def test_resizing_keeps_what_is_the_same_everywhere_and_the_range():
    flat = torch.full((2, 28, 28), 102, dtype=torch.uint8)
    torch.testing.assert_close(Images(size=32, fit="resize")(flat), torch.full((2, 1, 32, 32), 0.4))
    torch.testing.assert_close(Images(size=14, fit="resize")(flat / 255.0), torch.full((2, 1, 14, 14), 0.4))


def test_channels_may_come_last():
    torch.testing.assert_close(Images(channels="last")(COLOUR.permute(0, 2, 3, 1)), Images()(COLOUR), rtol=0, atol=0)


Pair = namedtuple("Pair", "x y")
LABELS = torch.arange(3)


BATCHES = {"tuple": (GREY, LABELS), "list": [GREY, LABELS], "named": Pair(GREY, LABELS), "dict": {"input": GREY, "target": LABELS}}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_the_input_is_changed_and_the_rest_is_left(batch):
    found = Images(size=8)(batch)
    assert type(found) is type(batch)
    images, labels = found.values() if isinstance(found, dict) else found
    assert images.shape == (3, 1, 8, 8) and labels is LABELS


def test_another_field_may_hold_the_images():
    assert Images(field="pixels")({"target": LABELS, "pixels": GREY})["pixels"].dtype is torch.float32


def test_the_data_is_not_changed():
    images = GREY.clone()
    Images(crop=2, flip=True, mean=0.5)(images, draw(3))
    floats = torch.rand(2, 3, 4, 4)
    before = floats.clone()
    Images(mean=0.5)(floats)
    assert torch.equal(images, GREY) and torch.equal(floats, before)


# --- at random ---


def test_every_crop_is_a_window_of_the_padded_image_and_all_of_them_come():
    images = (torch.arange(16) + 1).to(torch.uint8).view(1, 1, 4, 4).expand(600, 1, 4, 4)
    found = Images(crop=1, flip=True)(images, draw(600)) * 255
    padded = torch.nn.functional.pad(images[:1].float(), (1,) * 4)
    windows = [padded[0, :, top : top + 4, left : left + 4] for top in range(3) for left in range(3)]
    windows += [window.flip(-1) for window in windows]
    which = [[place for place, window in enumerate(windows) if torch.allclose(one, window)] for one in found]
    assert all(len(places) == 1 for places in which)
    counts = np.bincount([places[0] for places in which], minlength=18)
    assert counts.min() > 10 and counts.max() < 70  # 33 each, and 6 of deviation


def test_all_channels_move_together():
    images = torch.rand(50, 1, 8, 8).expand(50, 3, 8, 8)
    found = Images(crop=3, flip=True)(images, draw(50))
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])


def test_without_random_numbers_nothing_is_random():
    assert torch.equal(Images(crop=2, flip=True)(GREY), Images()(GREY))


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be a number of pixels > 0, or .height, width., got 0"),
        ({"size": (32, 32, 3)}, "size must be"),
        ({"fit": "stretch"}, 'fit must be "pad" or "resize", got \'stretch\''),
        ({"channels": "middle"}, "channels must be"),
        ({"crop": -1}, "crop must be a number of pixels >= 0, got -1"),
        ({"std": (0.5, 0.0)}, "std must be above 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        Images(**settings)


@pytest.mark.parametrize(
    ("settings", "batch", "message"),
    [
        ({}, torch.zeros(3, 4), r"images must be a uint8 or float tensor .* got float32\[3, 4\]"),
        ({}, (torch.zeros(3, 4, 4, dtype=torch.int64), LABELS), r"got int64\[3, 4, 4\]"),
        ({}, {"x": GREY}, "no field 'input'.*Images.field="),
        ({"size": 4}, GREY, r"cannot be padded to 4x4: they are larger; use fit=\"resize\""),
        ({"mean": (0.1, 0.2)}, COLOUR, "mean has 2 numbers, the images have 3 channels"),
    ],
)
def test_a_batch_without_such_images_is_refused(settings, batch, message):
    with pytest.raises(DataError, match=message):
        Images(**settings)(batch)


def test_it_is_a_value_that_shows_what_was_asked_for():
    assert repr(Images(size=32, mean=[0.5, 0.5, 0.5])) == "Images(size=32, mean=(0.5, 0.5, 0.5))"
    assert Images(size=32) == Images(size=32) != Images(size=28)
