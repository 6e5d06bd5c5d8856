"""Whether shards without an index (data.order: resampled) begin with a picture that can be trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from distgan.config.schema import Data
from distgan.data.dataset import Unindexed
from distgan.data.decode import Decoder
from distgan.data.scan import PICTURES, picture_in
from distgan.data.tar_stream import UNREADABLE, read_members
from distgan.data.urls import is_remote, shown
from distgan.doctor.reading import replacing
from distgan.doctor.table import FINE, NOT_FINE, REMARK, Finding

SHARDS = 64
"""No more than these are looked at."""


def check_beginnings(opened: Unindexed) -> list[Finding]:
    """The first picture of some shards; what comes after it is only known by reading all."""
    numbers = np.unique(np.linspace(0, len(opened.places) - 1, SHARDS).round().astype(int)).tolist()
    faults = [fault for number in numbers for fault in _first_fault(opened.places[number], opened.data)]
    head = f"the first picture of {len(numbers)} of {len(opened.places)} shards read"
    if faults and opened.data.bad_pictures == "replace" and len(faults) < min(len(numbers), opened.data.bad_limit + 1):
        text = f"{head}: {len(faults)} bad; {replacing(len(faults), opened.data.bad_limit)}"
        return [Finding("pictures", REMARK, "\n".join([text, *faults]))]
    if faults:
        return [Finding("pictures", NOT_FINE, "\n".join([f"{head}: {len(faults)} bad; make these again", *faults]))]
    return [Finding("pictures", FINE, f"{head}, all sound")]


def _first_fault(place: str, data: Data) -> Iterator[str]:
    name, member = shown(place) if is_remote(place) else place, ""
    try:
        pictures = (part for part in read_members(place, data.allow_shell) if part[1] in PICTURES)
        found = next(pictures, None)
        pictures.close()
        if found is None:
            yield f"{name}: it holds no picture"
            return
        key, extension, content = found
        member = f"{key}.{extension}: "
        start, size, _, kind = picture_in(name, member, extension, 0, content)
        decoder = Decoder(data.resolution, data.channels, data.fit)
        encoded = torch.frombuffer(bytearray(content[start : start + size]), dtype=torch.uint8)
        decoder.decode(encoded, kind, np.empty(decoder.shape, np.uint8))
    except OSError as error:
        yield f"{name}: cannot be read: {error.strerror or error}"
    except (*UNREADABLE, RuntimeError) as error:
        yield f"{name}: {member}{str(error).removeprefix(f'{name}: ').splitlines()[0]}"
