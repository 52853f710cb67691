"""The decoder's tokenizer: one ``tokenizer.json``, whatever it was made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from synthcap_mm.errors import UserError
from synthcap_mm.files import parse_json
from synthcap_mm.options import Count, Name, Range, check_options
from synthcap_mm.requirements import require

#: (begin, end, padding) in the order in which they are looked for: ours, CLIP's, GPT-2's.
_SPECIAL_TOKENS = (
    ("<bos>", "<eos>", "<pad>"),
    ("<|startoftext|>", "<|endoftext|>", "<|endoftext|>"),
    ("<start_of_text>", "<end_of_text>", "<end_of_text>"),
    ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
)


#: The regular expressions of CLIP's tokenizer.
_SINGLE_QUOTES, _DOUBLE_QUOTES, _BLANKS = "[\u2018\u2019]", "[\u201c\u201d]", r"\s+"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_END_OF_WORD = "</w>"

#: Most characters of a token; GPT-2's longest has 128.
_LONGEST_TOKEN = 1000
#: Most added tokens; ordinary files have three at most.
_MOST_ADDED = 1000


def _replace(kind: str, pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed"}


#: The steps that a tokenizer.json may have, each once, apart from their switches. What else there is (other
#: regular expressions, replacements that double a text, padding) can take years, or all memory.
_STEPS = {
    "normalizer": [
        {"type": "NFC"},
        {"type": "Lowercase"},
        _replace("Regex", _SINGLE_QUOTES, "'"),
        _replace("Regex", _DOUBLE_QUOTES, '"'),
        _replace("Regex", _BLANKS, " "),
    ],
    "pre_tokenizer": [
        {"type": "ByteLevel"},
        _split(_WORDS),
        _split(rf"<\|startoftext\|>|<\|endoftext\|>|{_WORDS}"),  # as transformers has CLIP's
    ],
    "decoder": [{"type": "ByteLevel"}, _replace("String", _END_OF_WORD, " ")],
}
#: The field with the steps of a sequence.
_SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
#: Values of the model's fields besides the vocabulary and the switches.
_MODEL = {
    "type": ("BPE",),
    "dropout": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, "", _END_OF_WORD),
}


def _check_steps(path: Path, name: str, given: Any) -> None:
    several = isinstance(given, dict) and given.get("type") == "Sequence"
    steps = given.get(_SEQUENCES[name]) if several else [] if given is None else [given]
    if not isinstance(steps, list) or (several and len(given) > 2):
        raise UserError(f"{path}: the {name} is no list of steps")
    left = list(_STEPS[name])
    for step in steps:
        fixed = {k: v for k, v in step.items() if not isinstance(v, bool)} if isinstance(step, dict) else step
        if fixed not in left:
            raise UserError(f"{path}: the {name} has a step that is neither GPT-2's nor CLIP's: {str(step)[:200]}")
        left.remove(fixed)


def _check_model(path: Path, model: Any) -> None:
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise UserError(f"{path}: the model is no BPE with a vocabulary")
    for name, known in _MODEL.items():
        if model.get(name, known[0]) not in known:
            raise UserError(f"{path}: the model's {name} is {str(model[name])[:80]!r}; taken are {known}")


def _checked(path: Path, data: Any) -> dict[str, Any]:
    """What of a tokenizer.json decides about ids and texts; the rest (padding, truncation, …) is not for captions."""
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a tokenizer.json of the tokenizers library")
    _check_model(path, data.get("model"))
    for name in _STEPS:
        _check_steps(path, name, data.get(name))
    added = data.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > _MOST_ADDED:
        raise UserError(f"{path}: added_tokens is no list of at most {_MOST_ADDED}")
    texts = [*data["model"]["vocab"], *(str(one.get("content")) for one in added if isinstance(one, dict))]
    if max(map(len, texts), default=0) > _LONGEST_TOKEN:
        raise UserError(f"{path} has a token of more than {_LONGEST_TOKEN} characters")
    kept = {name: data.get(name) for name in _STEPS}
    return {"version": "1.0", "added_tokens": added, "model": {"type": "BPE", **data["model"]}, **kept}


@contextlib.contextmanager
def _library(path: Path) -> Iterator[None]:
    """Names the file where the tokenizers library fails: it raises bare Exceptions, and lets Rust panic."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{path} is not a tokenizer.json of the tokenizers library: {error}") from error


