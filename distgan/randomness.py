"""Random draws that are functions of (seed, purpose, step, position) and of nothing else.

No generator has a state here, so nothing needs saving and nothing depends on the number of processes: the draw
for image p of a global batch is the same on whichever rank p falls. Numbers come from the SplitMix64 sequence
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) in wrapping int64
arithmetic, which is identical on CPU and CUDA and for every version of torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The unsigned 64-bit `value` as the int64 of the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def key(*parts: int | str) -> int:
    """A 64-bit key (signed) of the parts, e.g. `key(seed, "critic", step, repeat)`."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _purpose(name: str) -> int:
    """A 64-bit number (signed) of a name: FNV-1a, in plain integers that the compiler folds into a constant."""
    value = 0xCBF29CE484222325
    for letter in name:
        value = ((value ^ ord(letter)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return _signed(value)


def image_keys(base: int, positions: Tensor) -> Tensor:
    """One int64 key an image, from the key of a batch and the images' positions [N] in the global batch."""
    return _mix(hashed(positions) ^ base)


def hashed(positions: Tensor) -> Tensor:
    """What `keys_of_batches` wants to know of positions [N], int64 [N]."""
    return _mix(positions.to(torch.int64) * _GOLDEN)


def keys_of_batches(bases: Sequence[int], hashed: Tensor) -> Tensor:
    """The `image_keys` of several batches, one after the other, from what is `hashed` of their common positions [N]:
    int64 [len(bases) * N]. As many operators as for one."""
    return _mix(torch.cat([hashed ^ base for base in bases]))


def subkeys(keys: Tensor, purpose: str) -> Tensor:
    """The keys [N] of one purpose ("latent", "flip", a layer's name), independent of every other purpose."""
    return _mix(keys ^ _purpose(purpose))


def _states(keys: Tensor, count: int) -> Tensor:
    """The first states of the sequence of each key, int64 [N, count]."""
    return keys[:, None] + torch.arange(1, count + 1, dtype=torch.int64, device=keys.device) * _GOLDEN


_opaque_states = torch.library.custom_op("distgan::states", _states, mutates_args=())
"""For compiled code. The compiler takes the product of a range and a constant for the computation of an index, which on
CUDA has 32 bits (torch 2.11: "Scalar -7046029254386353131 is out of range for type int32")."""


@_opaque_states.register_fake
def _(keys: Tensor, count: int) -> Tensor:
    return keys.new_empty((keys.shape[0], count))


def _bits(keys: Tensor, purpose: str, shape: tuple[int, ...]) -> Tensor:
    keys = subkeys(keys, purpose)
    if not shape:
        return _mix(keys + _GOLDEN)
    states = _opaque_states if torch.compiler.is_compiling() else _states
    return _mix(states(keys, math.prod(shape))).view(keys.shape[0], *shape)


def uniform(keys: Tensor, purpose: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform draws in [0, 1), of shape [N, *shape], from image keys [N]; 24 bits each, exact in every dtype
    of float32 precision or more."""
    return (_shift(_bits(keys, purpose, shape), 40).to(torch.float32) * 2.0**-24).to(dtype)


def normal(keys: Tensor, purpose: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal draws of shape [N, *shape] from image keys [N] (Box and Muller 1958, in float64)."""
    bits = _bits(keys, purpose, shape)
    radius = torch.sqrt(-2.0 * torch.log((_shift(bits, 32).to(torch.float64) + 1.0) * 2.0**-32))
    angle = (bits & 0xFFFFFFFF).to(torch.float64) * (2.0 * math.pi * 2.0**-32)
    return (radius * torch.cos(angle)).to(dtype)


def permutation(base: int, count: int) -> Tensor:
    """A permutation of 0..count-1 (int64, CPU): the positions sorted by a hash keyed with `base`."""
    return torch.argsort(image_keys(base, torch.arange(count)), stable=True)
