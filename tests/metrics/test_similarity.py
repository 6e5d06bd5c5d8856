from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import blurred, drawn, noise
from scipy import signal

from distgan.metrics import similarity
from distgan.metrics.similarity import ms_ssim

WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


def as_written(a: np.ndarray, b: np.ndarray) -> float:
    """Of two pictures [C, H, W], as the papers' equations and Progressive GAN's conventions say it."""
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        size = min(11, *a.shape[1:])
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        window = np.exp(-(x**2 + y**2) / (2 * (1.5 * size / 11) ** 2))
        window /= window.sum()
        contrasts, whole = [], []
        for p, q in zip(a, b, strict=True):
            mp, mq, pp, qq, pq = (signal.correlate2d(z, window, "valid") for z in (p, q, p * p, q * q, p * q))
            contrast = (2 * (pq - mp * mq) + 58.5225) / (pp - mp**2 + qq - mq**2 + 58.5225)
            contrasts.append(contrast)
            whole.append(contrast * (2 * mp * mq + 6.5025) / (mp**2 + mq**2 + 6.5025))
        product *= max(0, np.mean(whole if scale == 4 else contrasts)) ** weight
        h, w = (side - side % 2 for side in a.shape[1:])
        a, b = (z[:, :h, :w].reshape(len(z), h // 2, 2, w // 2, 2).mean((2, 4)) for z in (a, b))
    return product


def pairs(side: int, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four pairs, from much alike to hardly."""
    a = drawn(4, side, channels)
    b = blurred(a, 1.0)
    b[1] = (a[1] // 2 + 30).to(torch.uint8)
    b[2] = a[2] // 8 * 7 + noise(channels, side, side) // 8
    return a, torch.cat([b[:3], drawn(1, side, channels, seed=3)])


@pytest.mark.parametrize(("side", "channels"), [(176, 3), (64, 3), (32, 1), (28, 1), (16, 3), (50, 1)])
def test_it_is_what_the_papers_say(side, channels):
    a, b = pairs(side, channels)
    found = ms_ssim(a, b)
    wanted = [as_written(x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    assert min(wanted[:3]) > 0.2  # else little was compared


def test_a_picture_is_like_itself_and_less_like_others():
    a = drawn(6, 32)
    assert torch.equal(ms_ssim(a, a), torch.ones(6, dtype=torch.float64))
    assert (ms_ssim(a, blurred(a, 1.0)) < ms_ssim(a, blurred(a, 0.5))).all() and (ms_ssim(a, a.roll(1, 0)) < 1).all()


def test_it_does_not_depend_on_order_or_on_what_is_beside_a_pair(monkeypatch):
    a, b = drawn(7, 32), blurred(drawn(7, 32), 0.7)
    whole = ms_ssim(a, b)
    torch.testing.assert_close(ms_ssim(b, a), whole, rtol=1e-12, atol=0)
    monkeypatch.setattr(similarity, "_PIXELS_AT_ONCE", 2 * a[:1].numel())
    torch.testing.assert_close(ms_ssim(a, b), whole, rtol=1e-13, atol=0)


def test_pictures_of_opposite_structure_are_at_0():
    a = noise(2, 1, 32, 32)
    assert ms_ssim(a, 255 - a).tolist() == [0, 0]


def test_small_pictures_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="16 px a side or more, not 15 x 20"):
        ms_ssim(noise(1, 1, 15, 20), noise(1, 1, 15, 20))
    with pytest.raises(ValueError, match="of the same shape"):
        ms_ssim(noise(1, 1, 16, 16), noise(2, 1, 16, 16))
