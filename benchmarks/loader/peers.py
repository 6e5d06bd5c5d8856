"""The peers, each used as its own documentation has it.

All are given the same bytes, but for FFCV, which has no PNG and keeps pixels instead: no decoding at all. PIL and FFCV
resize with filters of their own. Batches lie in memory as each has them: FFCV's channels last, like distgan's, those of
the others channel after channel, which costs them a transposing copy of what a decoder gives.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.datasets import DatasetFolder, ImageFolder

from benchmarks.loader.cases import Case, Prepared
from benchmarks.loader.decoding import decode
from benchmarks.loader.unavailable import Unavailable

SHUFFLE = 1000
ENDLESS = 1 << 40
EPOCH = 4_000_000
"""Pictures of an epoch for peers that must know its length: none comes to its end."""


def webdataset(prepared: Prepared, workers: int, batch: int) -> Iterator[Tensor]:
    """webdataset's pipeline with torchvision's decoder."""
    suffix, side = prepared.case.suffix, prepared.case.side

    def picture(sample: dict) -> tuple[Tensor, int]:
        data = torch.frombuffer(bytearray(sample[suffix]), dtype=torch.uint8)
        pixels = data[-3 * side * side :].view(side, side, 3) if prepared.case.raw else decode(data, side)
        return pixels, int(sample["cls"])

    yield from _webdataset(prepared, workers, batch, lambda samples: samples.map(picture))


def webdataset_pil(prepared: Prepared, workers: int, batch: int) -> Iterator[Tensor]:
    """webdataset's pipeline with its own decoders: PIL, or numpy for arrays."""
    suffix = prepared.case.suffix
    transform = torch.from_numpy if prepared.case.raw else _pil_transform(prepared.case)

    def decoded(samples):
        return samples.decode("pil").to_tuple(suffix, "cls").map_tuple(transform, int)

    yield from _webdataset(prepared, workers, batch, decoded)


def _webdataset(prepared: Prepared, workers: int, batch: int, decoded: Callable) -> Iterator[Tensor]:
    import webdataset as wds

    tars = sorted(str(path) for path in prepared.tars().glob("*.tar"))
    if len(tars) < workers:
        raise Unavailable(f"{len(tars)} shards for {workers} workers")
    samples = wds.WebDataset(tars, shardshuffle=len(tars)).repeat().shuffle(SHUFFLE)
    loader = wds.WebLoader(decoded(samples).batched(batch, partial=False), batch_size=None, num_workers=workers)
    for pixels, _ in loader:
        yield _channels_first(pixels, prepared.case)


def image_folder(prepared: Prepared, workers: int, batch: int) -> Iterator[Tensor]:
    """torchvision's folder of files, opened by PIL, or by numpy for arrays."""
    if prepared.case.raw:
        folder = DatasetFolder(prepared.folder, loader=np.load, extensions=(".npy",), transform=torch.from_numpy)
    else:
        folder = ImageFolder(prepared.folder, transform=_pil_transform(prepared.case))
    yield from _loaded(folder, prepared.case, workers, batch, sampler=RandomSampler(folder, num_samples=ENDLESS))


def mosaicml(prepared: Prepared, workers: int, batch: int) -> Iterator[Tensor]:
    """MosaicML Streaming from local shards."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Pictures(StreamingDataset):
        transform = staticmethod(_pil_transform(prepared.case) if not prepared.case.raw else _writable)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return self.transform(sample["picture"]), sample["label"]

    clean_stale_shared_memory()
    shards = prepared.made("mds", functools.partial(_write_mds, prepared))
    pictures = Pictures(local=str(shards), shuffle=True, batch_size=batch, epoch_size=EPOCH)
    yield from _loaded(pictures, prepared.case, workers, batch)


def _write_mds(prepared: Prepared, folder: Path) -> None:
    from streaming import MDSWriter

    side = prepared.case.side
    form = {"png": "png", "jpg": "jpeg", "npy": f"ndarray:uint8:{side},{side},3"}[prepared.case.suffix]
    with MDSWriter(out=str(folder), columns={"picture": form, "label": "int"}) as writer:
        for label, path in prepared.pictures():
            picture = np.load(path) if prepared.case.raw else Image.open(path)
            writer.write({"picture": picture, "label": label})


def ffcv(prepared: Prepared, workers: int, batch: int) -> Iterator[Tensor]:
    """FFCV, whose threads are compiled by numba, with the file in the page cache."""
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
    from ffcv.fields.rgb_image import RGBImageField
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor, ToTorchImage

    case = prepared.case
    table = prepared.made("ffcv", functools.partial(_write_ffcv, prepared)) / "pictures.beton"
    decoder = CenterCropRGBImageDecoder((case.side,) * 2, ratio=1) if case.resize else SimpleRGBImageDecoder()
    count = sum(1 for _ in prepared.pictures())
    loader = Loader(
        str(table),
        batch_size=batch,
        num_workers=workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.tile(np.arange(count), -(-EPOCH // count)),
        pipelines={"picture": [decoder, ToTensor(), ToTorchImage()]},
        custom_fields={"picture": RGBImageField},
    )
    for pixels, _ in loader:
        yield pixels


def _write_ffcv(prepared: Prepared, folder: Path) -> None:
    from ffcv.fields import IntField
    from ffcv.fields.rgb_image import IMAGE_MODES, RGBImageField
    from ffcv.writer import DatasetWriter

    class Stored(RGBImageField):
        """JPEGs as they are: FFCV would encode them again, to pictures of another size in bytes."""

        def encode(self, destination, file: Path, malloc) -> None:
            with Image.open(file) as image:
                destination["width"], destination["height"] = image.size
            data = np.frombuffer(file.read_bytes(), np.uint8)
            destination["mode"] = IMAGE_MODES["jpg"]
            destination["data_ptr"], storage = malloc(data.nbytes)
            storage[:] = data

    field = Stored() if prepared.case.suffix == "jpg" else RGBImageField(write_mode="raw")
    writer = DatasetWriter(str(folder / "pictures.beton"), {"picture": field, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(_ForFfcv(prepared))


class _ForFfcv(Dataset):
    def __init__(self, prepared: Prepared) -> None:
        self._suffix, self._pictures = prepared.case.suffix, list(prepared.pictures())

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Path | np.ndarray, int]:
        label, path = self._pictures[index]
        if self._suffix == "jpg":
            return path, label
        if self._suffix == "npy":
            return np.load(path), label
        return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")), label


def _loaded(dataset: Dataset, case: Case, workers: int, batch: int, **options: object) -> Iterator[Tensor]:
    for pixels, _ in DataLoader(dataset, batch_size=batch, num_workers=workers, drop_last=True, **options):
        yield _channels_first(pixels, case)


def _channels_first(pixels: Tensor, case: Case) -> Tensor:
    """Raw pictures are [H, W, C] in their files, and batches of them are only looked at in another way."""
    return pixels.permute(0, 3, 1, 2) if case.raw else pixels


def _pil_transform(case: Case) -> Callable[[Image.Image], Tensor]:
    if not case.resize:
        return transforms.PILToTensor()

    def square(image: Image.Image) -> Image.Image:
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        return image.crop((left, top, left + edge, top + edge))

    return transforms.Compose([square, transforms.Resize(case.side), transforms.PILToTensor()])


def _writable(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy())
