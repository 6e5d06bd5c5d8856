from __future__ import annotations

import numpy as np
import pytest

from distgan.data import shapes


def test_a_picture_is_a_function_of_seed_and_index():
    again = [np.asarray(shapes.draw(3, 17, 32)).tobytes() for _ in range(2)]
    assert again[0] == again[1]
    assert again[0] != np.asarray(shapes.draw(4, 17, 32)).tobytes()
    assert again[0] != np.asarray(shapes.draw(3, 17 + 64, 32)).tobytes()


def test_two_pictures_of_one_mode_differ_by_a_slight_jitter():
    first, second = (np.asarray(shapes.draw(0, i, 64, mode=5)).astype(int) for i in (0, 1))
    assert 0 < (first != second).any(axis=-1).mean() < 0.15


def test_each_run_of_64_pictures_holds_every_mode_once():
    for block in range(3):
        modes = {shapes.mode_of(9, block * 64 + i) for i in range(64)}
        assert modes == set(range(64))


def test_the_modes_come_in_another_order_for_each_seed_and_block():
    orders = {tuple(shapes.mode_of(s, b * 64 + i) for i in range(64)) for s in range(3) for b in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("background", ["dark", "light"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [16, 33, 64])
def test_the_mode_can_be_read_back_from_the_pixels(resolution, channels, background):
    for index in range(64):
        picture = np.asarray(shapes.draw(1, index, resolution, channels, background))
        assert shapes.read_mode(picture) == shapes.mode_of(1, index)


def test_the_mode_is_read_back_from_a_noisy_picture():
    noise = np.random.default_rng(0)
    for index in range(64):
        picture = np.asarray(shapes.draw(1, index, 64)) + noise.normal(0, 6, (64, 64, 3))
        assert shapes.read_mode(picture.clip(0, 255).astype(np.uint8)) == shapes.mode_of(1, index)


def test_an_empty_picture_has_no_mode():
    assert shapes.read_mode(np.full((32, 32, 3), 24, np.uint8)) == -1


def test_edges_are_antialiased():
    mask = np.asarray(shapes.draw(0, 0, 64, 1, mode=0)).astype(int)  # a red circle: 72 on 24
    assert len(np.unique(mask)) > 10


@pytest.mark.parametrize("resolution", [16, 100, 1024])
def test_any_resolution_can_be_drawn(resolution):
    picture = shapes.draw(0, 0, resolution)
    assert picture.size == (resolution, resolution)
    assert picture.mode == "RGB"


def test_the_drawing_never_changes_between_versions():
    # A fact of the data set: if this fails, a run no longer sees the pictures its config names.
    assert [shapes.mode_of(0, i) for i in range(6)] == [60, 14, 19, 57, 4, 44]
    assert np.asarray(shapes.draw(0, 0, 32)).mean() == pytest.approx(33.8, abs=0.5)
