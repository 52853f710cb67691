"""eval-captions: what the user types and reads."""

from caption_samples import COCO, write
from command_line import run_command


def test_score_compare_and_say_what_is_wrong(tmp_path):
    def run(*arguments, status=0):
        return run_command(tmp_path, "eval-captions", *arguments, status=status)

    write(tmp_path / "ref.json", COCO)
    write(tmp_path / "a.json", [{"image_id": 7, "caption": "a dog runs"}, {"image_id": 8, "caption": "two cats"}])
    write(tmp_path / "b.json", [{"image_id": 7, "caption": "a dog"}, {"image_id": 8, "caption": ""}])
    said = run("a.json", "ref.json", "--out", "scores.json")
    assert "ROUGE_L    100.00" in said and (tmp_path / "scores.json").is_file()
    assert "have one reference only: '8'" in said
    said = run("a.json", "b.json", "ref.json", "--metrics", "ROUGE_L", "--samples", "100")
    assert "95 % interval" in said and "captions of b.json are empty" in said
    assert "PRED REF" in run("a.json", status=2)
    assert "--synonyms" in run("a.json", "ref.json", "--metrics", "CHAIR", status=2)
    assert "none.json" in run("none.json", "ref.json", status=1)
    write(tmp_path / "b.json", [{"image_id": 7, "caption": "a dog"}])
    assert "'8'" in run("b.json", "ref.json", status=1)
