"""Captions to tokens and back."""

import hashlib
import json
import pickle
import subprocess
import sys

import pytest

from synthcap_mm.errors import UserError
from synthcap_mm.tokenization import CaptionTokenizer, make_tokenizer

CAPTIONS = [
    "a red dog on the beach",
    "two white cats sit on a green boat",
    "a man's dog isn't here",
    "a tree, a car and a boat",
] * 3


def saved(tokenizer, path):
    tokenizer.save(str(path / "tokenizer.json"))
    return CaptionTokenizer(path / "tokenizer.json")


@pytest.fixture()
def trained(tmp_path):
    return saved(make_tokenizer("train", CAPTIONS, vocab_size=320), tmp_path)


def bytes_to_unicode():
    """GPT-2's byte alphabet, as OpenAI's encoder.json has it."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    return {**{b: chr(b) for b in kept}, **{b: chr(256 + i) for i, b in enumerate(others)}}


@pytest.fixture()
def gpt2_files(tmp_path):
    """A GPT-2 vocabulary of a few merges, in the same two files."""
    merges = [("Ġ", "a"), ("d", "o"), ("do", "g"), ("Ġ", "dog"), ("r", "e"), ("re", "d")]
    alphabet = bytes_to_unicode()
    vocab = [alphabet[b] for b in range(256)] + ["".join(m) for m in merges] + ["<|endoftext|>"]
    (tmp_path / "encoder.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (tmp_path / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / "encoder.json"), str(tmp_path / "vocab.bpe"), vocab


# ---- trained
def test_a_trained_tokenizer_gives_captions_back(trained, tmp_path):
    assert trained.decode(trained.encode(CAPTIONS)) == CAPTIONS
    # words and letters it has not seen, and capitals, which it lowers
    assert trained.decode(trained.encode(["A  ZEBRA in a café ❄"])) == ["a zebra in a café ❄"]
    kept = saved(make_tokenizer("train", ["A Dog"] * 3, vocab_size=300, lowercase=False), tmp_path)
    assert kept.decode(kept.encode(["A Dog"])) == ["A Dog"]


def test_special_tokens_of_a_trained_one(trained):
    assert (trained.pad_id, trained.bos_id, trained.eos_id) == (0, 1, 2)
    assert 259 < trained.vocab_size <= 320
    ids = [i for row in trained.encode(CAPTIONS) for i in row]
    assert max(ids) < trained.vocab_size and not {0, 1, 2} & set(ids)


def test_training_is_the_same_in_every_process(tmp_path):
    code = (
        "import sys, json; from synthcap_mm.tokenization import make_tokenizer; "
        "print(make_tokenizer('train', json.loads(sys.argv[1]), vocab_size=300).to_str())"
    )
    texts = json.dumps([f"{a} {b} on the {c}" for a in ("red", "blue") for b in ("dog", "car") for c in ("sea", "bed")])
    made = {
        subprocess.run([sys.executable, "-c", code, texts], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(made) == 1


# ---- decoding
def test_decoding_ends_at_the_end_token_and_drops_special_tokens(trained):
    (dog,) = trained.encode(["a red dog"])
    (cat,) = trained.encode(["cat"])
    assert trained.decode([[trained.bos_id, *dog, trained.eos_id, *cat]]) == ["a red dog"]
    assert trained.decode([[trained.pad_id, *dog, trained.pad_id]]) == ["a red dog"]
    assert trained.decode([[trained.eos_id, *dog], []]) == ["", ""]


def test_special_tokens_written_in_a_caption_are_text(trained):
    text = "a <eos> dog <pad>"
    (ids,) = trained.encode([text])
    assert not {trained.eos_id, trained.pad_id} & set(ids)
    assert trained.decode([ids]) == [text]


def test_a_gpt2_caption_ends_at_the_token_that_also_begins_and_pads(gpt2_files, tmp_path):
    tokenizer = saved(make_tokenizer("gpt2", vocab=gpt2_files[0], merges=gpt2_files[1]), tmp_path)
    end = tokenizer.eos_id
    assert tokenizer.bos_id == end == tokenizer.pad_id == 262
    (dog,) = tokenizer.encode(["a dog"])
    assert tokenizer.decode([[end, *dog, end, end], [*dog, end], [end, end]]) == ["a dog", "a dog", ""]


# ---- gpt2
def test_gpt2_from_its_two_files(gpt2_files, tmp_path):
    vocab, merges, tokens = gpt2_files
    tokenizer = saved(make_tokenizer("gpt2", vocab=vocab, merges=merges), tmp_path)
    assert tokenizer.vocab_size == len(tokens)
    (ids,) = tokenizer.encode(["a red dog"])
    assert [tokens[i] for i in ids] == ["a", "Ġ", "red", "Ġdog"]
    assert tokenizer.decode(tokenizer.encode(["A Dog, naïve"])) == ["A Dog, naïve"]


@pytest.mark.real
def test_gpt2_is_transformers_own(real_data, tmp_path):
    vocab, merges = (str(real_data / "tokenizers" / n) for n in ("gpt2_encoder.json", "gpt2_vocab.bpe"))
    from transformers import GPT2Tokenizer

    ours = saved(make_tokenizer("gpt2", vocab=vocab, merges=merges), tmp_path)
    theirs = GPT2Tokenizer(vocab=vocab, merges=merges)
    assert ours.vocab_size == 50257 and ours.eos_id == 50256
    texts = ["A man's dog isn't here, 12 café — naïve", " two  blanks", "日本"]
    assert ours.encode(texts) == [theirs(t, add_special_tokens=False)["input_ids"] for t in texts]


@pytest.mark.parametrize("given", [{"vocab": "x"}, {"merges": "x"}])
def test_gpt2_needs_both_files(given):
    with pytest.raises(UserError, match=r"vocab.*merges"):
        make_tokenizer("gpt2", **given)


def test_gpt2_files_that_are_not_there_are_named(tmp_path, gpt2_files):
    with pytest.raises(FileNotFoundError, match=r"nothing\.bpe"):
        make_tokenizer("gpt2", vocab=gpt2_files[0], merges=str(tmp_path / "nothing.bpe"))
    with pytest.raises(FileNotFoundError, match=r"encoder\.json"):
        make_tokenizer("gpt2", name=str(tmp_path / "no_such_folder"))


# ---- clip
def test_clip_has_open_clips_ids(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    ours, theirs = saved(make_tokenizer("clip"), tmp_path), open_clip.tokenizer.SimpleTokenizer()
    texts = [
        "A man's dog isn't HERE!!",
        "two  people…\tat 12:30pm, 100% café — naïve",
        "they'RE it’s “quoted” a_b c-d (1990's)",
        "日本語 ❄ 2nd",
        "",
    ]
    assert ours.encode(texts) == [theirs.encode(t) for t in texts]
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (49406, 49407, 49407)
    assert ours.vocab_size == theirs.vocab_size
    assert ours.decode(ours.encode(["A red dog on the beach"])) == ["a red dog on the beach"]


# ---- file
def test_a_file_is_taken_as_it_is_but_cuts_and_pads_no_captions(trained, tmp_path):
    tokenizer = make_tokenizer("file", path=str(trained.path))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    again = saved(tokenizer, tmp_path)
    assert again.encode(CAPTIONS) == trained.encode(CAPTIONS) and again.decode(again.encode(CAPTIONS)) == CAPTIONS


# ---- refusals
def test_what_is_no_tokenizer_is_named(tmp_path):
    import tokenizers

    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        CaptionTokenizer(tmp_path / "none.json")
    (tmp_path / "t.json").write_text('{"a": 1}')
    for make in (CaptionTokenizer, lambda p: make_tokenizer("file", path=str(p))):
        with pytest.raises(UserError, match=r"t\.json"):
            make(tmp_path / "t.json")
    tokenizers.Tokenizer(tokenizers.models.BPE({"dog": 0}, [], unk_token="dog")).save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="<bos>"):
        CaptionTokenizer(tmp_path / "t.json")


def changed(trained, change):
    """A copy of a trained tokenizer's file, with ``change`` made to its JSON."""
    content = json.loads(trained.path.read_text(encoding="utf-8"))
    change(content)
    path = trained.path.with_name("changed.json")
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def replacing(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def doubling(kind, steps):
    return {"type": "Sequence", kind: [replacing({"String": " "}, "  ")] * steps}


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": doubling("normalizers", 34)},
        {"normalizer": {"type": "Sequence", "other": [], **doubling("normalizers", 1)}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 2}},
        {"normalizer": replacing({"Regex": r"(([a-z ])+.)+[A-Z]([a-z])+$"}, "x")},
        {"normalizer": replacing({"Regex": r"\s+"}, "x" * 2000)},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "use_regex": False}] * 8}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": True}},
        {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, replacing({"String": "a"}, "aa")]}},
        {"decoder": {"type": "Strip", "content": "a", "start": 1 << 40, "stop": 1 << 40}},
        {"decoder": ["ByteLevel"]},
        {"added_tokens": [{"id": 0, "content": "a" * 10_000}]},
        {"added_tokens": [{"id": n, "content": f"<{n}>"} for n in range(2000)]},
        {"added_tokens": "<eos>"},
        {"model": None},
    ],
    ids=lambda changes: f"{next(iter(changes))}: {str(next(iter(changes.values())))[:50]}",
)
def test_what_could_hang_or_fill_the_memory_is_refused(trained, changes):
    with pytest.raises(UserError, match=r"changed\.json"):
        CaptionTokenizer(changed(trained, lambda content: content.update(changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "WordLevel", "unk_token": "zz"},
        {"dropout": 1.0},
        {"end_of_word_suffix": "x" * 100},
        {"continuing_subword_prefix": "x" * 100},
        {"vocab": ["a"]},
        {"vocab": {"x" * 10_000: 0}},
        {"merges": [["no such", "token"]]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_models_are_refused(trained, changes):
    with pytest.raises(UserError, match=r"changed\.json"):
        CaptionTokenizer(changed(trained, lambda content: content["model"].update(changes)))


@pytest.mark.parametrize("id_", [-1, 1, 300_000, 4_294_967_295, 1 << 70, 1.5])
def test_ids_have_no_gap(trained, id_):
    def change(content):
        content["model"]["vocab"]["z"] = id_
        content["model"]["merges"] = []

    with pytest.raises(UserError, match=r"changed\.json"):
        CaptionTokenizer(changed(trained, change))


PADDING = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}


@pytest.mark.parametrize(
    "changes",
    [
        {"padding": {"strategy": {"Fixed": 10**18}, "pad_to_multiple_of": None, **PADDING}},
        {"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 10**11, **PADDING}},
        {"truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 3,
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_padding_and_the_like_are_ignored(trained, changes):
    path = changed(trained, lambda content: content.update(changes))
    again = CaptionTokenizer(path)
    assert again.encode(CAPTIONS) == trained.encode(CAPTIONS) and again.decode(again.encode(CAPTIONS)) == CAPTIONS
    assert again.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_fault_in_use_is_the_files(trained):
    def change(content):  # no token for 'q', and none for what is unknown
        vocab = content["model"]["vocab"]
        vocab["qq"] = vocab.pop("q")
        content["model"].update(unk_token="none", merges=[])

    tokenizer = CaptionTokenizer(changed(trained, change))
    with pytest.raises(UserError, match=r"changed\.json"):
        tokenizer.encode(["a quiet dog"])


@pytest.mark.parametrize("kind", ["train", "gpt2", "clip"])
def test_ids_and_texts_are_the_librarys(kind, gpt2_files, tmp_path):
    options = {"gpt2": {"vocab": gpt2_files[0], "merges": gpt2_files[1]}}.get(kind, {})
    made = make_tokenizer(kind, CAPTIONS, **options)
    again = saved(made, tmp_path)
    texts = [*CAPTIONS, "A Dog’s  “day”: 12 cafés, naïve\tand 日本 ❄"]
    ids = [made.encode(text, add_special_tokens=False).ids for text in texts]
    assert again.encode(texts) == ids
    assert again.decode(ids) == [" ".join(made.decode(row).split()) for row in ids]
    assert again.vocab_size == made.get_vocab_size()


@pytest.mark.parametrize("kind", ["CLIPTokenizer", "GPT2Tokenizer"])
def test_files_of_transformers_are_taken(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    vocab = {token: n for n, token in enumerate([*"ab", "a</w>", "b</w>", "<|startoftext|>", "<|endoftext|>"])}
    theirs = getattr(transformers, kind)(vocab=vocab, merges=[])
    assert saved(theirs.backend_tokenizer, tmp_path).vocab_size == len(vocab)


@pytest.mark.parametrize(
    "kind, options, told",
    [
        ("bert", {}, "'bert'.*train, gpt2, clip, file"),
        ("train", {"vocabulary": 5}, "'train'.*vocabulary"),
        ("file", {}, "'file'.*path"),
    ],
)
def test_unknown_kinds_and_options_are_named(kind, options, told):
    with pytest.raises(UserError, match=told):
        make_tokenizer(kind, CAPTIONS, **options)


# ---- identity
def test_it_is_known_by_its_files_hash_and_pickles_by_path(trained):
    assert trained.sha256 == hashlib.sha256(trained.path.read_bytes()).hexdigest()
    again = pickle.loads(pickle.dumps(trained))
    assert again.sha256 == trained.sha256 and again.encode(CAPTIONS) == trained.encode(CAPTIONS)
