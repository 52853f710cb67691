import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import (
    CaptionMetric,
    CaptionSet,
    build_scorers,
    score_captions,
    score_set,
    scored_captions,
)
from synthcap_mm.evaluation.tokenizer import ptb_tokenize
from synthcap_mm.registry import METRICS
from synthcap_mm.structures import CaptionSample

REFERENCES = {
    "a.jpg": ["A dog runs on the beach.", "A brown dog is running along the sand."],
    "b.jpg": ["Two men ride horses.", "A couple of men riding on horses in a field."],
    "c.jpg": ["A plate of food with broccoli.", "There is broccoli on the plate, and rice."],
    "d.jpg": ["A red bus in the street.", "The bus drives down a city street."],
}
PREDICTIONS = {
    "a.jpg": "a dog runs along the beach",
    "b.jpg": "two men on a horse",
    "c.jpg": "a plate of rice",
    "d.jpg": "a red bus drives down the street",
}


def make_samples(predictions=PREDICTIONS, references=REFERENCES):
    return [
        CaptionSample(sample_id=n, key=key, pred_caption=predictions[key], references=references[key])
        for n, key in enumerate(references)
    ]


def test_equals_plain_pycocoevalcap():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = {k: [" ".join(ptb_tokenize(r)) for r in v] for k, v in REFERENCES.items()}
    said = {k: [" ".join(ptb_tokenize(v))] for k, v in PREDICTIONS.items()}
    averages, per_image = score_captions(PREDICTIONS, REFERENCES)
    bleu, bleus = Bleu(4).compute_score(truth, said, verbose=0)
    rouge, rouges = Rouge().compute_score(truth, said)
    cider, ciders = Cider().compute_score(truth, said)
    assert [averages[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([100 * b for b in bleu])
    assert averages["ROUGE_L"] == pytest.approx(100 * rouge)
    assert averages["CIDEr"] == pytest.approx(100 * cider) and 0 < averages["CIDEr"] < 1000
    for row, key in enumerate(truth):
        assert per_image[key]["BLEU-4"] == pytest.approx(100 * bleus[3][row])
        assert per_image[key]["ROUGE_L"] == pytest.approx(100 * rouges[row])
        assert per_image[key]["CIDEr"] == pytest.approx(100 * ciders[row])
    assert averages["length"] == pytest.approx((6 + 5 + 4 + 7) / 4)


ASIAN = {
    "a": ["一只狗在草地上奔跑。", "草地上有一只狗"],
    "b": ["两个人骑着马", "两个男人在田野里骑马。"],
    "c": ["สุนัขวิ่งบนสนามหญ้า", "สุนัขตัวหนึ่ง"],
    "d": ["犬が芝生の上を走っています。", "走る犬"],
}
SAID = {"a": "一只狗在奔跑", "b": "两个男人骑马", "c": "สุนัขวิ่ง", "d": "犬が走っている。"}


def test_by_characters_equals_pycocoevalcap_on_characters_with_blanks_between():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = {key: [" ".join(text) for text in texts] for key, texts in ASIAN.items()}
    said = {key: [" ".join(text)] for key, text in SAID.items()}
    metric = CaptionMetric(tokenize="char")
    metric.process(None, make_samples(SAID, ASIAN))
    averages = metric.evaluate(4)
    assert averages["CIDEr"] == pytest.approx(100 * Cider().compute_score(truth, said)[0])
    assert averages["ROUGE_L"] == pytest.approx(100 * Rouge().compute_score(truth, said)[0])
    bleu, _ = Bleu(4).compute_score(truth, said, verbose=0)
    assert [averages[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([100 * b for b in bleu])
    assert averages["length"] == pytest.approx((6 + 6 + 9 + 8) / 4) and averages["CIDEr"] > 100
    assert "char" in metric.scored.notes["tokenize"]
    words, _ = score_captions(SAID, ASIAN)
    assert words["CIDEr"] < 2 and words["length"] == 5 / 4  # a sentence and a full stop
    assert score_captions(SAID, ASIAN, tokenize="char")[0] == averages
    english, _ = score_captions({"x": "a cat", "y": "a b"}, {"x": ["a car"], "y": ["a b"]}, ["BLEU"], tokenize="char")
    assert english["BLEU-1"] == pytest.approx(100 * 5 / 6, abs=1e-4)


@pytest.fixture()
def said(monkeypatch):
    """Warnings of the scores, as in a new process."""
    messages = []
    monkeypatch.setattr(scored_captions, "print_log", lambda message, **options: messages.append(message))
    scored_captions._warn_of_unspaced.cache_clear()
    return messages


def test_references_without_blanks_between_words_are_warned_of_once(said):
    for _ in range(2):
        score_captions(SAID, ASIAN)
    assert len(said) == 1 and "tokenize='char'" in said[0] and "--tokenize char" in said[0]


@pytest.mark.parametrize(
    ("texts", "tokenize"),
    [
        (ASIAN["a"], "char"),
        (["一只 狗 在 草地 上 奔跑 。", "草地 上 有 一只 狗"], "ptb"),  # somebody split it
        (["สุนัข วิ่ง บน สนามหญ้า"], "ptb"),
        (["a dog", "the sign says 狗"], "ptb"),
        (["개가 잔디 위를 달린다"], "ptb"),  # Korean has blanks
    ],
)
def test_no_warning_where_words_can_be_told(said, texts, tokenize):
    score_captions({"x": texts[0]}, {"x": texts}, tokenize=tokenize)
    assert said == []


def test_metrics_of_english_words_are_skipped_by_characters(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/java")
    captions = CaptionSet(SAID, ASIAN, tokenize="char")
    assert set(score_set(captions, build_scorers(["METEOR", "length"])).skipped) == {"METEOR"}


def test_domains_are_scored_by_themselves_too():
    metric = CaptionMetric()
    samples = make_samples()
    for sample, domain in zip(samples, ("in-domain", "out-domain", "in-domain", None)):
        sample.domain = domain
    metric.process(None, samples)
    scores = metric.evaluate(4)
    plain, _ = score_captions(PREDICTIONS, REFERENCES)
    assert {name: scores[name] for name in plain} == plain
    for domain, keys in (("in-domain", ["a.jpg", "c.jpg"]), ("out-domain", ["b.jpg"])):
        alone, _ = score_captions({k: PREDICTIONS[k] for k in keys}, {k: REFERENCES[k] for k in keys})
        assert {name: scores[f"{domain}/{name}"] for name in alone} == alone
    assert len(scores) == 3 * len(plain)


def test_of_few_images_cider_is_unreliable(tmp_path, monkeypatch):
    from synthcap_mm.evaluation import caption_metric

    logged = []
    monkeypatch.setattr(caption_metric, "print_log", lambda message, **options: logged.append(message))

    def warnings(references, domain=None):
        logged.clear()
        metric = CaptionMetric(outfile_prefix=str(tmp_path / "val"))
        samples = make_samples(dict.fromkeys(references, "a dog"), references)
        if domain is not None:
            samples[0].domain = domain
        metric.process(None, samples)
        metric.evaluate(len(references))
        assert json.loads((tmp_path / "val.json").read_text())["warnings"] == metric.scored.warnings
        metric.process(None, samples)
        metric.evaluate(len(references))  # another validation says nothing anew
        assert logged == [f"{name} {why}" for name, why in metric.scored.warnings.items()]
        return metric.scored.warnings

    many = {f"{n}.jpg": [f"a dog and {n} cats"] for n in range(20)}
    assert warnings(many) == {}
    few = warnings({key: texts for key, texts in many.items() if key != "7.jpg"})
    assert set(few) == {"CIDEr"} and "19 image(s), fewer than 20" in few["CIDEr"]
    assert set(warnings(many, "in-domain")) == {"in-domain/CIDEr"}
    # five held-out captions of one image are five samples with the same references
    assert "of 4 image(s)" in warnings({f"{n}": [f"a dog and {n // 5} cats"] for n in range(20)})["CIDEr"]


def test_known_values_by_hand():
    # one wrong word of four: unigram precision 3/4; LCS 3 of 4 on both sides; no shared 4-gram
    averages, _ = score_captions({"x": "a b c d", "y": "e f g h"}, {"x": ["a b c z"], "y": ["e f g z"]})
    assert averages["BLEU-1"] == pytest.approx(75, abs=1e-4)
    assert averages["BLEU-2"] == pytest.approx(100 * (3 / 4 * 2 / 3) ** 0.5, abs=1e-4)
    assert averages["BLEU-4"] < 0.1
    assert averages["ROUGE_L"] == pytest.approx(75)


def test_order_of_images_does_not_change_a_bit():
    backwards = dict(reversed(PREDICTIONS.items()))
    assert score_captions(backwards, REFERENCES)[0] == score_captions(PREDICTIONS, REFERENCES)[0]


def test_captions_without_words_score_zero():
    averages, per_image = score_captions({**PREDICTIONS, "a.jpg": "", "b.jpg": " . "}, REFERENCES)
    assert per_image["a.jpg"]["CIDEr"] == per_image["b.jpg"]["ROUGE_L"] == per_image["a.jpg"]["BLEU-1"] == 0
    assert averages["CIDEr"] < score_captions(PREDICTIONS, REFERENCES)[0]["CIDEr"]


@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ({}, {}, "no captions"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, ": b"),
        ({"a": "x", "c": "z"}, {"a": ["x"]}, ": c"),
        ({"a": "x"}, {"a": []}, ": a"),
        ({"a": "x"}, {"a": [" . "]}, ": a"),
        ({"a": "x"}, {"a": "x"}, "one string"),
    ],
)
def test_incomplete_input_is_named(predictions, references, said):
    with pytest.raises(UserError, match=said):
        score_captions(predictions, references)


def test_images_that_cannot_be_scored_are_refused_before_the_first_batch():
    metric = CaptionMetric()
    metric.dataset_meta = {"keys": ["a.jpg"], "wordless": []}
    assert metric.dataset_meta == {"keys": ["a.jpg"], "wordless": []}
    with pytest.raises(UserError, match=r": b\.jpg"):
        metric.dataset_meta = {"keys": ["a.jpg", "b.jpg"], "wordless": ["b.jpg"]}


def test_unknown_metrics_list_the_known():
    for metrics in (["CIDEr", "Spice"], []):
        with pytest.raises(UserError, match=r"BLEU, CHAIR, CIDEr, CLIPScore, .*ObjectErrors"):
            CaptionMetric(metrics=metrics)
    for metrics in ([{"weight": 1}], "CIDEr"):
        with pytest.raises(UserError, match="metrics"):
            CaptionMetric(metrics=metrics)


def test_batches_do_not_matter():
    metric = METRICS.build({"type": "CaptionMetric"})
    samples = make_samples()
    metric.process({}, samples[:1])
    metric.process({}, samples[1:])
    assert metric.evaluate(4) == score_captions(PREDICTIONS, REFERENCES)[0]
    metric.process({}, samples)  # evaluate has emptied it
    assert metric.evaluate(4)["CIDEr"] == score_captions(PREDICTIONS, REFERENCES)[0]["CIDEr"]


def test_padding_counts_once():
    metric = CaptionMetric()
    metric.process({}, [*make_samples(), *make_samples()[:2]])
    assert metric.compute_metrics(metric.results) == score_captions(PREDICTIONS, REFERENCES)[0]


def test_prefix():
    metric = CaptionMetric(prefix="coco")
    metric.process({}, make_samples())
    assert "coco/CIDEr" in metric.evaluate(4)


def test_a_missing_image_is_an_error():
    metric = CaptionMetric()
    metric.process({}, make_samples()[:3])
    with pytest.raises(UserError, match="3 images"):
        metric.evaluate(4)


@pytest.mark.parametrize(
    ("keys", "said"),
    [([*REFERENCES, "e.jpg"], "no prediction: e.jpg"), (list(REFERENCES)[:3], "the dataset lacks: d.jpg")],
)
def test_with_the_datasets_keys_the_image_is_named(keys, said):
    metric = CaptionMetric()
    metric.dataset_meta = {"keys": keys}
    metric.process({}, make_samples())
    with pytest.raises(UserError, match=said):
        metric.evaluate(len(keys))


def test_a_repeated_image_is_an_error():
    metric = CaptionMetric()
    metric.process({}, [*make_samples(), make_samples()[1]])
    with pytest.raises(UserError, match=r": b\.jpg"):
        metric.evaluate(4)


def test_one_key_for_two_samples_is_an_error():
    samples = make_samples()
    samples[3].key = "a.jpg"
    metric = CaptionMetric()
    metric.process({}, samples)
    with pytest.raises(UserError, match=r"'a\.jpg'"):
        metric.evaluate(4)


def test_images_without_references_are_named():
    samples = make_samples()
    samples[2].references = None
    metric = CaptionMetric()
    metric.process({}, samples)
    with pytest.raises(UserError, match=r"c\.jpg"):
        metric.evaluate(4)


def test_outfile(tmp_path):
    metric = CaptionMetric(outfile_prefix=str(tmp_path / "out" / "val"))
    metric.process({}, make_samples())
    metrics = metric.evaluate(4)
    written = json.loads((tmp_path / "out" / "val.json").read_text())
    assert written["metrics"] == metrics
    assert written["images"]["b.jpg"]["references"] == REFERENCES["b.jpg"]
    assert written["images"]["b.jpg"]["hypothesis"] == PREDICTIONS["b.jpg"]
    mean = sum(image["scores"]["CIDEr"] for image in written["images"].values()) / 4
    assert mean == pytest.approx(metrics["CIDEr"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["val.json"]


def without_java(monkeypatch):
    from synthcap_mm.evaluation import scorer

    monkeypatch.setattr(scorer.shutil, "which", lambda name: None)


def test_a_metric_that_cannot_be_computed_has_a_reason_and_no_number(tmp_path, monkeypatch):
    from synthcap_mm.evaluation import caption_metric

    without_java(monkeypatch)
    logged = []
    monkeypatch.setattr(caption_metric, "print_log", lambda message, **options: logged.append(message))
    metric = CaptionMetric(["CIDEr", "METEOR", "SPICE", "CLIPScore"], outfile_prefix=str(tmp_path / "val"))
    metric.process({}, make_samples())
    assert set(metric.evaluate(4)) == {"CIDEr"}
    skipped = json.loads((tmp_path / "val.json").read_text())["skipped"]
    assert skipped == metric.scored.skipped and set(skipped) == {"METEOR", "SPICE", "CLIPScore"}
    assert "`java`" in skipped["METEOR"] and "stanford-corenlp-3.6.0.jar" in skipped["SPICE"]
    assert f"METEOR skipped: {skipped['METEOR']}" in logged
    with pytest.raises(UserError, match="METEOR"):
        score_captions(PREDICTIONS, REFERENCES, ["METEOR"])


def test_a_metric_of_ones_own_is_one_small_class():
    from synthcap_mm.evaluation.scorer import CaptionScorer, Scores
    from synthcap_mm.registry import CAPTION_SCORERS

    @CAPTION_SCORERS.register_module("exclamations")
    class Exclamations(CaptionScorer):
        def __init__(self, mark="!"):
            self.mark = mark

        def score(self, captions):
            each = [float(self.mark in text) for text in captions.predictions.values()]
            return Scores({"exclamations": 100 * sum(each) / len(each)}, {"exclamations": each})

    try:
        metric = CaptionMetric(["length", {"type": "exclamations", "mark": "?"}])
        metric.process({}, make_samples({**PREDICTIONS, "a.jpg": "a dog?"}))
        assert metric.evaluate(4)["exclamations"] == 25
    finally:
        CAPTION_SCORERS.module_dict.pop("exclamations")


def clip_evaluator(tiny_stores, encoder):
    """The samples of the photos' store, and CLIPScore with an encoder, met as in a run."""
    from mmengine.evaluator import Evaluator

    from synthcap_mm.datasets import CaptionEvalDataset

    dataset = CaptionEvalDataset(tiny_stores[1])
    samples = [dataset[i] for i in range(len(dataset))]
    for n, sample in enumerate(samples):
        sample.pred_caption = "" if n == 0 else "a red dog on the beach"
    metric = CaptionMetric(["CLIPScore", "RefCLIPScore"], encoder=encoder)
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dataset.metainfo
    evaluator.process(data_samples=samples, data_batch=None)
    return dataset, samples, metric, evaluator


def test_clip_score_takes_the_features_of_the_test_store(tiny, tiny_stores):
    import torch

    dataset, samples, metric, evaluator = clip_evaluator(tiny_stores, {"type": "TinyEncoder"})
    found = evaluator.evaluate(len(dataset))
    encoder = tiny.TinyEncoder()
    text = encoder.encode_text(["A photo depicts a red dog on the beach"])[0]
    wanted = [250 * max(0.0, float(torch.dot(s.feat, text) / s.feat.norm())) for s in samples]
    wanted[0] = 0.0  # nothing was written
    assert found["CLIPScore"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-3)
    for sample, one in zip(samples, wanted):
        each = metric.scored.per_image[sample.key]
        assert each["CLIPScore"] == pytest.approx(one, abs=1e-3)
        best = max(float(text @ encoder.encode_text([f"A photo depicts {r}"])[0]) for r in sample.references)
        if one:
            score, best = one / 100, max(best, 0.0)
            assert each["RefCLIPScore"] == pytest.approx(200 * score * best / (score + best), abs=1e-2)
        else:
            assert each["RefCLIPScore"] == 0
    assert any(wanted) and "A photo depicts" in metric.scored.notes["CLIPScore"]


def test_clip_score_refuses_another_encoder(tiny, tiny_stores):
    dataset, *_, evaluator = clip_evaluator(tiny_stores, {"type": "TinyEncoder", "seed": 1, "name": "other"})
    with pytest.raises(UserError, match=r"'other'.*'tiny'"):
        evaluator.evaluate(len(dataset))


def test_clip_score_without_an_encoder_says_so(tiny, tiny_stores):
    dataset, _, metric, evaluator = clip_evaluator(tiny_stores, None)
    assert evaluator.evaluate(len(dataset)) == {}
    assert "encoder=dict(type=...)" in metric.scored.skipped["CLIPScore"]


@pytest.mark.parametrize("domains", [False, True])
def test_the_floor_is_the_nearest_training_captions_score(tiny_stores, tmp_path, domains):
    from synthcap_mm.datasets import CaptionEvalDataset
    from synthcap_mm.evaluation import nearest_captions

    pairs, photos = tiny_stores
    dataset = CaptionEvalDataset(photos)
    samples = [dataset[i] for i in range(len(dataset))]
    references = {sample.key: sample.references for sample in samples}
    for n, sample in enumerate(samples):
        sample.pred_caption = "a red dog on the beach"
        sample.domain = "in-domain" if domains and n % 2 else None
    metric = CaptionMetric(["CIDEr", "length"], floor=pairs, outfile_prefix=str(tmp_path / "out"), prefix="p")
    metric.process(None, samples[:5])
    metric.process(None, samples[5:])
    found = metric.evaluate(len(samples))
    nearest = nearest_captions(pairs, samples)
    assert len(set(nearest.values())) > 1
    images = json.loads((tmp_path / "out.json").read_text())["images"]
    assert {key: image["nearest"] for key, image in images.items()} == nearest == metric.scored.nearest

    def floor(keys):
        scores, _ = score_captions({k: nearest[k] for k in keys}, {k: references[k] for k in keys}, ["CIDEr", "length"])
        return scores

    every = floor(references)
    assert every["CIDEr"] > 0
    wanted = {"nearest/CIDEr": every["CIDEr"], "nearest/length": every["length"]}
    if domains:
        half = floor([sample.key for sample in samples if sample.domain])
        wanted |= {"in-domain/nearest/CIDEr": half["CIDEr"], "in-domain/nearest/length": half["length"]}
    assert {name.removeprefix("p/"): value for name, value in found.items() if "nearest" in name} == wanted
    plain = CaptionMetric(["CIDEr", "length"], prefix="p")
    plain.process(None, samples)
    assert {name: value for name, value in found.items() if "nearest" not in name} == plain.evaluate(len(samples))


def test_without_features_there_is_no_floor_and_that_is_said(tiny_stores, monkeypatch):
    from synthcap_mm.evaluation import caption_metric

    logged = []
    monkeypatch.setattr(caption_metric, "print_log", lambda message, **options: logged.append(message))
    metric = CaptionMetric(["ROUGE_L"], floor=tiny_stores[0])
    metric.process(None, make_samples())
    assert set(metric.evaluate(4)) == {"ROUGE_L"}
    assert len(logged) == 1 and "no floor" in logged[0] and "4 of 4 images" in logged[0]


RANK = """
import json, sys
import torch.distributed as dist
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.caption_metric import CaptionMetric
from synthcap_mm.structures import CaptionSample

rank, port, cases, samples = json.loads(sys.argv[1])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
answers = []
for shares, size in cases:
    metric = CaptionMetric()
    for n in shares[rank]:
        key, caption, references = samples[n]
        metric.process({}, [CaptionSample(sample_id=n, key=key, pred_caption=caption, references=references)])
    try:
        answers.append(metric.evaluate(size))
    except UserError as error:
        answers.append(str(error))
with open(f"rank{rank}.json", "w") as file:
    json.dump(answers, file)
dist.destroy_process_group()
"""


def test_two_ranks(tmp_path):
    """Padding counts once, and an error reaches every rank instead of leaving it waiting."""
    cases = [
        ([[0, 2], [1, 3]], 4),
        ([[0, 2], [1, 0]], 3),  # three images: the sampler pads with the first
        ([[0, 2], [1, 0]], 4),  # one is missing
        ([[0, 1], [0, 1]], 2),  # twice is more than padding
        ([[0, 1, 2, 3], []], 4),
        ([[0, 2, 1], [1, 3]], 4),  # four on two ranks need no padding
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    samples = [[key, PREDICTIONS[key], REFERENCES[key]] for key in REFERENCES]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    ranks = [
        # MMEngine collects through files in the working folder
        subprocess.Popen(
            [sys.executable, "-c", RANK, json.dumps([r, port, cases, samples])], cwd=tmp_path, env=environment
        )
        for r in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    answers = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2)]
    assert answers[0] == answers[1]
    whole, padded, missing, repeated, uneven, once_more = answers[0]
    three = list(REFERENCES)[:3]
    assert whole == uneven == score_captions(PREDICTIONS, REFERENCES)[0]
    assert padded == score_captions({k: PREDICTIONS[k] for k in three}, {k: REFERENCES[k] for k in three})[0]
    assert "3 images, but the dataset has 4" in missing
    assert "more than once" in repeated
    assert "more than once: b.jpg" in once_more


@pytest.mark.parametrize("kind", ["photos", "heldout"])
def test_the_datasets_tell_the_evaluator_who_is_missing(tiny_stores, kind):
    """By the same road as in a run: the evaluator hands the dataset's metainfo on."""
    from mmengine.evaluator import Evaluator

    from synthcap_mm.datasets import CaptionEvalDataset, SynthPairDataset

    pairs, photos = tiny_stores
    dataset = CaptionEvalDataset(photos) if kind == "photos" else SynthPairDataset(pairs, split="heldout")
    samples = [dataset[i] for i in range(len(dataset))]
    for sample in samples:
        sample.pred_caption = "a red dog on the beach"
    evaluator = Evaluator([CaptionMetric()])
    evaluator.dataset_meta = dataset.metainfo
    evaluator.process(data_samples=samples, data_batch=None)
    assert evaluator.evaluate(len(dataset))["CIDEr"] >= 0
    evaluator.process(data_samples=samples[1:], data_batch=None)
    with pytest.raises(UserError, match=f"no prediction: {samples[0].key}"):
        evaluator.evaluate(len(dataset))
    samples[0].key = "stranger"
    evaluator.process(data_samples=samples, data_batch=None)
    with pytest.raises(UserError, match="no prediction"):
        evaluator.evaluate(len(dataset))
