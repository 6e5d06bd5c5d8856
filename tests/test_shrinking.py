"""Real pictures as a critic that grows is given them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from launching import TINY

from distgan.config import load_config
from distgan.data.stream import Batch
from distgan.inputs import Noise
from distgan.networks.growth import shrunk
from distgan.reading import Reader


def means(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Over squares, written out."""
    count, channels, full, _ = pictures.shape
    return pictures.reshape(count, channels, side, full // side, side, full // side).mean((3, 5))


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("side", [32, 16, 8])
def test_the_finest_detail_comes_in_as_the_newest_layers_do(side, share):
    pictures = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    coarse = means(pictures, side // 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = share * means(pictures, side) + (1 - share) * coarse
    torch.testing.assert_close(shrunk(pictures, side, share), expected)


def test_what_is_read_is_of_the_resolution_and_the_share_of_now():
    config = load_config([TINY], ["run_dir=nowhere", "data.shards=nowhere", "data.flip=false"])
    runtime = SimpleNamespace(device=torch.device("cpu"), images=lambda pixels: pixels.double() / 127.5 - 1)
    phases = SimpleNamespace(stage=SimpleNamespace(resolution=16), share=0.25, noise_of=lambda k: Noise(k, None, None))
    pixels, keys = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.arange(2)
    read = Reader(config, runtime, phases, None).prepare(Batch(pixels, keys), keys)
    assert torch.equal(read.real, shrunk(runtime.images(pixels), 16, 0.25))
