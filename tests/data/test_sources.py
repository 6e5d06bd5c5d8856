from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from distgan.data.pictures import Recipe, render, square
from distgan.data.sources import Request, open_source
from distgan.data.sources.cifar10 import CLASSES
from distgan.data.sources.folders import class_folders
from distgan.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)
DIGITS = RANDOM.integers(0, 256, (7, 28, 28), np.uint8)
DIGIT_LABELS = np.array([5, 0, 4, 1, 9, 2, 1], np.uint8)
CIFAR = RANDOM.integers(0, 256, (5, 3, 32, 32), np.uint8)
CIFAR_LABELS = [3, 9, 0, 3, 7]


def opened(source, path, resolution=32, channels=3, **more):
    return open_source(source, Request(path, resolution, channels, **more))


def pixels(item, resolution=32, channels=3, pad=False):
    rendered = render(item, Recipe(resolution, channels, pad))
    assert rendered.data is not None, rendered.reason
    return np.asarray(Image.open(io.BytesIO(rendered.data)))


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, pack=bytes, suffix="", stem="train"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(DIGITS)))
    (folder / f"{stem}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(DIGIT_LABELS)))
    return folder


def write_cifar_python(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        batch = {b"data": CIFAR.reshape(5, -1), b"labels": CIFAR_LABELS, b"filenames": [b"x"] * 5}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "test_batch").write_bytes(b"not read")
    return folder


def write_cifar_binary(folder):
    folder.mkdir(parents=True, exist_ok=True)
    records = b"".join(bytes([label]) + image.tobytes() for label, image in zip(CIFAR_LABELS, CIFAR, strict=True))
    (folder / "data_batch_1.bin").write_bytes(records)
    return folder


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


class TestMnist:
    @pytest.mark.parametrize("pack, suffix", [(bytes, ""), (gzip.compress, ".gz")])
    @pytest.mark.parametrize("below", [".", "MNIST/raw"])
    def test_a_folder_is_read_plain_or_gzipped(self, tmp_path, pack, suffix, below):
        write_mnist(tmp_path / below, pack, suffix)
        source = opened("mnist", tmp_path)
        assert [item.label for item in source.items] == DIGIT_LABELS.tolist()
        assert source.classes == tuple("0123456789")
        assert (pixels(source.items[3], 28, 1) == DIGITS[3]).all()

    def test_the_images_file_finds_its_labels_beside_it(self, tmp_path):
        write_mnist(tmp_path, gzip.compress, ".gz", stem="t10k")
        source = opened("mnist", tmp_path / "t10k-images-idx3-ubyte.gz")
        assert [item.label for item in source.items] == DIGIT_LABELS.tolist()

    def test_without_a_labels_file_there_are_no_classes(self, tmp_path):
        write_mnist(tmp_path)
        (tmp_path / "train-labels-idx1-ubyte").unlink()
        source = opened("mnist", tmp_path)
        assert source.classes == ()
        assert source.items[0].label == -1

    def test_at_32_pixels_digits_are_framed_in_black_not_enlarged(self, tmp_path):
        source = opened("mnist", write_mnist(tmp_path))
        framed = pixels(source.items[0], 32, 1, pad=True)
        assert (framed[2:30, 2:30] == DIGITS[0]).all()
        framed = framed.copy()
        framed[2:30, 2:30] = 0
        assert not framed.any()

    @pytest.mark.parametrize(
        "name, damage",
        [
            ("images-idx3-ubyte", lambda data: data[:-1]),
            ("images-idx3-ubyte", lambda data: b"\x1f\x8b" + data),
            ("images-idx3-ubyte", lambda data: b""),
            ("labels-idx1-ubyte", lambda data: idx(DIGIT_LABELS[:3])),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path, name, damage):
        file = write_mnist(tmp_path) / f"train-{name}"
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(DataError, match=name):
            opened("mnist", tmp_path)


class TestCifar10:
    @pytest.mark.parametrize("below", [".", "cifar-10-batches-py"])
    def test_python_batches_are_read(self, tmp_path, below):
        write_cifar_python(tmp_path / below)
        self.check(opened("cifar10", tmp_path), batches=2)

    def test_binary_batches_are_read(self, tmp_path):
        self.check(opened("cifar10", write_cifar_binary(tmp_path)), batches=1)

    @pytest.mark.parametrize(
        "write, name, batches",
        [(write_cifar_python, "cifar-10-python.tar.gz", 2), (write_cifar_binary, "cifar-10-binary.tar.gz", 1)],
    )
    def test_the_original_archives_are_read_by_file_and_by_folder(self, tmp_path, write, name, batches):
        write(tmp_path / "made")
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            archive.add(tmp_path / "made", "cifar-10-batches")
        self.check(opened("cifar10", tmp_path / name), batches)
        self.check(opened("cifar10", tmp_path), batches)

    def test_class_folders_are_read_from_a_folder_and_from_a_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
            for number, (label, image) in enumerate(zip(CIFAR_LABELS, CIFAR, strict=True)):
                archive.writestr(f"cifar10/{CLASSES[label]}/{number}.png", png(image.transpose(1, 2, 0)))
            archive.extractall(tmp_path / "folders")
        for path in (tmp_path / "c.zip", tmp_path / "folders"):
            source = opened("cifar10", path)
            assert source.classes == tuple(sorted({CLASSES[label] for label in CIFAR_LABELS}))
            found = {item.name.rpartition("/")[2]: item for item in source.items}
            assert (pixels(found["1.png"]) == CIFAR[1].transpose(1, 2, 0)).all()
            assert source.classes[found["1.png"].label] == "truck"

    def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return open, (str(tmp_path / "ran"), "w")

        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))
        with pytest.raises(DataError, match="data_batch_1.*do not use this file"):
            opened("cifar10", tmp_path)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_batches_written_by_todays_numpy_are_read(self, tmp_path, protocol):
        batch = {"data": CIFAR.reshape(5, -1), "labels": np.array(CIFAR_LABELS)}
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
        self.check(opened("cifar10", tmp_path), batches=1)

    @pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1]), pickle.dumps({"data": 3, "labels": [1]})])
    def test_a_damaged_batch_is_named(self, tmp_path, content):
        (tmp_path / "data_batch_1").write_bytes(content)
        with pytest.raises(DataError, match="data_batch_1"):
            opened("cifar10", tmp_path)

    @staticmethod
    def check(source, batches):
        assert source.classes == CLASSES
        assert [item.label for item in source.items] == CIFAR_LABELS * batches
        for item, image in zip(source.items, np.concatenate([CIFAR] * batches), strict=True):
            assert (pixels(item) == image.transpose(1, 2, 0)).all()


