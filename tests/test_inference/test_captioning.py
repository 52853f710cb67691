"""A file of captions: a line at once, gone on with after any stop, nothing fatal."""

import errno
import json
import os
import shutil

import pytest
from mmengine.config import Config

from synthcap_mm.errors import UserError
from synthcap_mm.inference import captioning
from synthcap_mm.inference.caption_lines import CaptionLines
from synthcap_mm.inference.captioning import caption_files
from synthcap_mm.inference.inferencer import CaptionInferencer


@pytest.fixture()
def job(tiny_captioner, tmp_path):
    config, checkpoint, photos = tiny_captioner
    shutil.copytree(photos, tmp_path / "photos")
    Config(config).dump(tmp_path / "config.py")
    return [str(tmp_path / "config.py"), checkpoint, [str(tmp_path / "photos")], tmp_path / "out" / "captions.jsonl"]


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_an_image(job, tiny_captioner):
    counts = caption_files(*job, device="cpu", n_best=2, num_beams=3)
    assert counts == {"captioned": 12, "unreadable": 0, "found": 0, "repeated": 0}
    found = rows(job[3])
    assert [len(r["captions"]) for r in found] == [2] * 12
    config, checkpoint, photos = tiny_captioner
    wanted = CaptionInferencer(config, checkpoint, device="cpu")(photos, n_best=2, num_beams=3)["predictions"]
    assert [r["caption"] for r in found] == [w["caption"] for w in wanted]
    assert found[0]["image"].endswith("photo 00 ü.png")


def test_it_goes_on_where_it_was_cut_short(job, monkeypatch, tmp_path):
    caption_files(*job, device="cpu")
    whole = job[3].read_bytes()
    lines = whole.splitlines(keepends=True)
    job[3].write_bytes(b"".join(lines[:5]) + lines[5][:-9])  # a kill in the middle of a line, in a letter even
    asked = []
    stream = CaptionInferencer.stream
    monkeypatch.setattr(
        CaptionInferencer, "stream", lambda self, todo, *a, **k: (asked.extend(todo), stream(self, todo, *a, **k))[1]
    )
    counts = caption_files(*job, device="cpu")
    assert (counts["found"], counts["captioned"], len(asked)) == (5, 7, 7)
    assert [r["caption"] for r in rows(job[3])] == [json.loads(line)["caption"] for line in lines]
    monkeypatch.setattr(CaptionInferencer, "__init__", lambda *a, **k: pytest.fail("nothing was left to do"))
    assert caption_files(*job, device="cpu")["found"] == 12


def test_lines_are_on_disk_at_once(job, monkeypatch):
    seen = []
    stream = CaptionInferencer.stream

    def stopped(self, *args, **options):
        for n, prediction in enumerate(stream(self, *args, **options)):
            seen.append(len(rows(job[3])))
            if n == 4:
                raise KeyboardInterrupt
            yield prediction

    monkeypatch.setattr(CaptionInferencer, "stream", stopped)
    with pytest.raises(KeyboardInterrupt):
        caption_files(*job, device="cpu")
    assert seen == [0, 1, 2, 3, 4] and len(rows(job[3])) == 4


