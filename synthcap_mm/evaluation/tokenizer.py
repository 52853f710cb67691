"""The Penn Treebank tokenisation of the COCO caption evaluation, in Python.

The COCO evaluation runs Stanford's ``PTBTokenizer`` (CoreNLP 3.4.1, Java) with
``-preserveLines -lowerCase`` and drops punctuation tokens. This module answers
the same for captions, without Java. Like the original it is a longest-match
scanner: at each position every rule is tried, the longest match wins, the
earlier rule at a tie. The rules and the abbreviations were found by running
the original on texts (see benchmarks/tokenizer_parity.py, tests/test_evaluation/test_tokenizer.py
and docs/metrics.md, which has the rate of captions that differ).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from synthcap_mm.evaluation.ptb_characters import HYPHENS, LETTERS, SYMBOLS

#: What the metrics count: words in the Penn Treebank manner, or characters.
Tokenize = Literal["ptb", "char"]
#: Tokens that the COCO evaluation drops. The brackets stay in, as its list names
#: them in upper case (``-LRB-``) and the tokens are in lower case by then.
PUNCTUATIONS = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Abbreviations that keep their period, found by running the original on every
# word of up to four letters and on a list of longer ones. In any case:
_ABBREVIATIONS = """
    cf dr ft lt mr ms mt ph st vs wm adj adm adv ave cie col cpl det drs ens gen gov hon jos maj mfg mme mrs mtg
    pfc pvt rep rev sen sfc sgt spc ste alex asst atty brig capt cmdr dept elec govs insp invt mlle msgr natl
    pres prof reps sens supt lieut messrs attys supts assoc comdr profs
"""
_ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
# These may end a sentence, so the original looks at the character behind them, too, and their match is longer by it:
_FINAL_ABBREVIATIONS = """
    al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext
    feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla
    penn plc ppte ppty pte ptes pty ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed
    wis wisc wyo
"""
_FINAL_ABBREVIATIONS = frozenset(_FINAL_ABBREVIATIONS.split())
# Not in lower case, where they are words:
_NAME_ABBREVIATIONS = frozenset(("az", "la", "pa", "ark", "del", "ill", "ore", "tex", "mass", "miss", "wash"))
# Before a number or a colon only:
_NUMBER_ABBREVIATIONS = frozenset(("ca", "no", "op", "pp", "art", "nos", "fig", "figs", "prop"))
# A single letter keeps its period, but not before a word that often starts a sentence:
_SENTENCE_STARTS = """
    A The An There This One Some Many These In We It At While He They Here That You What As Their She When After
    Her About Other Our But So Yet If Since Last Then Now However More Once Such According Additionally
