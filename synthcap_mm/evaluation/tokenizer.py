"""The Penn Treebank tokenisation of the COCO caption evaluation, in Python.

The COCO evaluation runs Stanford's ``PTBTokenizer`` (CoreNLP 3.4.1, Java) with
``-preserveLines -lowerCase`` and drops punctuation tokens. This module answers
the same for captions, without Java. Like the original it is a longest-match
scanner: at each position every rule is tried, the longest match wins, the
earlier rule at a tie. The rules and the abbreviations were found by running
the original on texts (see tests/test_evaluation/test_tokenizer.py); rules for
text that captions hardly hold (most telephone numbers, most HTML entities) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

#: Tokens that the COCO evaluation drops. The brackets stay in, as its list names
#: them in upper case (``-LRB-``) and the tokens are in lower case by then.
PUNCTUATIONS = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Abbreviations that keep their period, found by running the original on every
# word of up to four letters and on a list of longer ones. In any case:
_ABBREVIATIONS = """
    al cf co ct dr ft ga jr ky lt md mo mr ms mt ph rd rt sq sr st va vs vt wm adj adm adv ala apr aug ave bhd
    cie col cos cpl dak dec det drs ens esq est etc ext feb fla fri gen gov hon inc ind jan jos jul jun kan ltd
    maj mar mfg mme mon mrs mtg neb nev nov oct pfc plc pte pty pvt rep rev sen sep seq sfc sgt spc ste sys tel
    thu tue wed wis wyo alex ariz assn asst atty bldg blvd brig bros capt cmdr colo conn corp dept elec govs
    insp intl invt kans mich minn mlle mont msgr natl okla penn ppte ppty pres prof ptes ptys reps sens sept
    supt tenn tues univ wisc calif thurs bancorp lieut messrs attys supts assoc comdr profs
