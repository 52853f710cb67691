import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tool_lists_what_is_missing_and_where_to_get_it(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "prepare_data.py"), "coco", "flickr30k", "nocaps", "--source", "."]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for words in ("6 thing(s)", "caption_datasets.zip", "val2014.zip", "flickr30k-images", "nocaps.org/download"):
        assert words in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
    done = subprocess.run([*command[:2], "imagenet"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "'coco'" in done.stderr
