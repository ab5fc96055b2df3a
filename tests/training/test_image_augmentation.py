"""Test that the batched augmentation of crops does what OpenCV does crop by crop."""

import cv2
import numpy as np
import pytest
import torch

from moodreel.training.augmentation import image, image_batched
from moodreel.training.augmentation.image_batched import augment_batch, augment_crops

COUNT = 64


@pytest.fixture(scope="module")
def crops(portrait):
    gray = cv2.cvtColor(portrait[60:190, 150:290], cv2.COLOR_RGB2GRAY)
    rng = np.random.default_rng(0)
    squares = [gray[y : y + 90, x : x + 90] for y, x in rng.integers(0, 40, (COUNT, 2))]
    return np.stack([cv2.resize(square, (48, 48), interpolation=cv2.INTER_AREA) for square in squares])


def difference(batched, single):
    """Mean and largest difference in gray levels between torch's and OpenCV's images."""
    gap = np.abs(batched.numpy() - np.stack(single))
    return gap.mean(), gap.max()


def test_each_batched_step_equals_opencv_within_rounding(crops):
    images, rng = torch.from_numpy(crops).float(), np.random.default_rng(1)
    matrix = np.tile(np.eye(3), (COUNT, 1, 1)) + np.pad(rng.normal(0, 0.1, (COUNT, 2, 3)), ((0, 0), (0, 1), (0, 0)))
    single = [
        cv2.warpAffine(crop, m[:2], (48, 48), borderMode=cv2.BORDER_REPLICATE)
        for crop, m in zip(crops, matrix, strict=True)
    ]
    assert difference(image_batched.warp(images, matrix).round(), single) < (0.1, 2)
    sigma = rng.uniform(0.4, 1.8, COUNT)
    single = [cv2.GaussianBlur(crop, (0, 0), s) for crop, s in zip(crops, sigma, strict=True)]
    assert difference(image_batched.gaussian_blur(images, sigma), single) < (0.2, 3)
    quality = rng.integers(8, 70, COUNT)
    encoded = [
        cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(q)])[1]
        for crop, q in zip(crops, quality, strict=True)
    ]
    single = [cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE) for jpeg in encoded]
    # A coefficient halfway between two steps may go to the other one.
    assert difference(image_batched.jpeg(images, quality), single) < (0.5, 64)


def test_the_batched_augmentation_changes_images_as_much_as_opencv_does(crops):
    many = torch.from_numpy(crops).repeat(30, 1, 1)
    batched, single = (augment(many, np.random.default_rng(2)).float() for augment in (augment_batch, augment_crops))
    assert batched.mean() == pytest.approx(single.mean().item(), rel=0.05)
    assert batched.std(dim=(1, 2)).mean() == pytest.approx(single.std(dim=(1, 2)).mean().item(), rel=0.06)
    edges = [images.diff(dim=1).abs().mean().item() for images in (batched, single)]
    assert edges[0] == pytest.approx(edges[1], rel=0.1)


def test_two_of_five_crops_get_plain_borders_in_a_batch_too():
    """A white crop stays white unless it gets such a border; of a few the border is outside."""
    white, rng = np.full((2000, 48, 48), 255, np.uint8), np.random.default_rng(6)
    single = np.stack([image._misalign(crop, rng) for crop in white])
    batched = image_batched.misalign(torch.from_numpy(white).float(), rng).numpy()
    shares = [(images.min(axis=(1, 2)) < 255).mean() for images in (batched, single)]
    assert shares == pytest.approx([0.375, 0.375], abs=0.04)


def test_a_batch_is_shrunk_as_much_as_single_crops(crops):
    many, rng = np.tile(crops, (30, 1, 1)), np.random.default_rng(7)
    single = np.stack([image._shrink(crop, rng) for crop in many]).astype(np.float32)
    batched = image_batched.shrink(torch.from_numpy(many).float(), rng).numpy()
    edges = [np.abs(np.diff(images, axis=1)).mean() for images in (batched, single)]
    assert edges[0] == pytest.approx(edges[1], rel=0.03)


def test_the_same_seed_gives_the_same_batch_and_the_crops_stay_as_they_were(crops):
    before = torch.from_numpy(crops.copy())
    first, second = (augment_batch(before, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, before)
    assert torch.equal(before, torch.from_numpy(crops))
    assert (first.shape, first.dtype) == (before.shape, torch.uint8)


def test_on_the_cpu_a_batch_equals_its_crops_augmented_one_by_one(crops):
    rng = np.random.default_rng(4)
    single = np.stack([image.augment_crop(crop, rng) for crop in crops])
    assert torch.equal(augment_crops(torch.from_numpy(crops), np.random.default_rng(4)), torch.from_numpy(single))


def test_no_image_leaves_the_device(crops, monkeypatch):
    """The meta device has no memory: whatever read a pixel on the CPU would fail."""
    monkeypatch.setattr(image_batched, "_standard_normal", lambda images, seed: torch.zeros_like(images))
    changed = augment_crops(torch.from_numpy(crops).to("meta"), np.random.default_rng(5))
    assert changed.device.type == "meta" and changed.shape == (COUNT, 48, 48)
