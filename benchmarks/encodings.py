"""What each form of `distgan prepare --encoding` costs at large sizes, and what the lossy ones keep.

    python -m benchmarks.encodings --data DIR [--resolutions N ...] [--forms FORM ...] [--pictures N] [--rounds N]
        [--json FILE]

At each resolution `--pictures` of those of highres_41.zip that are at least as large (in `--data`; default:
$DISTGAN_TEST_DATA, else shared/data beside the repository) are made square and resized as `distgan prepare` does, and
encoded in each form. Of a form are printed: mean kB a picture; ms of processor time to encode a picture, and to decode
one with the decoder that trainings use, medians of the rounds, in each of which all forms have their turn; of lossy
ones the PSNR in dB (of all, and of the worst) and the MS-SSIM. Two minutes on a core of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from PIL import Image

from benchmarks.tables import cpu_model, grid
from distgan.data.decode import Decoder
from distgan.data.encodings import encoding_named
from distgan.data.pictures import Recipe, ZipPicture, square
from distgan.data.scan import Kind
from distgan.metrics.similarity import ms_ssim

ROOT = Path(__file__).parents[1]
ARCHIVE = "highres_41.zip"
FORMS = ("raw", "png", "webp", "jpeg:90", "jpeg:95", "jpeg:98", "jpeg:100", "webp:90", "webp:95", "webp:100")


@dataclass
class Found:
    """Of one form at one resolution: kB and ms a picture, and how near to the original, PSNR in dB."""

    form: str
    resolution: int
    pictures: int
    kilobytes: float
    encode_ms: float
    decode_ms: float
    psnr: float
    worst_psnr: float
    ms_ssim: float


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    print(f"{cpu_model()}, torch {torch.__version__}, one thread\n", flush=True)
    found = []
    for resolution in options.resolutions:
        pictures = _pictures(options.data / ARCHIVE, resolution, options.pictures)
        here = _measure(pictures, resolution, options.forms, options.rounds)
        print(_table(here), end="\n\n", flush=True)
        found += here
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")


def _pictures(archive: Path, resolution: int, most: int) -> list[Image.Image]:
    with zipfile.ZipFile(archive) as file:
        names = sorted(file.namelist())
    places = [ZipPicture(str(archive), name) for name in names]
    large = [place for place in places if min(place.open().size) >= resolution]
    chosen = large[:: max(1, len(large) // most)][:most]
    return [square(place.open(), Recipe(resolution, 3)) for place in chosen]


def _measure(pictures: list[Image.Image], resolution: int, forms: Sequence[str], rounds: int) -> list[Found]:
    original = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    encoding, decoding = {form: [] for form in forms}, {form: [] for form in forms}
    files, decoded = {}, {}
    for _ in range(rounds):
        for form in forms:
            begin = time.process_time()
            files[form] = [encoding_named(form).encode(picture) for picture in pictures]
            encoding[form].append((time.process_time() - begin) * 1000 / len(pictures))
            decoded[form], milliseconds = _decode(files[form], form, resolution)
            decoding[form].append(milliseconds)
    return [
        Found(
            form,
            resolution,
            len(pictures),
            fmean(map(len, files[form])) / 1000,
            median(encoding[form]),
            median(decoding[form]),
            *_nearness(original, decoded[form]),
        )
        for form in forms
    ]


def _decode(files: list[bytes], form: str, resolution: int) -> tuple[torch.Tensor, float]:
    """The pictures, uint8 [n, 3, H, W], and the milliseconds that one took."""
    decoder, kind = Decoder(resolution, 3), Kind.NPY if form == "raw" else encoding_named(form).kind
    data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    out = np.empty((len(files), *decoder.shape), np.uint8)
    begin = time.process_time()
    for each, place in zip(data, out, strict=True):
        decoder.decode(each, kind, place)
    milliseconds = (time.process_time() - begin) * 1000 / len(files)
    return torch.from_numpy(out).permute(0, 3, 1, 2), milliseconds


def _nearness(original: torch.Tensor, decoded: torch.Tensor) -> tuple[float, float, float]:
    """PSNR of all in dB, of the worst, and mean MS-SSIM; infinite and 1 where nothing is lost."""
    if torch.equal(original, decoded):
        return float("inf"), float("inf"), 1.0
    errors = (original.double() - decoded.double()).square().mean((1, 2, 3))
    psnr = 10 * torch.log10(255**2 / torch.stack([errors.mean(), errors.max()]))
    return *psnr.tolist(), ms_ssim(original.contiguous(), decoded.contiguous()).mean().item()


def _table(found: list[Found]) -> str:
    rows = [["px (pictures)", "form", "kB", "encode, ms", "decode, ms", "PSNR, dB (worst)", "MS-SSIM"]]
    for each in found:
        lossless = each.ms_ssim == 1
        nearness = ["lossless", ""] if lossless else [f"{each.psnr:.1f} ({each.worst_psnr:.1f})", f"{each.ms_ssim:.4f}"]
        milliseconds = [f"{each.encode_ms:.1f}", f"{each.decode_ms:.2f}"]
        size = f"{each.resolution} ({each.pictures})"
        rows.append([size, each.form, f"{each.kilobytes:.0f}", *milliseconds, *nearness])
    return grid(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.encodings", description=__doc__)
    add = parser.add_argument
    data = Path(os.environ.get("DISTGAN_TEST_DATA") or ROOT.parent / "shared" / "data")
    add("--data", type=Path, default=data, help=f"folder that holds {ARCHIVE} (%(default)s)")
    add("--resolutions", type=int, nargs="+", default=[256, 512, 1024], metavar="N", help="pixels a side (%(default)s)")
    add("--forms", nargs="+", default=FORMS, metavar="FORM", help=", ".join(FORMS))
    add("--pictures", type=int, default=8, metavar="N", help="most at a resolution (%(default)s)")
    add("--rounds", type=int, default=3, help="how often each is measured (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write what was found there")
    options = parser.parse_args()
    if not (options.data / ARCHIVE).is_file():
        parser.error(f"--data {options.data}: holds no {ARCHIVE}")
    return options


if __name__ == "__main__":
    main()
