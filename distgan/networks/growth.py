"""Growing (Karras et al. 2018, "Progressive Growing of GANs", section 2): at which resolution a network works now, and
how far the layers of that resolution have come in.

A growing network has all its parameters from the start and uses those of the resolutions up to the one of now, of
which its pictures are; in evaluation mode a generator enlarges them to the full one. The layers of the newest
resolution come in smoothly: the network blends what it makes without them and with them, by their share. The share is
a tensor, so that a compiled network is compiled anew only when the resolution changes, and both are in its checkpoint.
"""

from __future__ import annotations

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 4
"""Pixels a side at the least; layers of a larger resolution come in beside those of half of it."""


class Growth(nn.Module):
    """A part of a growing network, which it calls `growth`.

    `grows`: whether the network is one of a run that grows, known from the first `set_to` on or from a checkpoint in
    which layers come in. Another is at its full resolution, with what that needs and no more."""

    def __init__(self, full: int) -> None:
        """`full`: the resolution in the end, at which it is until `set_to` says otherwise."""
        super().__init__()
        self.full = self.now = full
        self.grows = False
        self.register_buffer("resolution", torch.tensor(full))
        self.register_buffer("share", torch.ones(()))
        self.register_load_state_dict_post_hook(_take_over)

    def set_to(self, resolution: int, share: float, *, grows: bool = True) -> None:
        """From now on `resolution` pixels a side, its layers come in to `share` (0 to 1); `grows`: of a run that
        does."""
        self.grows = grows
        if resolution != self.now:
            self.now = resolution
            self.resolution.fill_(resolution)
        self.share.fill_(share)

    @property
    def blends(self) -> bool:
        """Whether the network's result is a `blended` one; it then stays one, so that a resolution has one graph."""
        return self.grows and self.now > SMALLEST

    def blended(self, without: Tensor, with_them: Tensor) -> Tensor:
        """What the network makes `without` the newest layers and `with_them`, by their share: in float32 at least,
        returned in the dtype of the latter."""
        wide = torch.promote_types(with_them.dtype, self.share.dtype)
        return torch.lerp(without.to(wide), with_them.to(wide), self.share.to(wide)).to(with_them.dtype)


def _take_over(growth: Growth, *_: object) -> None:
    growth.now = int(growth.resolution)
    growth.grows = growth.grows or bool(growth.share < 1)


def growth_of(network: nn.Module) -> Growth | None:
    """That of a growing network; None for another."""
    return getattr(network, "growth", None)


def in_use(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that the network uses now, in the order of `parameters`.

    A growing one says for which resolutions each of its parts is, by `parts_in_use()`."""
    if growth_of(network) is None:
        return list(network.parameters())
    used = set(chain.from_iterable(part.parameters() for part in network.parts_in_use()))
    return [parameter for parameter in network.parameters() if parameter in used]


def shrunk(pictures: Tensor, resolution: int, share: float) -> Tensor:
    """What a growing critic sees of pictures [N, C, R, R] at `resolution` pixels a side: means over squares, and while
    its newest layers come in as little detail more than at half of it as they have come in (ibid. appendix A.1)."""
    factor = pictures.shape[-1] // resolution
    found = F.avg_pool2d(pictures, factor) if factor > 1 else pictures
    if share == 1:
        return found
    return torch.lerp(enlarged(F.avg_pool2d(found, 2), resolution), found, share)


def enlarged(pictures: Tensor, resolution: int) -> Tensor:
    """Pictures of fewer pixels at `resolution` pixels a side, each pixel repeated."""
    factor = resolution // pictures.shape[-1]
    return F.interpolate(pictures, scale_factor=float(factor), mode="nearest") if factor > 1 else pictures
