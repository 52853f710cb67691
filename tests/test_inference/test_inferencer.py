"""Photos to captions: the same caption whatever the batch, the cache and the device."""

import copy
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from synthcap_mm.datasets import CaptionEvalDataset
from synthcap_mm.errors import UserError
from synthcap_mm.inference.generation import generation_options
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.inference.results import CaptionResult
from synthcap_mm.registry import INFERENCERS, MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import CaptionSample, Tag
from synthcap_mm.synthesis.image_reader import ImageReader

#: What two ways of computing the same log-probability may differ by (float32, some ten tokens).
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def captioner(tiny_captioner):
    config, checkpoint, photos = tiny_captioner
    return CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu"), photos


def same(some, others, tolerance=TOLERANCE):
    for one, other in zip(some, others, strict=True):
        assert [c["caption"] for c in one["captions"]] == [c["caption"] for c in other["captions"]]
        for field in ("logprob", "score"):
            values = [[c[field] for c in x["captions"]] for x in (one, other)]
            assert values[0] == pytest.approx(values[1], abs=tolerance)


def test_it_is_an_inferencer_of_the_registry(tiny_captioner):
    config, checkpoint, photos = tiny_captioner
    built = INFERENCERS.build({"type": "CaptionInferencer", "model": config, "weights": checkpoint, "device": "cpu"})
    found = built(photos, batch_size=5)
    assert set(found) == {"predictions", "visualization"} and found["visualization"] is None
    assert [p["image"] for p in found["predictions"]] == [str(photos / f"photo {i:02d} ü.png") for i in range(12)]
    first = found["predictions"][0]
    assert set(first) == {"image", "caption", "captions", "prompt_tags"}
    assert first["caption"] == first["captions"][0]["caption"] and len(first["captions"]) == 1
    assert len({p["caption"] for p in found["predictions"]}) > 2  # it looks at the pictures
    samples = built(photos, return_datasamples=True)["predictions"]
    assert all(isinstance(s, CaptionResult) and isinstance(s.sample, CaptionSample) for s in samples)
    assert [s.sample.pred_caption for s in samples] == [p["caption"] for p in found["predictions"]]


def test_photos_take_the_road_of_encode_images(captioner, tiny_stores):
    """Captions of files are those that tools/test.py writes of the same photos in a store."""
    inferencer, photos = captioner
    stored = CaptionEvalDataset(tiny_stores[1])
    wanted = inferencer.model.val_step([stored[i] for i in range(12)])
    found = inferencer(photos)["predictions"]
    assert [f["caption"] for f in found] == [w.pred_caption for w in wanted]
    assert [f["prompt_tags"] for f in found] == [w.pred_tags for w in wanted]
    assert [f["captions"][0]["logprob"] for f in found] == pytest.approx(
        [w.pred_logprobs[0] for w in wanted], abs=0.05  # a store's features are float16
    )  # fmt: skip


OPTIONS = [
    {"num_beams": 3, "n_best": 3},
    {"num_beams": 1},
    {"sample": True, "n_best": 2, "seed": 4},
    {"num_beams": 3, "n_best": 2, "length_penalty": -1.0, "min_length": 4, "max_length": 9, "no_repeat_ngram_size": 2},
]


def mixed(tiny, photos):
    """Pictures whose prompts differ in length: none, one, two and four tags."""
    samples = []
    for i, count in enumerate((0, 1, 2, 4, 1, 3)):
        feat = torch.randn(32, generator=torch.Generator().manual_seed(i))
        tags = [Tag(colour, 0.9 - n / 10) for n, colour in enumerate(list(tiny.COLOURS)[:count])]
        samples.append(CaptionSample(i, f"s{i}", "real", feat=feat / feat.norm(), tags=tags))
    return [*samples, *sorted(photos.iterdir())[:3]]


