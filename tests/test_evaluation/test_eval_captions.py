import json

import numpy as np
import pytest
from caption_samples import write

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import eval_captions as module
from synthcap_mm.evaluation import score_captions
from synthcap_mm.evaluation.eval_captions import eval_captions
from synthcap_mm.store import Store

REFERENCES = {
    f"{n}.jpg": [f"a {c} dog on the beach", f"the {c} dog runs"] for n, c in enumerate(["red", "blue", "old"] * 4)
}
GOOD = {key: texts[0] for key, texts in REFERENCES.items()}


@pytest.fixture()
def files(tmp_path):
    lines = "".join(f"{key},{text}\n" for key, texts in REFERENCES.items() for text in texts)
    write(tmp_path / "ref.csv", "image,caption\n" + lines)
    noise = np.random.default_rng(0)
    other = {key: " ".join(w for w in text.split() if noise.random() > 0.4) for key, text in GOOD.items()}
    for name, captions in (("a", GOOD), ("b", other)):
        write(tmp_path / f"{name}.json", [{"image_id": key, "caption": text} for key, text in captions.items()])
    return tmp_path, other


@pytest.fixture()
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(module, "print_log", lambda message, **options: messages.append(message))
    return messages


def test_one_file_is_scored_and_every_image_written(files, said):
    folder, other = files
    found = eval_captions([str(folder / "b.json")], str(folder / "ref.csv"), out=str(folder / "out.json"))
    assert found == score_captions(other, REFERENCES)[0]
    written = json.loads((folder / "out.json").read_text())
    assert written["metrics"] == found and written["skipped"] == {}
    assert written["images"]["1.jpg"]["hypothesis"] == other["1.jpg"]
    assert written["images"]["1.jpg"]["scores"] == score_captions(other, REFERENCES)[1]["1.jpg"]
    assert f"CIDEr    {found['CIDEr']:8.2f}" in said[-1] and "out.json" in said[-1]
    assert "CIDEr: of 3 image(s), fewer than 20" in said[-1]
    # what was written is read again as predictions and as references
    assert eval_captions([str(folder / "out.json")], str(folder / "out.json")) == found


def test_two_files_are_compared_over_images(files, said):
    folder, other = files
    pair = [str(folder / "a.json"), str(folder / "b.json")]
    found = eval_captions(pair, str(folder / "ref.csv"), ["BLEU", "CIDEr", "vocabulary"], out=str(folder / "c.json"))
    row = found["CIDEr"]
    a, b = (score_captions(captions, REFERENCES, ["CIDEr"])[0]["CIDEr"] for captions in (GOOD, other))
    assert (row["a"], row["b"], row["difference"]) == (a, b, pytest.approx(a - b))
    assert 0 < row["low"] < row["difference"] < row["high"] and row["verdict"] == "a" and row["of"] == "the average"
    assert found["BLEU-4"]["of"] == "the mean of the images' scores" and "low" not in found["vocabulary"]
    assert json.loads((folder / "c.json").read_text())["metrics"] == found
    table = said[-2]
    assert "A is higher" in table and "A is higher *" in table and "none: a figure of the whole set" in table
    assert "* A and B are of the whole set" in table and "CIDEr: of 3 image(s), fewer than 20" in table
    backwards = eval_captions(pair[::-1], str(folder / "ref.csv"), ["CIDEr"])["CIDEr"]
    assert backwards["verdict"] == "b" and backwards["difference"] == pytest.approx(-row["difference"])


def test_by_characters(files, said):
    folder, other = files
    pair = [str(folder / "a.json"), str(folder / "b.json")]
    found = eval_captions(pair[1:], str(folder / "ref.csv"), tokenize="char")
    assert found == score_captions(other, REFERENCES, tokenize="char")[0] != score_captions(other, REFERENCES)[0]
    assert "characters" in said[-1]
    compared = eval_captions(pair, str(folder / "ref.csv"), ["CIDEr"], out=str(folder / "c.json"), tokenize="char")
    assert compared["CIDEr"]["b"] == found["CIDEr"] and "by characters" in said[-2]
    assert json.loads((folder / "c.json").read_text())["tokenize"] == "char"


def test_an_interval_with_zero_is_a_tie(files, said):
    folder, _ = files
    pair = [str(folder / "a.json")] * 2
    row = eval_captions(pair, str(folder / "ref.csv"), ["CIDEr"])["CIDEr"]
    assert row["verdict"] == "tie" and row["low"] == row["high"] == 0
    assert "[+0.00, +0.00]  tie" in said[-1]


def test_empty_captions_and_single_references_are_told(files, said):
    folder, _ = files
    write(folder / "ref.csv", "image,caption\n1.jpg,a dog\n1.jpg,the dog\n2.jpg,a cat\n")
    write(folder / "p.json", [{"image_id": 1, "caption": " "}, {"image_id": 2, "caption": "a cat"}])
    found = eval_captions([str(folder / "p.json")], str(folder / "ref.csv"), ["ROUGE_L"])
    assert found["ROUGE_L"] == pytest.approx(50)
    assert "1 of 2 images of" in said[0] and "have one reference only: 2.jpg" in said[0]
    assert "1 of 2 captions of" in said[1] and "are empty, and count as such: 1.jpg" in said[1]


def test_clip_score_by_a_store(tiny, tiny_stores, tmp_path, said):
    store = Store.open(tiny_stores[1])
    keys = store.images.strings("key")
    write(tmp_path / "ref.csv", "image,caption\n" + "".join(f"{key},a dog\n{key},the dog\n" for key in keys))
    write(tmp_path / "p.json", [{"image_id": f"x/{key}", "caption": "a red dog"} for key in keys])
    args = [str(tmp_path / "p.json")], str(tmp_path / "ref.csv"), ["CLIPScore"]
    found = eval_captions(*args, store=tiny_stores[1], encoder={"type": "TinyEncoder"})
    text = tiny.TinyEncoder().encode_text(["A photo depicts a red dog"])[0].numpy()
    feats = store.images.features().astype(np.float32)
    feats /= np.linalg.norm(feats, axis=1, keepdims=True)
    assert found["CLIPScore"] == pytest.approx(250 * np.maximum(feats @ text, 0).mean(), abs=1e-3)
    with pytest.raises(UserError, match="encoder for the text"):
        eval_captions(*args, store=tiny_stores[1], encoder={"type": "TinyEncoder", "seed": 3, "name": "other"})
    assert eval_captions(*args) == {} and "skipped: needs features of the images" in said[-1]
    write(tmp_path / "ref.csv", "image,caption\nx.jpg,a dog\nx.jpg,the dog\n")
    with pytest.raises(UserError, match=r"lacks 1 of 1 images: x\.jpg"):
        eval_captions(*args, store=tiny_stores[1])
