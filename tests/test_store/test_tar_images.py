"""Kept images: tar shards for any reader."""

import io
import pickle
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from synthcap_mm.store import StoreWriter
from synthcap_mm.store.tar_images import IMAGES_TAR, TarImages, TarImageWriter, member_name

ENCODER = {"name": "A", "image": [1.0, 0.0], "text": [0.0, 1.0]}


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)) for _ in range(count)]


def tar_bytes(keys, images, image_format="png"):
    file = io.BytesIO()
    tar = TarImageWriter(file, image_format)
    for key, image in zip(keys, images):
        tar.add(key, image, f"a caption of {key}, ä")
    tar.close()
    return file.getvalue()


def webdataset_samples(data):
    """As WebDataset groups members: the key is the name up to the first dot of its last part."""
    samples = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            key, extension = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name).groups()
            samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return samples


def test_any_webdataset_reader_gets_pictures_and_captions():
    keys, images = ["c0/0", "photo 1.jpg#2/0", "ä/b/1"], pictures(3)
    samples = webdataset_samples(tar_bytes(keys, images))
    assert list(samples) == keys
    for key, image in zip(keys, images):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(samples[key]["png"]))), np.asarray(image))
        assert samples[key]["txt"].decode() == f"a caption of {key}, ä"


@pytest.mark.parametrize(
    "key, name",
    [
        ("c0/0", "c0/0"),
        ("../../x/0", "%2E%2E/%2E%2E/x/0"),
        ("/etc/0", "%/etc/0"),
        ("a//b/0", "a/%/b/0"),
        ("50%/0", "50%25/0"),
        ("photo.jpg", "photo%2Ejpg"),
    ],
)
def test_names_cannot_leave_the_folder_they_are_unpacked_in(key, name, tmp_path):
    assert member_name(key) == name
    data = tar_bytes([key], pictures(1))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(tmp_path, filter="data")
    assert (tmp_path / f"{name}.png").is_file()


def test_long_names_and_the_same_bytes_again():
    keys = ["x" * 300 + "/0"]
    assert list(webdataset_samples(tar_bytes(keys, pictures(1)))) == keys
    assert tar_bytes(["a/0", "b/0"], pictures(2)) == tar_bytes(["a/0", "b/0"], pictures(2))


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_by_row_over_shards_and_pickled(tmp_path, image_format):
    writer = StoreWriter(tmp_path, {"encoder": ENCODER})
    writer.begin("today", "1.0")
    images = pictures(5)
    for shard, part in enumerate((range(3), range(3, 5))):
        with writer.tar_images(shard, image_format) as tar:
            for i in part:
                tar.add(f"c{i}/0", images[i], "")
    records = [writer.record(IMAGES_TAR, i) for i in range(2)]
    assert [r["file"] for r in records] == ["images_tar/00000.tar", "images_tar/00001.tar"]
    assert [r["rows"] for r in records] == [3, 2] and records[0]["format"] == image_format
    kept = pickle.loads(pickle.dumps(TarImages(tmp_path, records)))
    assert len(kept) == 5
    for i in (4, 0, 2, 3):
        difference = np.abs(np.asarray(kept.image(i), int) - np.asarray(images[i], int))
        assert difference.max() == 0 if image_format == "png" else difference.mean() < 20
    with pytest.raises(IndexError, match="row 5"):
        kept.read(5)


def test_a_tar_appears_whole_or_not_at_all(tmp_path):
    writer = StoreWriter(tmp_path, {"encoder": ENCODER})
    with pytest.raises(KeyboardInterrupt), writer.tar_images(0, "png") as tar:
        tar.add("c0/0", pictures(1)[0], "")
        raise KeyboardInterrupt
    assert writer.record(IMAGES_TAR, 0) is None and not list((tmp_path / IMAGES_TAR).iterdir())
