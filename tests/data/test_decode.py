"""The two ways to decode, one picture at a time and many in one call, give the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_shards import dataset, encoded, numbers_of, pixels_of, write_tar
from PIL import Image

from distgan.data import decode, reader
from distgan.data.decode import Decoder, as_pictures
from distgan.data.place import Place
from distgan.data.scan import Kind

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def pictures(sizes: list[tuple[int, int]], form: str) -> list[bytes]:
    draw = np.random.default_rng(0)
    return [encoded(draw.integers(0, 256, (height, width, 3), np.uint8), form) for width, height in sizes]


def both_ways(decoder: Decoder, files: list[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, H, W, C] of each way; the second must have been able to."""
    alone = np.zeros((len(files), *decoder.shape), np.uint8)
    for file, out in zip(files, alone, strict=True):
        decoder.decode(torch.frombuffer(bytearray(file), dtype=torch.uint8), Kind.ENCODED, out)
    together = torch.zeros(len(files), decoder.bytes, dtype=torch.uint8)
    starts = np.cumsum([0, *map(len, files)])[:-1].tolist()
    data = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8)
    assert decoder.decode_all(data, starts, list(map(len, files)), as_pictures(together, decoder.shape))
    return torch.from_numpy(alone), together.view(-1, *decoder.shape)


@pytest.mark.parametrize("form", ["png", "jpg", "webp"])
@pytest.mark.parametrize("side", [16, 64, 112, 200])
def test_many_in_one_call_are_what_each_is_alone(form, side):
    crop = [(side, side), (side + 40, side), (side, side + 9), (2 * side, 3 * side), (side // 2, side // 2 + 1)]
    one, other = both_ways(Decoder(side, 3, "crop"), pictures(crop, form))
    assert torch.equal(one, other) and one.float().std() > 10
    one, other = both_ways(Decoder(side, 3), pictures([(side, side)] * 3, form))
    assert torch.equal(one, other)


def test_grey_in_one_call():
    one, other = both_ways(Decoder(32, 1, "crop"), pictures([(32, 32), (50, 40)], "png"))
    assert torch.equal(one, other)


@pytest.mark.parametrize("odd", ["another size", "sixteen bits", "grey webp", "no picture"])
def test_what_is_not_easy_is_left_to_the_other_way(odd):
    decoder, files = Decoder(16, 1 if odd == "grey webp" else 3), pictures([(16, 16)] * 2, "png")
    files[1] = {
        "another size": lambda: pictures([(16, 20)], "png")[0],
        "sixteen bits": lambda: encoded_16_bits(),
        "grey webp": lambda: pictures([(16, 16)], "webp")[0],
        "no picture": lambda: b"no picture at all",
    }[odd]()
    data = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8)
    out = as_pictures(torch.zeros(2, decoder.bytes, dtype=torch.uint8), decoder.shape)
    assert not decoder.decode_all(data, [0, len(files[0])], list(map(len, files)), out)


def encoded_16_bits() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("compiler", [True, False])
def test_later_epochs_are_read_in_one_call_and_without_it_alike(tmp_path, monkeypatch, compiler):
    """Sizes differ, so that the buffer of a thread grows and shrinks."""
    members = [(f"{n:02d}.{form}", encoded(pixels_of(n), form)) for n in range(24) for form in [("png", "webp")[n % 2]]]
    write_tar(tmp_path / "x.tar", members)
    calls = []
    together = Decoder.decode_all
    monkeypatch.setattr(reader.Decoder, "decode_all", lambda *a: calls.append(together(*a)) or calls[-1])
    if not compiler:
        monkeypatch.setattr(decode, "_compiled", lambda: None)
    stream = dataset(tmp_path).stream(8, 0, 0, Place())
    found = [numbers_of(next(stream).pixels) for _ in range(12)]
    stream.close()
    for epoch in range(4):
        assert sorted(sum(found[epoch * 3 : epoch * 3 + 3], [])) == list(range(24))
    assert calls and all(done is compiler for done in calls)
