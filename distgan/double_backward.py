"""The double backward of convolutions, for every critic that has no chain.

A gradient penalty differentiates the backward of a convolution. With x, w and y its input, weight and output, g the
gradient by y and v the one by what the backward made of x, it needs conv(v, w), and the weight's gradient of a
convolution of v whose output has the gradient g: as many multiplications as another forward and half of its backward.

Torch's own (`aten::_convolution_double_backward`) makes the second as a convolution of v by a kernel of the size of g,
batch and maps exchanged. For kernels as large as the image cuDNN has no good algorithm: on an H200 that was 94 % of
a step of `progressive` at 1024 pixels (torch 2.11, bf16). On CPUs in bf16 it is wrong for some numbers of images
(docs/log.md). Here it is `aten::convolution_backward`, which libraries are made for. What is computed is the same, in
eager and in compiled code, for all kinds of convolutions, any number of times over; StyleGAN2-ADA's code replaces the
whole convolution for this.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.library import Library

_OPERATOR = "_convolution_double_backward"
_TAG = ", double backward of convolutions by distgan, 1"
"""A part of the keys of what torch keeps compiled on disk, which know nothing of operators replaced: without it code
with torch's own is taken from there. To be counted on with what is computed."""
_library: Library | None = None


def install() -> None:
    """From now on all double backwards of convolutions of this process are by this file; a second time does nothing."""
    global _library
    if _library is None:
        _library = Library("aten", "IMPL")
        with warnings.catch_warnings():  # torch before 2.12 tells of it, which is what is wanted
            warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
            _library.impl(_OPERATOR, _convolution_double_backward, "CompositeImplicitAutograd")
        torch.compiler.config.cache_key_tag += _TAG


def is_installed() -> bool:
    return _library is not None


def uninstall() -> None:
    """Torch's own again, for eager code, and for what is compiled from now on."""
    global _library
    if _library is not None:
        _library._destroy()
        _library = None
        torch.compiler.config.cache_key_tag = torch.compiler.config.cache_key_tag.replace(_TAG, "")


@contextlib.contextmanager
def torchs_own() -> Iterator[None]:
    """Torch's own within: a reference shares nothing with what it is held against."""
    was_installed = is_installed()
    uninstall()
    try:
        yield
    finally:
        if was_installed:
            install()


def _convolution_double_backward(
    v_input: Tensor | None,
    v_weight: Tensor | None,
    v_bias: Tensor | None,
    gradient: Tensor,
    weight: Tensor,
    x: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients by `gradient`, `x` and `weight`, from those (v) by what `convolution_backward` made of them; None
    for what is not needed, or zero."""
    kind = (stride, padding, dilation, transposed, output_padding, groups)
    by_gradient = by_input = by_weight = None
    if needed[0]:
        parts = [] if v_input is None else [torch.ops.aten.convolution(v_input, weight, v_bias, *kind)]
        if v_weight is not None:
            parts.append(torch.ops.aten.convolution(x, v_weight, None if parts else v_bias, *kind))
        by_gradient = sum(parts[1:], parts[0]) if parts else _everywhere(v_bias, gradient)
    if needed[1] and v_weight is not None:
        by_input = torch.ops.aten.convolution_backward(gradient, x, v_weight, None, *kind, (True, False, False))[0]
    if needed[2] and v_input is not None:
        by_weight = torch.ops.aten.convolution_backward(gradient, v_input, weight, None, *kind, (False, True, False))[1]
    return by_gradient, by_input, by_weight


def _everywhere(bias: Tensor | None, like: Tensor) -> Tensor | None:
    """[O] as [N, O, ...]."""
    return None if bias is None else bias.view(1, -1, *(1,) * (like.dim() - 2)).expand_as(like)
