"""Configs are found as files of the user's or by the name of a shipped one."""

import os

import pytest

from synthcap_mm import config_files
from synthcap_mm.config_files import list_configs, resolve_config, shipped_dir
from synthcap_mm.errors import UserError


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package of which nothing is known but what this test ships."""
    package = tmp_path / "site" / "synthcap_mm"
    configs = package / ".mim" / "configs"
    for name in ("mini.py", "coco.py", "peers/decap_coco.py", "a/same.py", "b/same.py", "_base_/models/captioner.py"):
        (configs / name).parent.mkdir(parents=True, exist_ok=True)
        (configs / name).write_text("x = 1\n")
    monkeypatch.setattr(config_files, "PACKAGE_DIR", package)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return configs


def test_users_file_comes_first(shipped, tmp_path):
    mine = tmp_path / "work" / "mini.py"
    mine.write_text("x = 2\n")
    assert os.path.samefile(resolve_config("mini.py"), mine)
    assert resolve_config(mine) == mine


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("mini.py", "mini.py"),
        ("mini", "mini.py"),
        ("configs/mini.py", "mini.py"),
        ("./configs/mini.py", "mini.py"),
        ("peers/decap_coco.py", "peers/decap_coco.py"),
        ("decap_coco.py", "peers/decap_coco.py"),
        ("b/same.py", "b/same.py"),
        ("_base_/models/captioner.py", "_base_/models/captioner.py"),
    ],
)
def test_shipped_by_name(shipped, typed, found):
    assert resolve_config(typed) == shipped / found


@pytest.mark.parametrize("typed, near", [("mimi.py", "mini.py"), ("decap_cocoa.py", "peers/decap_coco.py")])
def test_unknown_names_near_matches(shipped, typed, near):
    with pytest.raises(UserError) as caught:
        resolve_config(typed)
    assert typed in str(caught.value) and near in str(caught.value)


def test_ambiguous_or_elsewhere_is_not_guessed(shipped, tmp_path):
    for typed in ("same.py", "../mini.py", tmp_path / "mini.py", "captioner.py"):
        with pytest.raises(UserError):
            resolve_config(typed)


@pytest.mark.parametrize("typed", ["zzzzzzzz.py", "nosuch.py"])  # a suffix is not what makes names alike
def test_nothing_near_lists_all(shipped, typed):
    with pytest.raises(UserError) as caught:
        resolve_config(typed)
    assert all(name in str(caught.value) for name in list_configs())


def test_list_leaves_out_bases(shipped):
    assert list_configs() == ["a/same.py", "b/same.py", "coco.py", "mini.py", "peers/decap_coco.py"]


def test_neither_shipped_nor_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(config_files, "PACKAGE_DIR", tmp_path / "site" / "synthcap_mm")
    with pytest.raises(UserError):
        shipped_dir("configs")