def test_unreadable_images_are_reported_counted_and_tried_again(job, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(captioning, "print_log", lambda message, **options: said.append(message))
    bad = tmp_path / "photos" / "bad one.jpg"
    bad.write_bytes(b"")
    job[2] += [str(tmp_path / "gone.png"), job[2][0]]
    counts = caption_files(*job, device="cpu")
    assert counts == {"captioned": 12, "unreadable": 2, "found": 0, "repeated": 13}
    errors = {r["image"]: r["error"] for r in rows(job[3]) if "error" in r}
    assert set(errors) == {str(bad), str(tmp_path / "gone.png")} and all(key in error for key, error in errors.items())
    assert "2 images" in said[-1] and "13 duplicates" in said[-1]
    shutil.copy(tmp_path / "photos" / "photo 00 ü.png", bad)
    counts = caption_files(*job, device="cpu")
    assert (counts["captioned"], counts["unreadable"], counts["found"]) == (1, 1, 12)
    assert len(rows(job[3])) == 14


def test_no_readable_image_is_an_error(job, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"captions\.jsonl"):
        caption_files(job[0], job[1], [str(tmp_path / "bad.jpg")], job[3], device="cpu")
    assert [set(row) for row in rows(job[3])] == [{"image", "error", "file"}]
    # A bad one among good ones is none, also when the good ones are found from before.
    for _ in range(2):
        assert caption_files(job[0], job[1], [*job[2], str(tmp_path / "bad.jpg")], job[3])["unreadable"] == 1


def test_other_settings_are_not_mixed_in(job):
    caption_files(*job, device="cpu")
    before = job[3].read_bytes()
    with pytest.raises(UserError, match=r"num_beams: None → 2"):
        caption_files(*job, device="cpu", num_beams=2)
    (job[3].parent / "captions.jsonl.settings.json").unlink()
    with pytest.raises(UserError, match=r"captions\.jsonl\.settings\.json"):
        caption_files(*job, device="cpu")
    assert job[3].read_bytes() == before


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "captions.jsonl"
    with CaptionLines(path, {"a": 1}) as lines:
        lines.write({"image": "x", "caption": "y"})
    path.write_text(path.read_text() + '{"no": "image"}\n{"image": "z"')
    with pytest.raises(UserError, match=r"captions\.jsonl, line 2"):
        CaptionLines(path, {"a": 1})


def test_a_name_that_is_not_utf8_is_written_and_found_again(job, tmp_path):
    odd = os.path.join(os.fsencode(tmp_path / "photos"), b"caf\xe9 \xf0\x9f.png")
    shutil.copy(os.fsencode(tmp_path / "photos" / "photo 00 ü.png"), odd)
    with open(os.path.join(os.fsencode(tmp_path / "photos"), b"\xff.jpg"), "wb"):
        pass  # an empty one
    counts = caption_files(*job, device="cpu")
    assert (counts["captioned"], counts["unreadable"]) == (13, 1)
    found = rows(job[3])  # UTF-8
    assert [os.fsencode(r["image"]) for r in found].count(odd) == 1
    assert any("ü" in line for line in job[3].read_text(encoding="utf-8").splitlines())
    assert caption_files(*job, device="cpu")["found"] == 13


def test_a_photo_is_known_by_its_file_not_by_the_name_that_is_typed(job, tmp_path, monkeypatch):
    photos = [path.resolve() for path in sorted((tmp_path / "photos").iterdir())]
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    name = photos[0].name
    job[2] = [f"photos/{name}", f"./photos/{name}", str(photos[0]), f"link/../link/{name}"]
    assert caption_files(*job, device="cpu")["repeated"] == 3
    (row,) = rows(job[3])
    status = photos[0].stat()
    assert row["image"] == f"photos/{name}" and row["file"] == [str(photos[0]), status.st_size, status.st_mtime_ns]
    job[2] = [f"link/{name}"]
    assert caption_files(*job, device="cpu")["found"] == 1

    # The same name in another folder is another photo.
    (tmp_path / "other" / "photos").mkdir(parents=True)
    shutil.copy(photos[1], tmp_path / "other" / "photos" / name)
    monkeypatch.chdir(tmp_path / "other")
    job[2] = [f"photos/{name}"]
    assert caption_files(*job, device="cpu") == {"captioned": 1, "unreadable": 0, "found": 0, "repeated": 0}
    of_both = rows(job[3])
    assert [r["image"] for r in of_both] == [f"photos/{name}"] * 2 and of_both[0]["file"] != of_both[1]["file"]


def test_a_photo_that_was_replaced_is_captioned_again(job, tmp_path):
    caption_files(*job, device="cpu")
    before = {row["image"]: row["caption"] for row in rows(job[3])}
    (one, other) = next((a, b) for a in before for b in before if before[a] != before[b])
    shutil.copy(other, one)
    everything, job[2] = job[2], [other]
    assert caption_files(*job, device="cpu")["found"] == 1 and len(rows(job[3])) == 12
    job[2] = everything
    counts = caption_files(*job, device="cpu")
    assert (counts["captioned"], counts["found"]) == (1, 11)
    assert {row["image"]: row["caption"] for row in rows(job[3])} == {**before, one: before[other]}
    assert len(rows(job[3])) == 12


def test_two_runs_do_not_write_one_file(job):
    caption_files(*job, device="cpu")
    before = job[3].read_bytes()
    settings = json.loads((job[3].parent / "captions.jsonl.settings.json").read_text())
    with CaptionLines(job[3], settings), pytest.raises(UserError, match="another process"):
        caption_files(*job, device="cpu")
    assert job[3].read_bytes() == before
    assert caption_files(*job, device="cpu")["found"] == 12


def test_a_full_disk_is_an_error_of_the_file(tmp_path):
    (tmp_path / "captions.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught, CaptionLines(tmp_path / "captions.jsonl", {}) as lines:
        lines.write({"image": "x", "caption": "y"})
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "captions.jsonl")


def test_a_score_that_is_not_finite_is_an_error_of_its_photo(job, monkeypatch):
    forward = CaptionInferencer.forward

    def spoilt(self, *args, **options):
        results = forward(self, *args, **options)
        results[3].sample.pred_logprobs = [float("nan")]
        results[4].sample.pred_scores = [float("-inf")]
        return results

    monkeypatch.setattr(CaptionInferencer, "forward", spoilt)
    counts = caption_files(*job, device="cpu")
    assert (counts["captioned"], counts["unreadable"]) == (10, 2)
    assert b"NaN" not in job[3].read_bytes() and b"Infinity" not in job[3].read_bytes()
    assert [i for i, row in enumerate(rows(job[3])) if "error" in row] == [3, 4]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"image": {}}', "[]", "1" * 5000, '"error"', "{}", "\ufeff"])
def test_a_line_of_something_else_is_refused(tmp_path, line):
    path = tmp_path / "captions.jsonl"
    with CaptionLines(path, {}):
        path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1"):
        CaptionLines(path, {})


@pytest.mark.parametrize("notes", ["[1]", "3", "{"])
def test_settings_of_something_else_are_refused(tmp_path, notes):
    path = tmp_path / "captions.jsonl"
    with CaptionLines(path, {}) as lines:
        lines.write({"image": "x", "caption": "y"})
    (tmp_path / "captions.jsonl.settings.json").write_text(notes)
    with pytest.raises(UserError, match="settings"):
        CaptionLines(path, {})


def test_missing_things_are_said(job, tmp_path):
    with pytest.raises(UserError, match=r"gone\.pth"):
        caption_files(job[0], str(tmp_path / "gone.pth"), *job[2:])
    with pytest.raises(UserError, match="export"):
        caption_files(str(tmp_path), None, *job[2:])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        caption_files(job[0], job[1], [str(tmp_path / "empty")], job[3])
    assert not job[3].exists()