class TestQuickdraw:
    def test_each_file_is_a_class_whatever_its_form(self, tmp_path):
        np.save(tmp_path / "full_numpy_bitmap_cat.npy", DIGITS.reshape(-1, 784))
        np.savez(tmp_path / "train.npz", DIGITS[:2])
        source = opened("quickdraw", tmp_path)
        assert source.classes == ("cat", "train")
        assert [item.label for item in source.items] == [0] * 7 + [1] * 2
        assert (pixels(source.items[6], 28, 1) == DIGITS[6]).all()
        assert (pixels(source.items[8], 28, 1) == DIGITS[1]).all()

    def test_one_file_is_one_class(self, tmp_path):
        np.save(tmp_path / "cat.npy", DIGITS)
        assert opened("quickdraw", tmp_path / "cat.npy").classes == ("cat",)

    @pytest.mark.parametrize("array", [DIGITS.astype(float), DIGITS[:, :20], np.array([{}], object)])
    def test_an_array_that_is_no_bitmaps_is_named(self, tmp_path, array):
        np.save(tmp_path / "cat.npy", array)
        with pytest.raises(DataError, match="cat.npy"):
            opened("quickdraw", tmp_path)


class TestImages:
    def test_class_folders_become_labels_in_alphabetical_order(self, tmp_path, picture):
        for name in ("dogs/b.png", "cats/a.jpg", "dogs/deep/c.webp"):
            picture(tmp_path / name)
        source = opened("images", tmp_path)
        assert source.classes == ("cats", "dogs")
        assert [(item.name, item.label) for item in source.items] == [
            ("cats/a.jpg", 0),
            ("dogs/b.png", 1),
            ("dogs/deep/c.webp", 1),
        ]

    def test_without_two_class_folders_there_are_no_labels(self):
        assert class_folders(["a.png", "b.png"]) == ((), [-1, -1])
        assert class_folders(["x/y/a.png", "x/y/b.png"]) == ((), [-1, -1])
        assert class_folders(["a.png", "x/b.png"]) == ((), [-1, -1])
        assert class_folders(["top/q/a.png", "top/p/b.png"]) == (("p", "q"), [1, 0])

    def test_what_is_hidden_or_climbs_out_of_the_zip_is_ignored(self, tmp_path):
        data = png(DIGITS[0])
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            for name in ("a.png", "__MACOSX/._a.png", ".hidden/b.png", "../../c.png", "/d.png", ".DS_Store", "e.txt"):
                archive.writestr(name, data)
        assert [item.name for item in opened("images", tmp_path / "z.zip").items] == ["a.png"]

    def test_hidden_files_of_a_folder_are_ignored_and_links_are_followed_once(self, tmp_path, picture):
        picture(tmp_path / "real" / "a.png")
        for name in ("__MACOSX/b.png", ".git/c.png", "._a.png"):
            picture(tmp_path / "real" / name)
        (tmp_path / "real" / "back").symlink_to(tmp_path / "real")
        (tmp_path / "real" / "gone.png").symlink_to(tmp_path / "nothing")
        assert [item.name for item in opened("images", tmp_path / "real").items] == ["a.png"]

    @pytest.mark.parametrize("size, box", [((90, 30), (30, 0, 60, 30)), ((30, 90), (0, 30, 30, 60))])
    def test_the_crop_is_the_centre(self, size, box):
        stripes = Image.new("RGB", size, "red")
        stripes.paste("blue", box)
        assert (np.asarray(square(stripes, Recipe(30, 3))) == (0, 0, 255)).all()

    def test_the_exif_orientation_is_respected(self, tmp_path):
        upright = Image.new("RGB", (64, 64), "black")
        upright.paste("white", (0, 0, 64, 32))  # the upper half is white once it is turned
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
        seen = pixels(opened("images", tmp_path).items[0], 16)
        assert seen[:6].min() > 200 and seen[-6:].max() < 50

    def test_transparency_is_laid_over_white(self, tmp_path):
        Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(tmp_path / "a.png")
        assert (pixels(opened("images", tmp_path).items[0], 16) == 255).all()

    def test_sixteen_bits_become_eight_without_clipping(self, tmp_path):
        Image.fromarray(np.full((20, 20), 0x8000, np.uint16)).save(tmp_path / "a.png")
        assert (pixels(opened("images", tmp_path).items[0], 16) == 128).all()

    @pytest.mark.parametrize("mode, suffix", [("CMYK", "jpg"), ("P", "png"), ("LA", "png"), ("1", "png"), ("L", "jpg")])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_every_mode_becomes_the_channels_asked_for(self, tmp_path, mode, suffix, channels):
        Image.new("RGB", (40, 30), "white").convert(mode).save(tmp_path / f"a.{suffix}")
        seen = pixels(opened("images", tmp_path).items[0], 16, channels)
        assert seen.shape == ((16, 16) if channels == 1 else (16, 16, 3))
        assert seen.min() > 240

    def test_resizing_is_antialiased(self, tmp_path):
        board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
        Image.fromarray(board).save(tmp_path / "a.png")
        assert np.abs(pixels(opened("images", tmp_path).items[0], 16, 1).astype(int) - 127).max() < 12

    def test_an_input_without_pictures_is_named(self, tmp_path):
        (tmp_path / "a.txt").write_text("no picture")
        with pytest.raises(DataError, match="no pictures found"):
            opened("images", tmp_path)
        with pytest.raises(DataError, match="a.txt: neither a folder nor a sound zip"):
            opened("images", tmp_path / "a.txt")


