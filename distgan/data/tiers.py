"""Where a set is kept while it is trained on: on the device, in memory that the processes of a machine share, or in its
shards. One order and the same bits, whichever it is."""

from __future__ import annotations

import sys

import torch

from distgan.config.schema import Data
from distgan.data.memory import available_memory
from distgan.data.on_device import CopiedAhead, Resident, ResidentStream
from distgan.data.place import Place
from distgan.data.reader import Pictures
from distgan.data.shared_pictures import SharedPictures, needed
from distgan.data.stream import BatchStream, Plan, Stream
from distgan.errors import ConfigError, ReadError

_SHARE_OF_MEMORY, _SHARE_OF_DEVICE = 1 / 4, 1 / 4
"""Of what is free, how much `data.tier: auto` takes for pictures."""


def open_tier(data: Data, plan: Plan, pictures: Pictures, place: Place) -> BatchStream:
    """The stream of a plan from the tier that the config names, or that the sizes suggest.

    The processes of a machine call it together: the first decides for all. Raises `ConfigError` where a tier that is
    asked for has no room.
    """
    threads = data.threads or place.cores
    device = torch.device(place.device)
    tier = data.tier if data.tier != "auto" else _suggested(pictures, device)
    memory, told = None, tier
    if place.local_rank == 0:
        _check_room(tier, data.tier, pictures, device)
        if tier == "memory" or (tier == "device" and place.local_size > 1 and _fits_in_memory(pictures)):
            memory = SharedPictures(pictures, pictures.count)
            told = f"{tier} {memory.address}"
    tier, _, address = place.share(told).partition(" ")
    memory = _shared_by_all(memory, address, pictures, place)
    if tier == "device":
        first = place.local_rank / place.local_size
        resident = Resident(plan, pictures, memory, device, threads, first)
        if memory is not None:
            memory.close()
        return ResidentStream(plan, resident)
    batches = Stream(plan, pictures, memory, threads=threads, pin=device.type == "cuda")
    return on_device(batches, place.device)


def _shared_by_all(
    memory: SharedPictures | None, address: str, pictures: Pictures, place: Place
) -> SharedPictures | None:
    """The memory at `address`, which the first process of this machine has made; none for all of its processes where
    one of them cannot open it, which the first tells. Waits for all: the first may not close it before they have it."""
    machine, trouble = f"{place.rank - place.local_rank} ", ""
    if address and memory is None:
        try:
            memory = SharedPictures(pictures, pictures.count, None if address == "None" else address)
        except ReadError as error:
            trouble = str(error)
    found = [
        text for text in place.union(frozenset([machine + trouble] if trouble else [])) if text.startswith(machine)
    ]
    if not found:
        return memory
    if memory is not None:
        memory.close()
    if place.local_rank == 0:
        reason = min(found).removeprefix(machine)
        print(f"distgan: {reason}; each process reads the shards instead", file=sys.stderr, flush=True)
    return None


def on_device(batches: BatchStream, device: str) -> BatchStream:
    """The batches, copied ahead where the device is not the host."""
    return CopiedAhead(batches, torch.device(device)) if torch.device(device).type == "cuda" else batches


def _suggested(pictures: Pictures, device: torch.device) -> str:
    length = pictures.decoder.bytes
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if pictures.count * (length + 8) <= free * _SHARE_OF_DEVICE:
            return "device"
    return "memory" if _fits_in_memory(pictures) else "stream"


def _fits_in_memory(pictures: Pictures) -> bool:
    return needed(pictures.count, pictures.decoder.bytes) <= available_memory() * _SHARE_OF_MEMORY


def _check_room(tier: str, asked: str, pictures: Pictures, device: torch.device) -> None:
    if asked == "auto" or tier == "stream":
        return
    size = needed(pictures.count, pictures.decoder.bytes)
    free = torch.cuda.mem_get_info(device)[0] if tier == "device" and device.type == "cuda" else available_memory()
    if size > free:
        raise ConfigError(
            f"data.tier: {tier}: the pictures take {size / 1e9:.1f} GB decoded, and {free / 1e9:.1f} GB are free; use "
            "data.tier: stream, or a lower data.resolution"
        )
