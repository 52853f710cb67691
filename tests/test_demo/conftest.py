"""A captioner for the page: the package's own parts alone, so that a process of its own can read its export."""

import pytest
from small_export import export_a_little


@pytest.fixture(scope="session")
def page_export(tmp_path_factory):
    """An exported captioner of the mini-world, trained for a few steps."""
    parts = {"type": "MiniCLIP"}, {"type": "MiniScenesTagger"}
    return export_a_little(tmp_path_factory.mktemp("page"), *parts, dim=256, steps=40, lr=1e-2, num=60)


@pytest.fixture(scope="session")
def tiny_captioner_on_page(page_export):
    from synthcap_mm.inference.inferencer import CaptionInferencer

    return CaptionInferencer.from_pretrained(page_export, device="cpu")
