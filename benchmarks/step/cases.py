"""What is computed: a pair of networks at a resolution, with a batch that fits the device."""

from __future__ import annotations

from typing import NamedTuple

from distgan.config import Config
from distgan.config.loading import validate

RESOLUTIONS = {"dcgan": (32, 64, 128, 256), "resnet": (32, 64, 128), "mlp": (32, 64, 128, 256)}
"""Where each network is defined, of those that are asked for."""

CRITIC_STEPS = 5
_CPU_BATCH = {
    "dcgan": {32: 64, 64: 32, 128: 8, 256: 2},
    "resnet": {32: 16, 64: 2, 128: 2},
    "mlp": {32: 64, 64: 64, 128: 64, 256: 64},
}
"""Images of an update that takes the textbook about half a second on two cores."""
_CUDA_BATCH = 64


class Case(NamedTuple):
    """One comparison."""

    network: str
    resolution: int
    batch: int
    width: int | None = None
    """None: that of the papers."""

    @property
    def title(self) -> str:
        return f"{self.network} {self.resolution} px, batch {self.batch}"

    def config(
        self,
        *,
        precision: str = "fp32",
        tf32: bool = False,
        compiled: bool = False,
        graphs: bool = False,
        device: str = "cpu",
    ) -> Config:
        """The config of a training in one mode."""
        width = self.width or (128 if (self.network, self.resolution) == ("resnet", 32) else _WIDTHS[self.network])
        network = {"name": self.network, "width": width, "optimizer": {"lr": 1e-4}}
        return validate(
            {
                "run_dir": "unused",
                "data": {"shards": "unused", "resolution": self.resolution},
                "train": {
                    "length": "1000000 steps",
                    "batch_size": self.batch,
                    "critic_steps": CRITIC_STEPS,
                    "precision": precision,
                    "tf32": tf32,
                    "compile": compiled,
                    "cuda_graphs": graphs,
                    "device": device,
                },
                "generator": network,
                "critic": network,
            }
        )


_WIDTHS = {"dcgan": 64, "resnet": 64, "mlp": 512}


def cases(networks: list[str], resolutions: list[int], device: str, batch: int | None) -> list[Case]:
    """All pairs that exist, in order."""
    return [
        Case(network, resolution, batch or (_CPU_BATCH[network][resolution] if device == "cpu" else _CUDA_BATCH))
        for network in networks
        for resolution in resolutions
        if resolution in RESOLUTIONS[network]
    ]
