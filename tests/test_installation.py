"""Clashing distributions are found by their metadata, wherever they came from."""

from pathlib import Path

import pytest

from synthcap_mm.errors import UserError
from synthcap_mm.installation import check_installation, find_clashes


def install(site: Path, name: str, version: str) -> None:
    """Lay down the metadata that pip leaves of an installed distribution."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize("names", [("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection"), ("mmcv-lite", "mmdet")])
def test_one_family_alone_is_no_clash(tmp_path, names):
    for name in names:
        install(tmp_path, name, "1.0")
    assert find_clashes([tmp_path]) == []


@pytest.mark.parametrize(
    ("module", "onedl", "rival"),
    [
        ("mmengine", "onedl-mmengine", "mmengine"),
        ("mmengine", "onedl_mmengine", "mmengine-lite"),
        ("mmcv", "onedl-mmcv", "mmcv"),
        ("mmcv", "onedl-mmcv", "mmcv-lite"),
        ("mmcv", "onedl-mmcv", "mmcv_full"),
        ("mmdet", "onedl-mmdetection", "mmdet"),
    ],
)
def test_each_pair_clashes(tmp_path, module, onedl, rival):
    install(tmp_path, onedl, "2.3.6")
    install(tmp_path, rival, "2.1.0")
    (clash,) = find_clashes([tmp_path])
    assert clash.module == module
    assert clash.onedl == (onedl.replace("_", "-"), "2.3.6")
    assert clash.rivals == ((rival.replace("_", "-"), "2.1.0"),)


def test_message_has_the_commands(tmp_path):
    for name in ("onedl-mmengine 0.10.12", "mmengine 0.10.7", "onedl-mmcv 2.3.6", "mmcv 2.2.0", "mmcv-lite 2.1.0",
                 "onedl-mmdetection 3.5.1"):  # fmt: skip
        install(tmp_path, *name.split())
    with pytest.raises(UserError) as error:
        check_installation([tmp_path])
    message = str(error.value)
    assert "mmengine: mmengine 0.10.7 and onedl-mmengine 0.10.12" in message
    assert "  pip uninstall -y mmengine onedl-mmengine mmcv mmcv-lite onedl-mmcv\n" in message
    assert message.endswith("  pip install --no-build-isolation onedl-mmengine==0.10.12 onedl-mmcv==2.3.6")
    assert "mmdetection" not in message


def test_distributions_on_different_folders_and_broken_metadata(tmp_path):
    first, second = tmp_path / "user", tmp_path / "system"
    first.mkdir()
    second.mkdir()
    install(first, "mmengine", "0.10.7")
    install(second, "onedl-mmengine", "0.10.12")
    (second / "torn-1.0.dist-info").mkdir()
    with pytest.raises(UserError, match=r"pip install onedl-mmengine==0\.10\.12$"):
        check_installation([first, second])


def test_this_environment_is_sound():
    check_installation()