class CaptionTokenizer:
    """Captions to token ids and back.

    A hostile file can neither run anything nor hang nor fill the memory: what it says of padding, truncation and
    post-processing is ignored, and a tokenizer of another kind than GPT-2's and CLIP's is refused.

    Args:
        path: a ``tokenizer.json`` of the ``tokenizers`` library: a BPE with steps as GPT-2's, CLIP's and
            :func:`make_tokenizer`'s have, and the special tokens of this project (``<bos> <eos> <pad>``), of CLIP
            or of GPT-2. Its ids are 0 to ``vocab_size - 1`` without a gap.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is no such tokenizer, or knows none of those special tokens.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"no tokenizer at {self.path}; it is made with the store: python tools/synthesize.py CONFIG"
            )
        content = self.path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        checked = json.dumps(_checked(self.path, parse_json(self.path, content)))
        with _library(self.path):
            self._tokenizer = require("tokenizers").Tokenizer.from_str(checked)
            self._tokenizer.decode(self._tokenizer.encode("a word").ids)  # some damage shows in use only
            ids = sorted(self._tokenizer.get_vocab(with_added_tokens=True).values())
        if ids != list(range(self.vocab_size)):
            raise UserError(f"{self.path}: the ids of its {len(ids)} tokens are not 0 to {len(ids) - 1}")
        # '<eos>' written in a caption is text, not the end of it.
        self._tokenizer.encode_special_tokens = True
        for names in _SPECIAL_TOKENS:
            ids = [self._tokenizer.token_to_id(name) for name in names]
            if None not in ids:
                self.bos_id, self.eos_id, self.pad_id = ids
                break
        else:
            raise UserError(
                f"{self.path} knows none of the special tokens {[n[:2] for n in _SPECIAL_TOKENS]}; "
                "a decoder needs a begin and an end token"
            )

    def __reduce__(self) -> tuple:
        return type(self), (self.path,)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        with _library(self.path):
            return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Texts; everything from the end token on, and special tokens, are left out."""
        rows = []
        for row in ids:
            row = [int(i) for i in row]
            if row and row[0] == self.bos_id:
                row = row[1:]
            if self.eos_id in row:
                row = row[: row.index(self.eos_id)]
            rows.append([i for i in row if i not in (self.bos_id, self.pad_id)])
        with _library(self.path):
            return [" ".join(t.split()) for t in self._tokenizer.decode_batch(rows, skip_special_tokens=True)]


def _train(
    captions: Iterable[str],
    vocab_size: Annotated[int, Range("[1, 1e7]")] = 8192,
    lowercase: bool = True,
    min_frequency: Count = 2,
) -> Any:
    tokenizers = require("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    steps = [tokenizers.normalizers.NFC()] + ([tokenizers.normalizers.Lowercase()] if lowercase else [])
    tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def _gpt2(name: Name = "gpt2", vocab: Name | None = None, merges: Name | None = None) -> Any:
    tokenizers = require("tokenizers")
    if (vocab is None) != (merges is None):
        raise UserError("a GPT-2 tokenizer from files needs both 'vocab' (encoder.json) and 'merges' (vocab.bpe)")
    if vocab is None:
        try:
            return require("transformers").AutoTokenizer.from_pretrained(name, use_fast=True).backend_tokenizer
        except OSError as error:
            raise FileNotFoundError(
                f"cannot load the tokenizer {name!r}: {error}. Without a network give the files: "
                "tokenizer=dict(kind='gpt2', vocab='encoder.json', merges='vocab.bpe')"
            ) from error
    for path in (vocab, merges):
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path} (the GPT-2 vocabulary: encoder.json and vocab.bpe)")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def _clip(bpe_path: Name | None = None) -> Any:
    """CLIP's lower-casing BPE, from the vocabulary that open_clip ships (or another merges file).

    The ids are open_clip's for ordinary text; HTML entities and ligatures, which
    open_clip unfolds first, are taken as they stand. Decoding leaves CLIP's blanks
    between words, punctuation and digits.
    """
    tokenizers = require("tokenizers")
    open_clip_tokenizer = require("open_clip.tokenizer")
    source = open_clip_tokenizer.SimpleTokenizer(**({"bpe_path": bpe_path} if bpe_path else {}))
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=dict(source.encoder), merges=merges, end_of_word_suffix=_END_OF_WORD)
    )
    normalizers, pre = tokenizers.normalizers, tokenizers.pre_tokenizers
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            # open_clip's text cleaning (ftfy) straightens quotes
            normalizers.Replace(tokenizers.Regex(_SINGLE_QUOTES), "'"),
            normalizers.Replace(tokenizers.Regex(_DOUBLE_QUOTES), '"'),
            normalizers.Replace(tokenizers.Regex(_BLANKS), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(tokenizers.Regex(_WORDS), behavior="removed", invert=True),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteLevel(), tokenizers.decoders.Replace(_END_OF_WORD, " ")]
    )
    tokenizer.add_special_tokens([source.decoder[i] for i in source.all_special_ids])
    return tokenizer


def _file(path: Name) -> Any:
    return CaptionTokenizer(path)._tokenizer


TOKENIZERS = {"train": _train, "gpt2": _gpt2, "clip": _clip, "file": _file}


def make_tokenizer(kind: str, captions: Iterable[str] | None = None, **options: Any) -> Any:
    """A tokenizer of the ``tokenizers`` library, to be saved beside a store.

    Args:
        kind: ``'train'`` (byte-level BPE trained on ``captions``; options
            ``vocab_size=8192, lowercase=True, min_frequency=2``, all assumed),
            ``'gpt2'`` (options ``name='gpt2'``, or the files ``vocab`` and ``merges``),
            ``'clip'`` (option ``bpe_path=None``: open_clip's own vocabulary) or
            ``'file'`` (option ``path``: a file that :class:`CaptionTokenizer` takes).
        captions: texts to train on, for ``'train'``.
        **options: of the kind.

    Raises:
        UserError: for an unknown kind or option, or a value that it does not take.
    """
    if kind not in TOKENIZERS:
        raise UserError(f"unknown tokenizer kind {kind!r}; known are {', '.join(TOKENIZERS)}")
    if kind == "train":
        options = {"captions": captions or (), **options}
    check_options(f"tokenizer (kind {kind!r})", TOKENIZERS[kind], (), options)
    return TOKENIZERS[kind](**options)
