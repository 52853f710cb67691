import pytest
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.models.preprocessor import IGNORE, CaptionPreprocessor
from synthcap_mm.store import Store
from synthcap_mm.structures import CaptionSample, Tag


@pytest.fixture()
def preprocessor(tiny_stores):
    path = str(Store.open(tiny_stores[0]).tokenizer_path)
    return lambda **options: CaptionPreprocessor(tokenizer=path, **options)


def sample(caption=None, tags=(), **changes):
    fields = {"sample_id": 0, "key": "k", "feat": torch.ones(4), "text_feat": torch.ones(4), "caption": caption}
    return CaptionSample(**{**fields, "tags": [Tag(t, 0.9) for t in tags], **changes})


def test_rows_are_prompt_begin_caption_end_and_only_the_caption_is_learnt(preprocessor):
    pre = preprocessor(prompt={"drop": 0, "drop_all": 0})
    batch = pre([sample("a red dog", ["dog", "boat"]), sample("a tree")], training=True)
    t = pre.tokenizer
    prompt = t.encode(["There are dog, boat in the image."])[0]
    caption = t.encode(["a red dog"])[0]
    row = batch["input_ids"][0]
    assert row[: batch["lengths"][0]].tolist() == [*prompt, t.bos_id, *caption, t.eos_id]
    learnt = batch["labels"][0] != IGNORE
    assert batch["labels"][0][learnt].tolist() == [*caption, t.eos_id]
    assert batch["labels"][1][batch["labels"][1] != IGNORE].tolist() == [*t.encode(["a tree"])[0], t.eos_id]


def test_padding_is_to_the_batch(preprocessor):
    pre = preprocessor()
    short = pre([sample("a dog")], training=True)["input_ids"].shape[1]
    both = pre([sample("a dog"), sample("a dog on the beach on the street")], training=True)
    assert short < both["input_ids"].shape[1] == both["lengths"].max()


def test_truncation_never_loses_the_end_token(preprocessor):
    pre = preprocessor(max_length=5)
    batch = pre([sample("a red dog " * 20)], training=True)
    assert batch["input_ids"][0, -1] == pre.tokenizer.eos_id
    assert (batch["labels"] != IGNORE).sum() == 5


def test_a_long_prompt_loses_whole_tags(preprocessor):
    pre = preprocessor(prompt={"max_tags": 4, "drop": 0, "drop_all": 0}, max_prompt_length=20)
    batch = pre([sample(tags=["dog", "a very long name of a thing that nobody has ever seen before"])])
    assert batch["samples"][0].pred_tags == ["dog"]
    assert batch["lengths"][0] <= 21


def test_features_by_other_encoders_are_stacked_where_all_have_them(preprocessor):
    feats = [{"a": torch.full((3,), float(i)), **({"b": torch.ones(2)} if i else {})} for i in range(2)]
    samples = [sample("a dog", other_feats=one, other_text_feats={"a": one["a"] + 1}) for one in feats]
    prefix = preprocessor()(samples, training=True)["prefix"]
    assert prefix.other_feats.keys() == {"a"} and prefix.other_feats["a"].tolist() == [[0.0] * 3, [1.0] * 3]
    assert prefix.other_text_feats["a"].tolist() == [[1.0] * 3, [2.0] * 3]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 20, 33, 60, 1000])
def test_tags_are_left_out_last_first_until_the_prompt_fits(preprocessor, length):
    names = ["dog", "a red boat", "tree", "zebra", "café", "a very long name of a thing", "cat", "man"]
    pre = preprocessor(prompt={"max_tags": 8}, max_prompt_length=length)
    batch = pre([sample(tags=names), sample(tags=names[:2]), sample()])
    for row, fitting in enumerate((list(names), names[:2], [])):
        while len(ids := pre.tokenizer.encode([pre.prompt.word(fitting)])[0]) > length:
            fitting.pop()
        assert batch["samples"][row].pred_tags == fitting
        assert batch["input_ids"][row, : batch["lengths"][row]].tolist() == [*ids, pre.tokenizer.bos_id]


def test_many_tags_are_not_each_encoded_anew(preprocessor, monkeypatch):
    pre = preprocessor(prompt={"max_tags": 1000})
    calls, encode = [], pre.tokenizer.encode
    monkeypatch.setattr(pre.tokenizer, "encode", lambda texts: calls.append(1) or encode(texts))
    pre([sample(tags=[f"{n} a b" for n in range(1000)])])
    assert len(calls) < 20


def test_inference_never_drops_tags_and_needs_no_caption(preprocessor):
    pre = preprocessor(prompt={"drop": 1.0, "drop_all": 1.0})
    batch = pre([sample(tags=["dog"])])
    assert batch["samples"][0].pred_tags == ["dog"]
    assert batch["labels"] is None


def test_drop_depends_on_the_generator_only(preprocessor):
    pre = preprocessor(prompt={"drop": 0.5, "drop_all": 0.2})
    rows = [sample("a dog", ["dog", "cat", "boat"]) for _ in range(32)]
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(pre(rows, training=True)["input_ids"].tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_mixed_sources_and_missing_captions_are_refused(preprocessor):
    with pytest.raises(ValueError, match="source"):
        preprocessor()([sample(source="real"), sample(source="pseudo")])
    with pytest.raises(ValueError, match="'k'"):
        preprocessor()([sample()], training=True)
    with pytest.raises(UserError, match="max_length"):
        preprocessor(max_length=1)
