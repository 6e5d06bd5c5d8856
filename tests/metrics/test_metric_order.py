"""Distances fall as pictures improve: real ones from other real ones, slightly blurred, blurred more."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import blurred, drawn
from PIL import Image
from torch import Tensor
from torch.nn import functional

from distgan.metrics.gaussians import Gaussian, frechet_distance
from distgan.metrics.pyramids import descriptors, sliced_wasserstein
from distgan.metrics.similarity import ms_ssim
from distgan.randomness import image_keys


def swd(a: Tensor, b: Tensor) -> float:
    """Mean over the levels, of 64 directions; no picture has the key of another."""
    keys = image_keys(0, torch.arange(2 * len(a))).split(len(a))
    levels = zip(descriptors(a, keys[0]), descriptors(b, keys[1]), strict=True)
    return (
        torch.stack([sliced_wasserstein(x, y, a.shape[1], range(64), seed=0).mean() for x, y in levels]).mean().item()
    )


def frechet(a: Tensor, b: Tensor) -> float:
    return frechet_distance(Gaussian.of(a.flatten(1)), Gaussian.of(b.flatten(1)))


def shrunk(pixels: Tensor) -> Tensor:
    """Grey and of 8 px a side, whose 64 pixels are features of which few pictures show the covariance."""
    return functional.adaptive_avg_pool2d(pixels.float().mean(1, keepdim=True), 8).round().to(torch.uint8)


def zipped(path: Path, count: int) -> Tensor:
    """Every so many-th of the pictures in a zip, the middle square."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith((".png", ".jpg"))]
        files = [archive.read(name) for name in names[:: len(names) // count][:count]]
    pictures = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    side = min(pictures[0].shape[:2])
    top, left = ((length - side) // 2 for length in pictures[0].shape[:2])
    square = np.stack(pictures)[:, top : top + side, left : left + side]
    return torch.from_numpy(square).permute(0, 3, 1, 2).contiguous()


def digits(path: Path, count: int) -> Tensor:
    values = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
    return torch.from_numpy(values.reshape(-1, 1, 28, 28)[:count].copy())


@pytest.fixture(params=["shapes", "mnist/train-images-idx3-ubyte.gz", "cifar10_8k.zip", "celeba_half_7k.zip"])
def halves(request) -> tuple[Tensor, Tensor]:
    """Two sets of 1,000 pictures of one distribution; faces have an odd side, 89 px."""
    if request.param == "shapes":
        pictures = drawn(2000, 32)
    else:
        read = zipped if request.param.endswith("zip") else digits
        pictures = read(request.getfixturevalue("real_data")(request.param), 2000)
    return pictures[::2], pictures[1::2]


def test_distances_from_real_pictures_rise_with_blur(halves):
    a, b = (half[:150] for half in halves)
    floor, slight, more = (swd(a, worse) for worse in (b, blurred(b, 0.7), blurred(b, 1.4)))
    assert 0 < 1.15 * floor < slight < more / 1.15
    a, b = (shrunk(half) for half in halves)
    floor, slight, more = (frechet(a, worse) for worse in (b, blurred(b, 0.8), blurred(b, 1.6)))
    assert 0 < 1.15 * floor < slight < more / 1.15


def test_similarity_rises_as_pictures_become_alike(halves):
    a, b = (half[:50] for half in halves)
    assert ms_ssim(a, b).mean() < ms_ssim(a, a // 2 + b // 2).mean() - 0.1