"""
_ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
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
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}

_FRACTIONS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_FRACTIONS |= {"⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
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
    **_FRACTIONS,
    **dict.fromkeys('"“”«»', "''"),
    **dict.fromkeys("'`‘’‹›", "'"),
    **dict.fromkeys("–—―", "--"),
}

_LETTER = r"(?:[^\W\d_²³¹¼-¾⅐-⅞]|[\u0300-\u036f\u00ad])"
_ALNUM = rf"(?:{_LETTER}|\d)"
_APOS = "['’]"
_NUM = r"(?:\d*(?:[.,:]\d+)+|\d+)"
_ACRO = r"[A-Za-z](?:\.[A-Za-z])+"
_PART = rf"(?:[dDoOlL]{_APOS}(?={_LETTER}{{2}}))?{_ALNUM}+"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_URL_PART = r"[^ \t\"`'<>|.!?(){},\-_$:/]+"


def _lower(text: str) -> list[str]:
    return [text.lower().replace("\u00ad", "")]


def _one_token(text: str) -> list[str]:
    # the original joins such tokens by no-break spaces
    return [text.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-").lower()]


def _named(text: str) -> list[str]:
    return [_NAMED.get(text, text)]


def _split(text: str) -> list[str]:
    return list(_SPLIT[text.lower().replace("’", "'")])


def _same(text: str) -> list[str]:
    return [text]


def _dashes(text: str) -> list[str]:
    return ["--" if 2 <= len(text) <= 4 else text]


# Group 1, if there is one, is the token; what follows it counts for the length
# of the match, but is read again.
_RULES: list[tuple[re.Pattern[str], Callable[[str], list[str]]]] = [
    (re.compile(pattern), action)
    for pattern, action in [
        (r"(?i:cannot|gonna|gotta|lemme|gimme|wanna|['’]tis|['’]twas)", _split),
        # a word before n't: the word ends before the n
        (r"([A-Za-z]+)[nN]['’‘`][tT]", _lower),
        (r"[nN]['’‘`][tT](?![A-Za-z])", lambda text: [text.lower().replace("’", "'").replace("‘", "`")]),
        (rf"({_LETTER}{_ALNUM}*){_APOS}(?i:[msd]|re|ve|ll)", _lower),
        (rf"{_APOS}(?i:[msd]|re|ve|ll)(?![A-Za-z])", lambda text: [text.lower().replace("’", "'")]),
        (r"https?://[^ \t\"<>|()]+[^ \t\"<>|.!?(){},\-]", _same),
        (
            rf"(?:www\.(?:{_URL_PART}\.)+[a-zA-Z]{{2,4}}|(?:{_URL_PART}\.)+(?:com|net|org|edu))"
            r"(?:/[^ \t\"<>|()]*[^ \t\"<>|.!?(){},\-])?",
            _lower,
        ),
        (r"[a-zA-Z0-9][^ \t\"<>|()]*@[^ \t\"<>|(){}.]+(?:\.[^ \t\"<>|(){}.]+)*", _lower),
        (r"@[A-Za-z_][A-Za-z_0-9]*|#[A-Za-z]+", _lower),
        (r"</?[A-Za-z!?][^<>]*>", _one_token),
        # numbers
        (r"(?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,4}", _one_token),
        (rf"[-+]?{_NUM}", _lower),
        (r"\(\d{2,3}\)[ \u00a0]?\d{3,4}[- \u00a0]?\d{3,5}", _one_token),
        (r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}", _lower),
        # words with apostrophes
        (
            rf"{_APOS}n{_APOS}|{_APOS}n(?=\s|$)|[oO]l{_APOS}|{_APOS}em|{_APOS}[2-9]0s|{_APOS}\d\d(?=\s|$)|"
            rf"{_APOS}till?|{_APOS}[cC]ause|[A-HJ-XZn]{_APOS}{_LETTER}{{2,}}|[lLdDjJ]{_APOS}|[yY]{_APOS}(?=[A-Za-z])|"
            rf"{_LETTER}+[aeiouyAEIOUY]{_APOS}[aeiouA-Z]{_LETTER}*|"
            rf"(?i:cont{_APOS}d|nor{_APOS}easter|c{_APOS}mon|e{_APOS}er|s{_APOS}mores|ev{_APOS}ry|li{_APOS}l|nat{_APOS}l)",
            _lower,
        ),
        # words, joined by hyphens, slashes, periods
        (rf"{_PART}(?:[-_]{_PART})*", _lower),
        (rf"{_SLASHED}(?:/{_SLASHED}){{1,2}}", _lower),
        (rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_ACRO}\.|[A-Za-z0-9\u00ad]+))+", _lower),
        (r"[A-Z]+(?:(?:&amp;|[+&])[A-Z]+)+", lambda text: [text.lower().replace("&amp;", "&")]),
        (r"[cC]\+\+|[cCfF]#|[A-Z]*\$", _lower),
        (rf"(?:{_ACRO}|(?:Ed|Ph)\.D)\.?", _lower),
        (rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)+", _lower),
        # the rest
        (
            r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])(?![A-Za-z0-9])",
            lambda text: [text.replace("(", "-lrb-").replace(")", "-rrb-").replace("{", "-lcb-").lower()],
        ),
        (r"[\^=~<>']_[\^=~<>']", _same),
        (r"-{2,}", _dashes),
        (r"\.{3,}", lambda text: ["..."]),
        (r"[?!]+|\*+|_+|#+|@+|<<|>>", _same),
        (r"&(?:amp|lt|gt|quot);", _named),
        (r"&#\d+;", _same),
        (r"&nbsp;", lambda text: []),
        (r"[^\s\u200b\ufeff]", _named),
    ]
]
_ABBREVIATION = re.compile(r"([A-Za-z]+)\.")
_NUMBER_AHEAD = re.compile(r"\s*\d|:")
_NEXT_WORD = re.compile(r"\s+([A-Za-z]+)(?![A-Za-z0-9'’-])")
_BLANK = re.compile(r"[\s\u200b\ufeff]+")
_SIMPLE = re.compile(r"([A-Za-z]{2,})([.,]?)(?=[ \t\n]|$)")
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")


def _abbreviation(text: str, start: int) -> str | None:
    """The abbreviation at ``start``, with its period."""
    match = _ABBREVIATION.match(text, start)
    if match is None:
        return None
    word, end = match.group(1), match.end()
    if len(word) == 1:
        # At the end of a caption the original looks into the next line. We take
        # its first word to be like this caption's, which it mostly is.
        after = _NEXT_WORD.match(text, end) or (not text[end:].strip() and _NEXT_WORD.match(" " + text))
        return None if after and after.group(1) in _SENTENCE_STARTS else match.group()
    folded = word.lower() if word in (word.lower(), word.upper(), word.title()) else word
    known = folded in _ABBREVIATIONS or (folded in _NAME_ABBREVIATIONS and word != folded)
    numbered = folded in _NUMBER_ABBREVIATIONS and _NUMBER_AHEAD.match(text, end)
    return match.group() if known or numbered else None


def _scan(text: str, start: int) -> tuple[list[str], int]:
    """Tokens of the longest match at ``start``, and where to go on."""
    abbreviation = _abbreviation(text, start)
    length = len(abbreviation or "")
    if length > 2:
        length += 1  # the original looks one character beyond abbreviations of several letters
    best: tuple[str, Callable[[str], list[str]]] = (abbreviation or "", _lower)
    for pattern, action in _RULES:
        match = pattern.match(text, start)
        if match is not None and match.end() - start > length:
            length = match.end() - start
            best = (match.group(match.lastindex or 0), action)
    token, action = best
    return action(token), start + len(token)


def ptb_tokenize(caption: str) -> list[str]:
    """Tokens of a caption, as the COCO evaluation sees them.

    Lower case, split in the Penn Treebank manner, without punctuation.

    Args:
        caption (str): a sentence; line breaks are taken for blanks.

    Returns:
        list[str]: the tokens; empty for a caption of punctuation only.
    """
    text = _BEYOND_BMP.sub("", caption)  # the original drops what Java needs two characters for
    tokens: list[str] = []
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
                tokens.append(word)
                position = simple.end()
                continue
        found, position = _scan(text, position)
        tokens.extend(found)
    return [token for token in tokens if token not in PUNCTUATIONS]
