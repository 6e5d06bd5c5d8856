"""How alike a generator's pictures are among themselves."""

from __future__ import annotations

from torch import Tensor

from distgan.evaluation.crew import Crew
from distgan.evaluation.shares import Share
from distgan.metrics.similarity import ms_ssim


class Similarity:
    """`ms_ssim`: the mean over the pairs of pictures 2i and 2i + 1."""

    def prepare(self, crew: Crew) -> None:
        pass

    def measure(self, crew: Crew, fakes: Share, labels: Tensor | None) -> dict[str, float]:
        def pairs(some: range) -> Tensor:
            block = range(2 * some.start, 2 * some.stop)
            pixels = fakes.pixels(block).to(crew.runtime.device)
            return ms_ssim(pixels[0::2], pixels[1::2])

        return {"ms_ssim": crew.rows(fakes.count // 2, pairs, crew.block // 2).mean().item()}
