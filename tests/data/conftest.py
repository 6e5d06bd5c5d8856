"""What the tests of data/ share: `distgan prepare` as a function and as a process."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.data import prepare as prepare_module

COMMAND = """
import argparse, sys
from distgan.data import prepare
parser = argparse.ArgumentParser()
prepare.add_arguments(parser)
sys.exit(prepare.run(parser.parse_args()))
"""


@pytest.fixture
def run():
    """`distgan prepare` in this process: takes the command line as words, returns the exit status."""

    def call(*words: object) -> int:
        parser = argparse.ArgumentParser()
        prepare_module.add_arguments(parser)
        return prepare_module.run(parser.parse_args([str(word) for word in words]))

    return call


@pytest.fixture
def start():
    """`distgan prepare` as a process of its own; whatever still runs at the end is killed."""
    started = []

    def call(*words: object, **options: object) -> subprocess.Popen:
        command = [sys.executable, "-c", COMMAND, *(str(word) for word in words)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()  # not read to its end: an orphaned worker would hold it open
        process.stderr.close()


@pytest.fixture
def picture():
    """Writes a picture of one colour (or of random pixels) to a path and returns the path."""

    def write(path: Path, size: tuple[int, int] = (40, 30), colour: object = None, **options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if colour is None:
            noise = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), np.uint8)
            Image.fromarray(noise).save(path, **options)
        else:
            Image.new("RGB", size, colour).save(path, **options)
        return path

    return write
