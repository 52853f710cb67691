"""The decoder's tokenizer: one ``tokenizer.json``, whatever it was made from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from synthcap_mm.errors import UserError
from synthcap_mm.files import read_json
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


def check_patterns(path: Path) -> None:
    """Refuse a tokenizer with regular expressions of its own, since a hostile one can take years.

    Args:
        path: its ``tokenizer.json``.

    Raises:
        UserError: naming the expression.
    """
    known, left = {_SINGLE_QUOTES, _DOUBLE_QUOTES, _BLANKS, _WORDS}, [read_json(path)]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "Regex" in value and value["Regex"] not in known:
                raise UserError(f"{path} has a regular expression that is not CLIP's: {str(value['Regex'])[:80]!r}")
            left += value.values()
        elif isinstance(value, list):
            left += [one for one in value if isinstance(one, (dict, list))]


class CaptionTokenizer:
    """Captions to token ids and back.

    Args:
        path: a ``tokenizer.json`` of the ``tokenizers`` library, with the special
            tokens of this project (``<bos> <eos> <pad>``), of CLIP or of GPT-2.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is no tokenizer, or knows none of those special tokens.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"no tokenizer at {self.path}; it is made with the store: python tools/synthesize.py CONFIG"
            )
        try:
            self._tokenizer = require("tokenizers").Tokenizer.from_file(str(self.path))
            self._tokenizer.decode(self._tokenizer.encode("a word").ids)  # some damage shows in use only
        except BaseException as error:  # the library raises bare Exception, and lets Rust panic
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise UserError(f"{self.path} is not a tokenizer.json of the tokenizers library: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # '<eos>' written in a caption is text, not the end of it.
        self._tokenizer.encode_special_tokens = True
        self.sha256 = hashlib.sha256(self.path.read_bytes()).hexdigest()
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
        tokenizers.models.BPE(vocab=dict(source.encoder), merges=merges, end_of_word_suffix="</w>")
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
        [tokenizers.decoders.ByteLevel(), tokenizers.decoders.Replace("</w>", " ")]
    )
    tokenizer.add_special_tokens([source.decoder[i] for i in source.all_special_ids])
    return tokenizer


def _file(path: Name) -> Any:
    CaptionTokenizer(path)  # refuses what is none, with its message
    return require("tokenizers").Tokenizer.from_file(str(path))


TOKENIZERS = {"train": _train, "gpt2": _gpt2, "clip": _clip, "file": _file}


def make_tokenizer(kind: str, captions: Iterable[str] | None = None, **options: Any) -> Any:
    """A tokenizer of the ``tokenizers`` library, to be saved beside a store.

    Args:
        kind: ``'train'`` (byte-level BPE trained on ``captions``; options
            ``vocab_size=8192, lowercase=True, min_frequency=2``, all assumed),
            ``'gpt2'`` (options ``name='gpt2'``, or the files ``vocab`` and ``merges``),
            ``'clip'`` (option ``bpe_path=None``: open_clip's own vocabulary) or
            ``'file'`` (option ``path``).
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
