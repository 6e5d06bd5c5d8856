"""Pictures seen through affine maps, with a backward that gives the same bits each time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

_BILINEAR, _REFLECTION = 0, 2
"""In torch's own operator."""


def resample(pictures: Tensor, maps: Tensor) -> Tensor:
    """out(x) = picture(M x): each of [N, C, S, S] through its map [N, 2, 3], which takes places of the result to places
    in the picture, both in coordinates from -1 to 1 between the outer edges.

    Bilinear; beyond its edges a picture is reflected. Differentiable in the pictures, once."""
    return _resample(pictures, maps)


@torch.library.custom_op("distgan::resample", mutates_args=())
def _resample(pictures: Tensor, maps: Tensor) -> Tensor:
    sampled = grid_sample(pictures, _grid(maps, pictures.shape[-1]), "bilinear", "reflection", align_corners=False)
    return sampled.contiguous()


@torch.library.custom_op("distgan::resample_backward", mutates_args=())
def _resample_backward(gradient: Tensor, maps: Tensor) -> Tensor:
    grid, gradient = _grid(maps, gradient.shape[-1]), gradient.contiguous()
    if gradient.is_cuda:
        return scattered(gradient, grid)
    found, _ = torch.ops.aten.grid_sampler_2d_backward(
        gradient, gradient, grid, _BILINEAR, _REFLECTION, False, [True, False]
    )
    return found.contiguous()


@_resample.register_fake
def _(pictures: Tensor, maps: Tensor) -> Tensor:
    return torch.empty_like(pictures, memory_format=torch.contiguous_format)


@_resample_backward.register_fake
def _(gradient: Tensor, maps: Tensor) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


def _keep_maps(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
    return _resample_backward(gradient, *ctx.saved_tensors), None


_resample.register_autograd(_backward, setup_context=_keep_maps)


def _grid(maps: Tensor, side: int) -> Tensor:
    """Where each pixel of the result is taken from, [N, S, S, 2]. By hand: a matrix product may work in TF32."""
    centres = (2 * torch.arange(side, dtype=maps.dtype, device=maps.device) + 1) / side - 1
    x, y = centres[None, :], centres[:, None]
    return torch.stack([row[:, 0] * x + row[:, 1] * y + row[:, 2] for row in maps[..., None, None].unbind(1)], -1)


def scattered(gradient: Tensor, grid: Tensor) -> Tensor:
    """The gradient [N, C, S, S] by the pictures, from that by their samples at `grid` [N, S, S, 2].

    What several samples give to one pixel is sorted before it is added up (`index_put_` on CUDA), where torch's own
    kernel adds in the order of the moment. On CUDA alone: on a CPU it is the other way round."""
    images, channels, side, _ = gradient.shape
    x, y = _reflected(((grid + 1) * side - 1) / 2, side).unbind(-1)
    left, top = x.floor(), y.floor()
    right_share, lower_share = x - left, y - top
    first = side * side * torch.arange(images, device=grid.device)[:, None, None]
    places, values = [], []
    rows = gradient.permute(0, 2, 3, 1)
    for row, vertical in ((top, 1 - lower_share), (top + 1, lower_share)):
        for column, horizontal in ((left, 1 - right_share), (left + 1, right_share)):
            place = row.long().clamp(max=side - 1) * side + column.long().clamp(max=side - 1)
            places.append((first + place).flatten())
            values.append(((vertical * horizontal)[..., None] * rows).reshape(-1, channels))
    found = gradient.new_zeros(images * side * side, channels)
    found.index_put_((torch.cat(places),), torch.cat(values), accumulate=True)
    return found.view(images, side, side, channels).permute(0, 3, 1, 2).contiguous()


def _reflected(places: Tensor, side: int) -> Tensor:
    """Coordinates in pixels, mirrored at the outer edges, -1/2 and side - 1/2, and then held to the centres."""
    there = (places + 0.5).abs().remainder(2 * side)
    return (torch.minimum(there, 2 * side - there) - 0.5).clamp(0, side - 1)
