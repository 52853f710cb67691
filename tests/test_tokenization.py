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
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"dog": 0}, unk_token="dog")).save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="<bos>"):
        CaptionTokenizer(tmp_path / "t.json")


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
