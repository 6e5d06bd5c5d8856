"""What is kept of a real set: files beside its shards, or in the cache's folder where those cannot take them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from distgan.data.dataset import Indexed, caching_of
from distgan.files import new_file
from distgan.trouble import tell

FOLDER = "evaluation"
_VERSION = 1
"""Another one where the same name would mean something else."""
_FACTS = "distgan.evaluation"
"""In the header: facts and seal, as JSON."""


class Kept(NamedTuple):
    """Tensors, and what is to be said of them (as JSON has it)."""

    tensors: dict[str, Tensor]
    facts: dict


class Store:
    """Of one set of pictures: their content, resolution, channels, which of them are trained on, and whether others may
    stand for bad ones. Only the main process uses it."""

    def __init__(self, dataset: Indexed) -> None:
        data = dataset.data
        folders = {shard.place if shard.is_remote else os.path.dirname(shard.place) for shard in dataset.shards.shards}
        self.folders = [Path(caching_of(data).folder) / FOLDER]
        if len(folders) == 1 and dataset.shards.paths:
            self.folders.insert(0, Path(*folders) / FOLDER)
        pictures = (dataset.fingerprint, data.resolution, data.channels, data.fit, data.holdout, data.bad_pictures)
        self._of = (_VERSION, *pictures)

    def name(self, what: str, *more: object) -> str:
        """Of a file; another for whatever else `more` says."""
        text = json.dumps([*self._of, *more])
        return f"{what}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.safetensors"

    def load(self, name: str) -> Kept | None:
        """None where there is none that is whole; what is damaged is told then, as it is to be made anew."""
        faults = []
        for folder in self.folders:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                try:
                    return _parse((folder / name).read_bytes())
                except (SafetensorError, ValueError, KeyError, TypeError) as error:
                    faults.append(f"{folder / name}: damaged ({' '.join(str(error).split())}); made anew")
                except OSError as error:
                    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                        raise
                    faults.append(f"{folder / name}: cannot be read ({error.strerror}); made anew")
        for fault in faults:
            tell(fault)
        return None

    def save(self, name: str, tensors: dict[str, Tensor], facts: dict) -> Path | None:
        """Into the first folder that takes it; where none does that is told, and the next start makes it again."""
        tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        content = save(tensors, {_FACTS: json.dumps({"facts": facts, "seal": _seal(tensors, facts)})})
        for folder in self.folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with new_file(folder / name) as file:
                    file.write(content)
                return folder / name
            except OSError as error:
                reason = error.strerror
        tell(f"{self.folders[-1]}: cannot be written ({reason}); what was measured of the real pictures is not kept")
        return None


def digest(tensors: dict[str, Tensor]) -> str:
    """32 hexadecimal digits of the contents of tensors on the host."""
    found = hashlib.blake2b(digest_size=16)
    for key in sorted(tensors):
        found.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        found.update(tensors[key].contiguous().numpy())
    return found.hexdigest()


def _seal(tensors: dict[str, Tensor], facts: dict) -> str:
    return hashlib.blake2b(f"{json.dumps(facts)} {digest(tensors)}".encode(), digest_size=16).hexdigest()


def _parse(content: bytes) -> Kept:
    """Raises SafetensorError, ValueError, KeyError or TypeError where it is not what `save` wrote."""
    tensors = load(content)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_FACTS])
    if header["seal"] != _seal(tensors, header["facts"]):
        raise ValueError("its content is not what was written")
    return Kept(tensors, header["facts"])