"""
_SENTENCE_STARTS = frozenset(_SENTENCE_STARTS.split())

_SPLIT = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
    "wanna": ("wan", "na"),
}

_NAMED = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "¢": "cents",
    "£": "#",
    "€": "$",
    "…": "...",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": "''",
    "&apos;": "'",
    "&ndash;": "--",
    "&mdash;": "--",
    "½": "1/2",
    "¼": "1/4",
    "¾": "3/4",
    "⅓": "1/3",
    "⅔": "2/3",
    '"': "''",
    **dict.fromkeys("–—―\x96\x97", "--"),
    **dict.fromkeys("\x80¤₠", "$"),
}
_SIGNS = frozenset(_NAMED.values())

_QUOTES = dict.fromkeys("“«\x93", "``") | dict.fromkeys("”»\x94", "''")
_QUOTES |= dict.fromkeys("`‘‹‛\x91", "`") | dict.fromkeys("’›\x92", "'")

_ENTITY = r"&[aeiouAEIOU](?:acute|grave|uml);"  # the original leaves these unchanged within words
_LETTER = rf"(?:(?!\d)[A-Za-z{LETTERS}]|{_ENTITY})"
_ALNUM = rf"(?:[A-Za-z0-9{LETTERS}]|{_ENTITY})"
_APOS = "['’]"
_NUM = r"(?:\d*(?:[.,:]\d+)+|\d+)"
_ACRO = r"[A-Za-z](?:\.[A-Za-z])+"
_PART = rf"(?:[dDoOlL]{_APOS}(?={_LETTER}{{2}}))?{_ALNUM}+"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_URL_PART = r"[^ \t\"`'<>|.!?(){},\-_$:/=\^\[\]\\;@]+"


def _lower(text: str) -> list[str]:
    token = text.lower().replace("\u00ad", "")
    return [token] if token else []


def _one_token(text: str) -> list[str]:
    # the original joins such tokens by no-break spaces
    return [text.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-").lower()]


def _named(text: str) -> list[str]:
    return [_NAMED.get(text) or text.lower()]


def _split(text: str) -> list[str]:
    return list(_SPLIT[text.lower()])


def _nothing(text: str) -> list[str]:
    return []


def _same(text: str) -> list[str]:
    return [text]


def _dashes(text: str) -> list[str]:
    return ["--" if 2 <= len(text) <= 4 else text]


# Group 1, if there is one, is the token; what follows it counts for the length
# of the match, but is read again.
_RULES: list[tuple[re.Pattern[str], Callable[[str], list[str]]]] = [
    (re.compile(pattern), action)
    for pattern, action in [
        (r"(?i:cannot|gonna|gotta|lemme|gimme|wanna)", _split),
        (r"(?i:('t)(?:is|was))", _lower),
        # a word before n't: the word ends before the n
        (r"([A-Za-z]*[A-MO-Za-mo-z])[nN]['’‘`][tT]", _lower),
        (r"[nN]['’‘`][tT](?![A-Za-z])", lambda text: [text.lower().replace("’", "'").replace("‘", "`")]),
        (rf"({_LETTER}{_ALNUM}*){_APOS}(?i:[msd]|re|ve|ll)", _lower),
        # the curly one is cut off with these letters even where a word follows
        (r"'(?i:[msd]|re|ve|ll)(?![A-Za-z])|’(?i:[msd]|re|ve|ll)", lambda text: [text.lower().replace("’", "'")]),
        (r"(?i:https?)://[^ \t\"<>|()]+[^ \t\"<>|.!?(){},\-]", _lower),
        (
            rf"(?:www\.(?:{_URL_PART}\.)+[a-zA-Z]{{2,4}}|(?:{_URL_PART}\.)+(?:com|net|org|edu))"
            r"(?:/[^ \t\"<>|()]*[^ \t\"<>|.!?(){},\-])?",
            _lower,
        ),
        (r"[a-zA-Z0-9][^ \t\"<>|()]*@[^ \t\"<>|(){}.]+(?:\.[^ \t\"<>|(){}.]+)*", _lower),
        (rf"@[A-Za-z_][A-Za-z_0-9]*|#{_LETTER}+", _lower),
        (r"</?[A-Za-z!?][^<>]*>", _one_token),
        # numbers
        (r"(?:\d{1,4}[- \u00a0])?\d{1,4}\\?/\d{1,4}", _one_token),
        (rf"[-+]?{_NUM}", _lower),
        # telephone numbers
        (
            r"(?:\(\d{2,3}\)[ \u00a0]?|\+{0,2}(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])\d{3,4}[- \u00a0]?\d{3,5}|"
            r"\+{0,2}(?:\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}",
            _one_token,
        ),
        (r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}", _lower),
        # words with apostrophes
        (
            rf"{_APOS}n{_APOS}|'n(?=\s|$)|’[nN]|[oO]l{_APOS}|{_APOS}em|{_APOS}[2-9]0s|{_APOS}\d\d(?=\s|$)|"
            rf"{_APOS}till?|{_APOS}[cC]ause|[A-HJ-XZn]{_APOS}{_LETTER}{{2,}}|[lLdDjJ]{_APOS}|[yY]{_APOS}(?=[A-Za-z])|"
            rf"{_LETTER}+[aeiouyAEIOUY]{_APOS}[aeiouA-Z]{_LETTER}*|"
            rf"(?i:cont{_APOS}d|nor{_APOS}easter|c{_APOS}mon|e{_APOS}er|s{_APOS}mores|ev{_APOS}ry|li{_APOS}l|nat{_APOS}l)",
            _lower,
        ),
        # words, joined by hyphens, slashes, periods
        (rf"{_PART}(?:[-_{HYPHENS}]{_PART})*", _lower),
        # a period before a comma, colon or semicolon ends no sentence, so it is an abbreviation's
        (rf"({_PART}(?:[-_{HYPHENS}]{_PART})*\.)[,;:、]", _lower),
        (rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}", _lower),
        (rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_ACRO}\.|[A-Za-z0-9\u00ad]+))+", _lower),
        (r"[A-Z]+(?:(?:&amp;|[+&])[A-Z]+)+", lambda text: [text.lower().replace("&amp;", "&")]),
        (r"[cC]\+\+|[cCfF]#|[A-Z]*\$", _lower),
        (rf"(?:{_ACRO}|(?:Ed|Ph)\.D)\.?", _lower),
        (rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)+", _lower),
        # the rest
        (
            r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])(?![A-Za-z0-9])",
            lambda text: [text.replace("(", "-lrb-").replace(")", "-rrb-").lower()],
        ),
        (r"[\^=~<>']_[\^=~<>']", _same),
        (r"-{2,}", _dashes),
        (r"\.{3,}", lambda text: ["..."]),
        (r"[?!]+|\*+|_+|#+|@+|<<|>>|\\\*", _same),
        (r"''", _same),
        (rf"[{''.join(_QUOTES)}]{{1,2}}", lambda text: ["".join(map(_QUOTES.__getitem__, text))]),
        (r"(?i:&amp;)|&(?:lt|gt|quot|apos|[nm]dash);", lambda text: [_NAMED[text.lower()]]),
        (r"&#\d+;|&apos;n&apos;", _same),
        (rf"&nbsp;|[{HYPHENS}]", _nothing),
        (r"\S", _named),
    ]
]
_ABBREVIATION = re.compile(r"([A-Za-z]+)\.")
_NUMBER_AHEAD = re.compile(r"\s*\d|:")
_START_AHEAD = re.compile(r"\s+(?:</?[A-Za-z!?][^<>]*>\s|M[rs]\.)")
_NEXT_WORD = re.compile(r"\s+([A-Za-z]+)(?=\s|$)")
_BLANK = re.compile(r"\s+")
# A caption of words of ASCII letters with blanks or commas between them, and a full stop.
_PLAIN = re.compile(r"(?:[A-Za-z]+,? +)*([A-Za-z]+)(\.?) *")
_SIMPLE = re.compile(r"([A-Za-z]{2,})([.,]?)(?=[ \t\n]|$)")
# Characters that the original does not know: all beyond Unicode's basic plane, and most that were added later.
_UNKNOWN = re.compile(rf"[^\x20-\x7e\u00a0{LETTERS}{SYMBOLS}{HYPHENS}]+")


def _abbreviation(text: str, start: int) -> str | None:
    """The abbreviation at ``start``, with its period."""
    match = _ABBREVIATION.match(text, start)
    if match is None:
        return None
    word, end = match.group(1), match.end()
    if len(word) == 1:
        if not text[end:].strip():
            # The original looks into the next line. It mostly begins like this caption: with a capital, and then
            # with a word that starts sentences.
            return None if text.lstrip()[:1].isupper() else match.group()
        after = _NEXT_WORD.match(text, end)
        starts = _START_AHEAD.match(text, end) or (after and after.group(1) in _SENTENCE_STARTS)
        return None if starts else match.group()
    folded = word.lower() if word in (word.lower(), word.upper(), word.title()) else word
    known = folded in _ABBREVIATIONS or folded in _FINAL_ABBREVIATIONS
    name = folded in _NAME_ABBREVIATIONS and word != folded
    numbered = folded in _NUMBER_ABBREVIATIONS and _NUMBER_AHEAD.match(text, end)
    return match.group() if known or name or numbered else None


def _scan(text: str, start: int) -> tuple[list[str], int]:
    """Tokens of the longest match at ``start``, and where to go on."""
    abbreviation = _abbreviation(text, start)
    length = len(abbreviation or "")
    if length > 2 and (abbreviation[:-1].lower() in _FINAL_ABBREVIATIONS or not text[start + length :][:1].isalpha()):
        length += 1
    best: tuple[str, Callable[[str], list[str]]] = (abbreviation or "", _lower)
    for pattern, action in _RULES:
        match = pattern.match(text, start)
        if match is not None and match.end() - start > length:
            length = match.end() - start
            best = (match.group(match.lastindex or 0), action)
    token, action = best
    return action(token), start + len(token)


def _tokens(caption: str) -> Iterator[str]:
    plain = _PLAIN.fullmatch(caption)
    if plain is not None and not (plain.group(2) and _abbreviation(caption, plain.start(1))):
        words = caption.lower().replace(",", " ").rstrip(". ").split()
        if _SPLIT.keys().isdisjoint(words):
            yield from words
            return
    text = caption if caption.isascii() and caption.isprintable() else _UNKNOWN.sub(" ", caption)
    position, end = 0, len(text)
    while position < end:
        blank = _BLANK.match(text, position)
        if blank is not None:
            position = blank.end()
            continue
        simple = _SIMPLE.match(text, position)  # most words: no rule can match more
        if simple is not None:
            word = simple.group(1).lower()
            if word not in _SPLIT and not (simple.group(2) == "." and _abbreviation(text, position)):
                yield word
                position = simple.end()
                continue
        found, position = _scan(text, position)
        yield from (token for token in found if token not in PUNCTUATIONS)


def ptb_tokenize(caption: str) -> list[str]:
    """Tokens of a caption, as the COCO evaluation sees them.

    Lower case, split in the Penn Treebank manner, without punctuation.

    Args:
        caption (str): a sentence; line breaks are taken for blanks.

    Returns:
        list[str]: the tokens; empty for a caption of punctuation only.
    """
    return list(_tokens(caption))


def char_tokenize(caption: str) -> list[str]:
    """The characters of a caption, for scripts that put no blanks between words.

    Args:
        caption (str): a sentence.

    Returns:
        list[str]: the characters of :func:`ptb_tokenize`'s tokens, so lower case and without punctuation. They are
        code points: vowels and tones that Thai writes above a letter are characters of their own. A bracket or another
        sign that a token has a name for (``-lrb-``) is one.
    """
    parts = ([token] if token in _SIGNS else token for token in ptb_tokenize(caption))
    return [part for of_token in parts for part in of_token if part.strip()]


def has_words(caption: str) -> bool:
    """Whether a caption has any token; ``'.'`` and an emoji have none, and no score can be computed with them."""
    return next(_tokens(caption), None) is not None
