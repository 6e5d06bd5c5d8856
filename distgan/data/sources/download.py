"""`--download`: lets torchvision fetch a data set into the input folder.

Imports torch, so only when asked.
"""

from __future__ import annotations

import socket
from pathlib import Path

from distgan.errors import UserError

DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR10", "celeba": "CelebA"}


def download(source: str, folder: Path) -> None:
    """Fetches `source` into `folder` unless it is there. Raises `UserError` where it cannot be had."""
    import torchvision.datasets

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)  # torchvision sets none: a dead mirror would hang for ever
    try:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(torchvision.datasets, DATASETS[source])(str(folder), download=True)
    except Exception as error:  # network, mirrors, quotas, missing gdown: all the same to the user
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{source} could not be downloaded into {folder} ({reason}); fetch it by hand and give its folder"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
