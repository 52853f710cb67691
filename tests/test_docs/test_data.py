"""The config of docs/data.md is used as it stands there."""

import json
import re
from pathlib import Path

from PIL import Image

from synthcap_mm import pipeline
from synthcap_mm.config_reading import read_config
from synthcap_mm.registry import DATASETS

ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_test_set_of_ones_own_photos(tiny, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    Path("test_photos").mkdir()
    references = {f"{name}.jpg": [f"a {name} field", f"{name}"] for name in ("red", "blue")}
    for name in references:
        picture = Image.new("RGB", (32, 32), name.removesuffix(".jpg"))
        picture.paste("white", (4, 4, 12, 12))
        picture.save(Path("test_photos", name))
    Path("test_captions.json").write_text(json.dumps(references))
    Path("mine.py").write_text(code.replace('"synthcap_custom.py"', repr(str(ROOT / "configs" / "synthcap_custom.py"))))
    cfg = read_config("mine.py", ["synthesis.encoder._delete_=True", "synthesis.encoder.type=TinyEncoder"])
    cfg.synthesis.tag_provider = None
    (counts,) = pipeline.encode_images(cfg).values()
    assert counts["photos"] == 2 and counts["flagged"] == 0
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    assert {dataset[i].key: dataset[i].references for i in range(len(dataset))} == references
