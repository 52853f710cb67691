"""The code of docs/extending.md is run as it stands there."""

import json
import re
import shlex
import shutil
import sys

import pytest
from command_line import ROOT, run_process
from PIL import Image


@pytest.mark.slow
def test_the_page_works(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.S)
    *parts, config = blocks
    assert "_base_" in config and len(parts) == 4
    (tmp_path / "my_parts.py").write_text("\n\n".join(parts))
    (tmp_path / "mine.py").write_text(config)
    options = [
        "synthesis.captions.num=60", "synthesis.holdout=0.2", "photo_stores.0.photos.num=6", "train_cfg.max_epochs=1",
        "model.head.layers=1", "gallery.num=2", "model.head.generation.num_beams=2", "train_dataloader.batch_size=20",
    ]  # fmt: skip
    said = run_process(tmp_path, sys.executable, ROOT / "tools" / "train.py", "mine.py", "--cfg-options", *options)
    assert (tmp_path / "work_dirs" / "mine" / "test_metrics.json").is_file()
    assert "[night]" in said or "[daylight]" in said
    checkpoint = next((tmp_path / "work_dirs" / "mine").glob("best_*.pth"))
    tool = [sys.executable, ROOT / "tools" / "export.py"]
    run_process(tmp_path, *tool, "mine.py", checkpoint, "export", "--cfg-options", *options)
    # A colleague has the folder and the module, and types what stands in the folder's README.
    (colleague := tmp_path / "colleague").mkdir()
    shutil.move(tmp_path / "export", colleague)
    shutil.move(tmp_path / "my_parts.py", colleague)
    (colleague / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(colleague / "photos" / "photo.png")
    typed = re.search(r"```bash\nsynthcap-mm (caption .*)\n```", (colleague / "export" / "README.md").read_text())[1]
    run_process(colleague, sys.executable, "-m", "synthcap_mm.cli", *shlex.split(typed))
    line = json.loads((colleague / "captions.jsonl").read_text())
    assert line["caption"] and line["prompt_tags"] == ["night"]