class TestCeleba:
    @pytest.mark.parametrize("below", [".", "img_align_celeba", "celeba/img_align_celeba"])
    def test_faces_are_found_at_every_depth_and_have_no_labels(self, tmp_path, picture, below):
        for name in ("000002.jpg", "000001.jpg"):
            picture(tmp_path / below / name, (178, 218))
        source = opened("celeba", tmp_path, 64)
        assert [item.name for item in source.items] == ["000001.jpg", "000002.jpg"]
        assert source.classes == () and source.items[0].label == -1

    def test_a_face_is_cropped_at_the_centre_before_it_is_made_smaller(self, tmp_path):
        face = Image.new("RGB", (178, 218), "red")
        face.paste("blue", (0, 20, 178, 198))
        face.save(tmp_path / "1.png")
        assert (pixels(opened("celeba", tmp_path).items[0], 64) == (0, 0, 255)).all()


class TestShapes:
    def test_the_label_is_the_shape(self):
        source = opened("shapes", None, 32, count=64)
        assert source.classes == ("circle", "square", "triangle", "cross")
        assert np.bincount([item.label for item in source.items]).tolist() == [16] * 4

    def test_a_resolution_that_cannot_be_drawn_is_refused(self):
        with pytest.raises(ConfigError, match="--resolution 8"):
            opened("shapes", None, 8)


@pytest.mark.parametrize("source", ["mnist", "cifar10", "celeba", "quickdraw", "images"])
def test_an_input_that_is_missing_or_not_there_is_one_clear_line(tmp_path, source):
    with pytest.raises(ConfigError, match=f"{source}: the source needs an INPUT"):
        opened(source, None)
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        opened(source, tmp_path / "nowhere")
    with pytest.raises(DataError):
        opened(source, tmp_path)


def test_a_picture_that_cannot_be_read_is_reported_with_its_reason(tmp_path, picture):
    whole = picture(tmp_path / "a.jpg", (200, 200)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    huge = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + huge
    data = struct.pack(">I", zlib.crc32(b"IHDR" + huge)) + struct.pack(">I", 100) + b"IDAT" + bytes(104)
    (tmp_path / "c.png").write_bytes(head + data)
    (tmp_path / "d.png").write_bytes(b"")
    results = [render(item, Recipe(16, 3)) for item in opened("images", tmp_path).items]
    assert [r.data for r in results] == [None] * 4
    assert "truncated" in results[0].reason
    assert "bomb" in results[2].reason


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp", "bmp", "gif", "tif", "tiff", "ppm"])
def test_every_picture_format_is_read(tmp_path, picture, suffix):
    picture(tmp_path / f"a.{suffix}", (40, 40), "white")
    (item,) = opened("images", tmp_path).items
    assert pixels(item, 16).min() > 250


def test_a_damaged_member_of_a_zip_is_reported(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.png", png(CIFAR[0].transpose(1, 2, 0)))
    data = bytearray((tmp_path / "z.zip").read_bytes())
    data[200] ^= 255
    (tmp_path / "z.zip").write_bytes(data)
    assert "CRC" in render(opened("images", tmp_path / "z.zip").items[0], Recipe(16, 3)).reason
