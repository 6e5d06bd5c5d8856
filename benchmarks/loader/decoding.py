"""The decoder that distgan uses: as its users call it, and as nothing but itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_image

_decode = torch.ops.image.decode_image.default
_resize = torch.ops.aten._upsample_bilinear2d_aa.default


def decode(data: Tensor, side: int) -> Tensor:
    """The picture in encoded bytes, uint8 [3, side, side]: its largest centred square, resized with antialiasing."""
    picture = decode_image(data, mode=ImageReadMode.RGB)
    if picture.shape[1:] == (side, side):
        return picture
    return interpolate(_square(picture), (side, side), mode="bilinear", antialias=True, align_corners=False)[0]


def decode_into(data: Tensor, out: Tensor) -> None:
    """The same into `out`, uint8 [side, side, 3], without the Python around the two operators."""
    picture = _decode(data, ImageReadMode.RGB.value, True)
    side = out.shape[0]
    if picture.shape[1] != side or picture.shape[2] != side:
        picture = _resize(_square(picture), [side, side], False, None, None)[0]
    out.copy_(picture.permute(1, 2, 0))


def _square(picture: Tensor) -> Tensor:
    height, width = picture.shape[1:]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return picture[None, :, top : top + edge, left : left + edge]
