import shlex

import pytest
from mmengine.config import Config

from synthcap_mm.engine.next_commands import next_commands


@pytest.mark.parametrize("test_set", [True, False])
def test_every_line_is_a_command_or_a_comment(tmp_path, monkeypatch, test_set):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("test_dataloader = dict(batch_size=2)" if test_set else "")
    cfg = Config.fromfile(tmp_path / "mine.py")
    said = next_commands(cfg, f"{tmp_path}/my work", f"{tmp_path}/my work/epoch_1.pth").splitlines()
    commands = [shlex.split(line)[-6:] for line in said[1:] if not line.startswith("  #")]
    model = ["my work/mine.py", "my work/epoch_1.pth"]
    assert commands[0][-2:] == model if test_set else "docs/data.md" in said[1]
    assert commands[-2][-5:] == [*model, "PHOTOS", "--out", "my work/captions.jsonl"]
    assert commands[-1][-3:] == [*model, "my work/export"] and len(commands) == 2 + test_set
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # a path that leads up is longer than the whole one
    assert f"{tmp_path}/my work/epoch_1.pth" in next_commands(cfg, str(tmp_path), f"{tmp_path}/my work/epoch_1.pth")
