"""Kept images: tar shards for any reader."""

import io
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from synthcap_mm.store.errors import StoreError
from synthcap_mm.store.pictures import PictureTar, decode_picture, encode_picture, member_name, places_in


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)) for _ in range(count)]


def tar_bytes(keys, images, image_format="png"):
    file = io.BytesIO()
    tar = PictureTar(file, image_format)
    for key, image in zip(keys, images):
        tar.add(key, encode_picture(image, image_format), f"a caption of {key}, ä")
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
def test_places_in_the_file_and_what_comes_back(image_format, tmp_path):
    images, file = pictures(3), io.BytesIO()
    tar = PictureTar(file, image_format)
    for i, image in enumerate(images):
        tar.add(f"c{i}/0", encode_picture(image, image_format), "")
    tar.close()
    path = tmp_path / "kept.tar"
    path.write_bytes(file.getvalue())
    assert len(places_in(path)) == tar.count == 3
    for image, (offset, size) in zip(images, places_in(path)):
        back = decode_picture(file.getvalue()[offset : offset + size])
        difference = np.abs(np.asarray(back, int) - np.asarray(image, int))
        assert difference.max() == 0 if image_format == "png" else difference.mean() < 20


def test_a_kept_picture_is_never_reduced_and_of_two_formats_only():
    large = Image.new("RGB", (1024, 1024), (1, 2, 3))
    assert decode_picture(encode_picture(large, "png")).size == (1024, 1024)
    other = io.BytesIO()
    large.save(other, "BMP")
    for data in (other.getvalue(), encode_picture(large, "png")[:200], b""):
        with pytest.raises(StoreError):
            decode_picture(data)