@pytest.mark.parametrize("options", OPTIONS)
def test_batched_equals_single(captioner, tiny, options):
    inferencer, photos = captioner
    together = inferencer(mixed(tiny, photos), batch_size=9, **options)["predictions"]
    assert {len(p["prompt_tags"]) for p in together} >= {0, 1, 2, 3}
    same(together, inferencer(mixed(tiny, photos), batch_size=1, **options)["predictions"])
    same(together, inferencer(mixed(tiny, photos)[::-1], batch_size=4, **options)["predictions"][::-1])


@pytest.mark.parametrize("options", OPTIONS)
def test_cache_equals_no_cache(captioner, tiny, options):
    inferencer, photos = captioner
    with_cache = inferencer(mixed(tiny, photos), batch_size=5, **options)["predictions"]
    same(with_cache, inferencer(mixed(tiny, photos), batch_size=5, use_cache=False, **options)["predictions"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU HERE: CPU equals GPU is not tested")
@pytest.mark.parametrize("options", OPTIONS)
def test_cpu_equals_gpu(captioner, tiny, tiny_captioner, options):
    inferencer, photos = captioner
    config, checkpoint, _ = tiny_captioner
    on_gpu = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cuda")
    inputs = mixed(tiny, photos)
    same(inferencer(inputs, **options)["predictions"], on_gpu(inputs, **options)["predictions"], tolerance=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(tiny_captioner, captioner, dtype):
    config, checkpoint, photos = tiny_captioner
    low = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu", dtype=dtype)(photos)["predictions"]
    full = captioner[0](photos)["predictions"]
    assert [p["captions"][0]["logprob"] for p in low] != [p["captions"][0]["logprob"] for p in full]
    assert sum(a["caption"] == b["caption"] for a, b in zip(low, full)) >= 6


def test_options_do_what_they_say(captioner):
    inferencer, photos = captioner
    tokens = inferencer.model.data_preprocessor.tokenizer

    def lengths(**options):
        batch = next(inferencer.preprocess(photos))
        data = inferencer.model.data_preprocessor([r.sample for r in batch])
        prefix, _ = inferencer.model.run_necks(data["prefix"], "predict")
        ids = inferencer.model.head.generate(
            prefix.feats, data["input_ids"], data["lengths"], **generation_options(inferencer.model, **options)
        )["ids"]
        rows = ids.flatten(0, 1).tolist()
        return rows, [r.index(tokens.eos_id) if tokens.eos_id in r else len(r) for r in rows]

    assert max(lengths(max_length=4)[1]) <= 4
    assert min(lengths(min_length=12)[1]) >= 12
    rows, ends = lengths(no_repeat_ngram_size=2, min_length=12)
    for row, end in zip(rows, ends):
        pairs = list(pairwise(row[:end]))
        assert len(set(pairs)) == len(pairs)
    short, long = (sum(lengths(num_beams=3, length_penalty=p)[1]) for p in (-5.0, 5.0))
    assert short <= long
    greedy = inferencer(photos, num_beams=1)["predictions"]
    beams = inferencer(photos, num_beams=3, n_best=3)["predictions"]
    assert np.mean([p["captions"][0]["score"] for p in beams]) >= np.mean([p["captions"][-1]["score"] for p in beams])
    assert greedy[0]["captions"][0]["score"] == greedy[0]["captions"][0]["logprob"]
    assert beams[0]["captions"][0]["score"] != beams[0]["captions"][0]["logprob"]
    seeds = [[p["caption"] for p in inferencer(photos, sample=True, seed=s)["predictions"]] for s in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 0},
        {"n_best": 3, "num_beams": 2},
        {"max_length": 17},
        {"min_length": 4, "max_length": 3},
        {"num_beams": 2, "sample": True},
        {"batch_size": 0},
        {"errors": "ignore"},
    ],
)
def test_wrong_options_are_named(captioner, options):
    inferencer, photos = captioner
    with pytest.raises(UserError, match=next(iter(options))):
        inferencer(photos, **options)


@pytest.mark.parametrize("options", [{"trust_remote_code": True}, {"custom_generate": "somebody/code"}])
def test_no_option_loads_code(captioner, options):
    inferencer, photos = captioner
    with pytest.raises(ValueError, match=next(iter(options))):
        inferencer(photos, **options)


def test_it_yields_results_as_they_come(captioner, tiny):
    inferencer, _ = captioner
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield tiny.TinyPhotos().load(len(taken) % 12)

    stream = inferencer.stream(endless(), batch_size=2)
    first = [next(stream) for _ in range(3)]
    assert [p["image"] for p in first] == ["input 0", "input 1", "input 2"]
    assert len(taken) <= 20  # some batches ahead, no more
    stream.close()
    with pytest.raises(UserError, match="beams"):
        next(inferencer.stream([], beams=3))


def test_features_alone_build_no_encoder_and_no_tagger(tiny_captioner):
    config, checkpoint, photos = tiny_captioner
    inferencer = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")
    feats = inferencer.read([Image.open(p) for p in sorted(photos.iterdir())])[0][None]
    fresh = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")
    found = fresh(feats)["predictions"]
    assert fresh._reader is None and not fresh.model._backbones
    assert all(p["prompt_tags"] == [] for p in found)
    with pytest.raises(ValueError, match=r"input 0.*\(5,\).*\(32,\)"):
        fresh(torch.randn(5))


def test_bad_files_raise_or_are_reported(captioner, tmp_path):
    inferencer, photos = captioner
    good = sorted(photos.iterdir())[0]
    (tmp_path / "empty.jpg").write_bytes(b"")
    shutil.copy(good, tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    inputs = [good, tmp_path / "empty.jpg", tmp_path / "cut.png", tmp_path / "gone.png", good]
    found = inferencer(inputs, errors="report", batch_size=3)["predictions"]
    assert found[0]["caption"] == found[4]["caption"]
    assert [p.get("error") for p in found] == [
        None,
        *(p["error"] for p in found[1:4]),
        None,
    ]
    assert all(path.name in p["error"] for path, p in zip(inputs[1:4], found[1:4]))
    with pytest.raises(ValueError, match=r"empty\.jpg"):
        inferencer(inputs)
    only_bad = inferencer(inputs[1:3], errors="report")["predictions"]
    assert all("error" in p for p in only_bad)
    assert inferencer([])["predictions"] == []


def test_tags_come_from_what_tests_take_them_from(tiny_captioner, tiny_stores):
    config, checkpoint, photos = tiny_captioner
    words = sorted({w for c in Store.open(tiny_stores[0]).captions.strings("text") for w in c.lower().split()})
    tags = {"type": "RetrievedEntities", "store": tiny_stores[0], "vocabulary": words, "k": 3}
    config = {**copy.deepcopy(config), "test_dataloader": {"dataset": {"type": "CaptionEvalDataset", "tags": tags}}}
    inferencer = CaptionInferencer(config, checkpoint, device="cpu")
    found = inferencer(photos, explain=True)["predictions"]
    feats = inferencer.read([Image.open(p) for p in sorted(photos.iterdir())])[0][None]
    expected = MODELS.build(tags).detect_features(feats)
    assert any(expected) and [[t["name"] for t in p["tags"]] for p in found] == [[t.name for t in e] for e in expected]
    other = {"type": "TinyEncoder", "seed": 1, "name": "other"}
    with pytest.raises(UserError, match=r"'tiny'.*'other'"):
        ImageReader(MODELS.build(other), MODELS.build(tags))


def test_what_is_missing_is_said(tiny_captioner, captioner, tiny_stores):
    config, checkpoint, photos = tiny_captioner
    without = copy.deepcopy(config)
    del without["synthesis"]["encoder"]
    with pytest.raises(UserError, match="give encoder="):
        CaptionInferencer(without, checkpoint, device="cpu")(photos)
    found = CaptionInferencer(without, checkpoint, device="cpu", encoder={"type": "TinyEncoder"})(photos)
    same(found["predictions"], captioner[0](photos)["predictions"])
    without = copy.deepcopy(config)
    without["synthesis"]["tag_provider"] = None
    with pytest.raises(UserError, match="give tag_provider="):
        CaptionInferencer(without, checkpoint, device="cpu")(photos)
    with pytest.raises(UserError, match=r"'wrong'.*'tiny'"):
        wrong = {"type": "TinyEncoder", "seed": 1, "name": "wrong"}
        CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu", encoder=wrong)(photos)
    with pytest.raises(UserError, match="weights"):
        CaptionInferencer(copy.deepcopy(config))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        CaptionInferencer(copy.deepcopy(config), "nowhere.pth")
    with pytest.raises(UserError, match="model"):
        CaptionInferencer(None, checkpoint)
    other = copy.deepcopy(config)
    other["model"]["head"]["layers"] = 3
    with pytest.raises(UserError, match="weights are missing"):
        CaptionInferencer(other, checkpoint)
    for option in ({"dtype": "int8"}, {"channel_order": "gbr"}):
        with pytest.raises(UserError, match=next(iter(option))):
            CaptionInferencer(copy.deepcopy(config), checkpoint, **option)


# ---- why this caption
def test_explain(captioner, tiny_stores):
    from synthcap_mm.evaluation.clip_score import clip_score

    inferencer, photos = captioner
    plain = inferencer(photos)["predictions"]
    found = inferencer(photos, explain=True, top_memory=36)["predictions"]
    assert [p["caption"] for p in plain] == [p["caption"] for p in found]
    store = Store.open(tiny_stores[0])
    texts = [store.captions.value("text", int(row)) for row in store.caption_rows()]
    for p in found:
        weights = [m["weight"] for m in p["memory"]]
        assert sum(weights) == pytest.approx(1, abs=1e-5) and weights == sorted(weights, reverse=True)
        assert sorted(m["caption"] for m in p["memory"]) == sorted(texts)
        assert p["tags"][0].keys() == {"name", "score", "box", "area"} and len(p["tags"]) == 2
    # the weights are those of a softmax over the whole memory, row by row
    feats = inferencer.read([Image.open(p) for p in sorted(photos.iterdir())])[0][None]
    memory = inferencer.model.necks[0].memory
    by_hand = (feats @ memory.features.T / 0.02).softmax(1)
    for p, row in zip(found, by_hand):
        assert p["memory"][0]["weight"] == pytest.approx(float(row.max()), abs=1e-5)
        assert p["memory"][0]["caption"] in [texts[i] for i in (row >= row.max() - 1e-6).nonzero().flatten()]
    encoded = inferencer.reader.encoder.encode_text([p["caption"] for p in found])
    assert [p["clip_score"] for p in found] == pytest.approx(clip_score(feats, encoded).tolist(), abs=1e-5)


def test_another_memory_and_back(captioner, tiny_stores):
    inferencer, photos = captioner
    before = inferencer(photos, explain=True)["predictions"]
    with inferencer.use_memory(["a  blue boat\non the field"]):  # one caption is a memory too
        one = inferencer(photos, explain=True)["predictions"]
    assert all(p["memory"] == [{"caption": "a blue boat on the field", "weight": 1.0}] for p in one)
    assert [p["caption"] for p in one] != [p["caption"] for p in before]
    assert inferencer(photos, explain=True)["predictions"] == before
    for wrong in ([], ["a dog", " "], "a dog"):
        with pytest.raises(UserError), inferencer.use_memory(wrong):
            pass
    assert inferencer(photos, explain=True)["predictions"] == before


def test_rerank_is_an_option(captioner):
    inferencer, photos = captioner
    found = inferencer(photos, rerank=True, num_beams=3, n_best=3, explain=True)["predictions"]
    for p in found:
        scores = [c["score"] for c in p["captions"]]
        assert scores == sorted(scores, reverse=True)
    by_beams = inferencer(photos, explain=True)["predictions"]
    assert sum(p["clip_score"] for p in found) > sum(p["clip_score"] for p in by_beams)
    assert [p["caption"] for p in found] != [p["caption"] for p in by_beams]


def test_a_captioner_without_tags_or_memory(tiny_captioner, tiny_stores, tmp_path):
    config = copy.deepcopy(tiny_captioner[0])
    config["model"]["data_preprocessor"]["prompt"] = None
    del config["model"]["necks"]["memory"]
    torch.save({"state_dict": MODELS.build(copy.deepcopy(config["model"])).state_dict()}, tmp_path / "c.pth")
    config["synthesis"]["tag_provider"] = {"type": "Nonsense"}  # never built
    inferencer = CaptionInferencer(config, tmp_path / "c.pth", device="cpu")
    (found, *_) = inferencer(tiny_captioner[2], explain=True)["predictions"]
    assert found["memory"] is None and found["tags"] == [] and found["clip_score"] is not None
    with pytest.raises(UserError, match="no memory"), inferencer.use_memory(["a dog"]):
        pass


def test_pictures_of_the_results(captioner, tmp_path):
    inferencer, photos = captioner
    files = sorted(photos.iterdir())[:2]
    found = inferencer([*files, torch.randn(32), tmp_path / "gone.png"], explain=True, draw=True, errors="report",
                       out_dir=tmp_path / "drawn")  # fmt: skip
    drawn = found["visualization"]
    assert [d is None for d in drawn] == [False, False, True, True]
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == [
        f"0000{i}_{f.stem}.png" for i, f in enumerate(files)
    ]
    assert drawn[0].dtype == np.uint8 and drawn[0].shape[1] > 500


# ---- a second encoder
@pytest.mark.parametrize("tags", ["search", None])
def test_a_captioner_of_two_encoders_captions_photos_as_a_test_does(two_encoder_captioner, two_encoders, tiny, tags):
    config, checkpoint, photos = two_encoder_captioner
    config = copy.deepcopy(config)
    if tags is not None:
        words = sorted({w for c in Store.open(two_encoders[0]).captions.strings("text") for w in c.split()})
        provider = {"type": "RetrievedEntities", "store": two_encoders[0], "vocabulary": words, "search_encoder": tags}
        config["test_dataloader"] = {"dataset": {"type": "CaptionEvalDataset", "tags": provider}}
    inferencer = CaptionInferencer(config, checkpoint, device="cpu")
    stored = CaptionEvalDataset(two_encoders[1], tags=provider if tags else None)
    wanted = inferencer.model.val_step([stored[i] for i in range(12)])
    found = inferencer(photos)["predictions"]
    assert [p["caption"] for p in found] == [s.pred_caption for s in wanted]
    assert [p["prompt_tags"] for p in found] == [s.pred_tags for s in wanted]
    assert len({p["caption"] for p in found}) > 2
    assert [p["caption"] for p in inferencer.stream([stored[i] for i in range(12)])] == [p["caption"] for p in found]


def test_the_memory_of_a_captioner_of_two_encoders_can_be_swapped(two_encoder_captioner, tiny):
    config, checkpoint, photos = two_encoder_captioner
    inferencer = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")
    sentences = [f"a {colour} {thing}" for colour in ("pink", "grey") for thing in ("dog", "cat", "house", "fish")]
    with inferencer.use_memory(sentences):
        found = inferencer(photos, explain=True, top_memory=2)["predictions"]
    other = tiny.TinyEncoder(dim=24, seed=7)
    similar = other.encode_pil([tiny.TinyPhotos().load(i) for i in range(12)]) @ other.encode_text(sentences).T
    nearest = [[sentences[row] for row in rows] for rows in similar.topk(2).indices.tolist()]
    assert [[m["caption"] for m in p["memory"]] for p in found] == nearest


def test_a_second_encoder_that_is_missing_is_said(two_encoder_captioner, tiny_stores):
    config, checkpoint, photos = two_encoder_captioner
    config = copy.deepcopy(config)
    others = config["synthesis"].pop("other_encoders")
    with pytest.raises(UserError, match=r"need the encoder 'search' too.*give other_encoders=dict\(search=dict\("):
        CaptionInferencer(config, checkpoint, device="cpu")(photos)
    given = CaptionInferencer(config, checkpoint, device="cpu", other_encoders=others)
    assert all("error" not in p for p in given(photos)["predictions"])
    with pytest.raises(UserError, match="needs features of the encoder 'search'"):
        given(np.ones((2, 32), np.float32))
