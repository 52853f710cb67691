"""tools/eval_captions.py in a process of its own: what the user types and reads."""

import os
import subprocess
import sys
from pathlib import Path

from caption_samples import COCO, write

ROOT = Path(__file__).resolve().parents[2]


def run(folder, *arguments, ok=True, command=None):
    command = command or [sys.executable, ROOT / "tools" / "eval_captions.py"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, [*command, *arguments])), cwd=folder, env=env, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, said
    assert "Traceback" not in said
    return said


def test_score_compare_and_say_what_is_wrong(tmp_path):
    write(tmp_path / "ref.json", COCO)
    write(tmp_path / "a.json", [{"image_id": 7, "caption": "a dog runs"}, {"image_id": 8, "caption": "two cats"}])
    write(tmp_path / "b.json", [{"image_id": 7, "caption": "a dog"}, {"image_id": 8, "caption": ""}])
    said = run(tmp_path, "a.json", "ref.json", "--out", "scores.json")
    assert "ROUGE_L    100.00" in said and (tmp_path / "scores.json").is_file()
    assert "have one reference only: 8" in said
    command = [sys.executable, "-m", "synthcap_mm.cli", "eval-captions"]
    said = run(tmp_path, "a.json", "b.json", "ref.json", "--metrics", "ROUGE_L", "--samples", "100", command=command)
    assert "95 % interval" in said and "captions of b.json are empty" in said
    assert "give PRED REF, or A B REF" in run(tmp_path, "a.json", ok=False)
    assert "CHAIR needs --synonyms and --instances" in run(
        tmp_path, "a.json", "ref.json", "--metrics", "CHAIR", ok=False
    )
    write(tmp_path / "b.json", [{"image_id": 7, "caption": "a dog"}])
    assert "1 of 2 images of ref.json have no prediction: 8" in run(tmp_path, "b.json", "ref.json", ok=False)
