"""Splits captions into words as the COCO caption evaluation does, without Java.

That evaluation (Chen et al. 2015; pycocoevalcap) runs Stanford's PTBTokenizer 3.4.1, a Penn Treebank tokenizer, in
lower case, and then drops punctuation. CIDEr and BLEU count what it calls words, so another tokenizer gives other
figures. This one covers what captions are made of: contractions, possessives, hyphens, numbers, abbreviations, quotes
and brackets. It splits all but 6 of 66,474 captions (COCO val2017's 25,014, Flickr8k's 40,460, and 1,000 written by
models) exactly as the original does; tests/evaluation/test_ptb_tokenizer.py compares the two where Java is installed.
"""

from __future__ import annotations

import re

# What the evaluation drops. The original writes "(" as "-lrb-" in lower case, which its list, in capitals, misses: so
# brackets count as words. So do "!!" and "?!".
_DROPPED = frozenset({"''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"})
_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "£": "#", "€": "$", "¢": "cents", "“": "``", "”": "''", "‘": "`", "…": "...", "–": "--", "—": "--",
}  # fmt: skip
# Words that the treebank splits, and the length of the first part.
_SPLIT = {"cannot": 3, "gonna": 3, "gotta": 3, "gimme": 3, "lemme": 3, "wanna": 3}
# Abbreviations keep their full stop, also at the end of a sentence.
_ABBREVIATIONS = (
    "mr mrs ms dr prof sr jr st ave blvd rd mt ft vs etc inc co corp ltd dept jan feb mar apr jun jul aug sep sept "
    "oct nov dec gen col sgt capt lt rev hon gov sen rep"
)
_LETTER = r"[^\W\d_]"
_TOKEN = re.compile(
    rf"""
    https?://[^\s<>"]+ | [\w.+-]+@\w[\w-]*(?:\.\w+)+        # addresses
  | </?[a-z][^<>\s]*>                                       # tags
  | (?:{"|".join(_SPLIT)})(?!\w)
  | 't(?=is\b|was\b) | y'(?=all\b) | '(?:em|cause|til|n')(?!\w) | '\d\ds?(?!\w)
  | {_LETTER}+?(?=n't(?!\w))                                # do|n't
  | n't(?!\w) | '(?:s|m|d|re|ve|ll)(?!\w)
  | (?:[dlo]|ma|ne)'{_LETTER}{{2,}}                         # o'clock, d'oeuvre
  | (?:{_LETTER}\.)+(?!\w) | no\.(?=\s*\d) | (?:{"|".join(_ABBREVIATIONS.split())})\.(?!\w)
  | \d{{1,2}}-\d{{1,2}}-\d{{2,4}}(?!\w)                     # dates
  | \d+(?:[,.:]\d+)+ | [-+]?\d+(?:/\d+)?(?![\w-]) | \.\d+   # 1,000 and 5:54|pm
  | \w+(?:[-/_.]\w+)*
  | \.{{3,}} | -{{2,}} | \*+ | _+ | [?!]+
  | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Joined in capitals only: AT&T, but at|&|t.
_JOINED = re.compile(r"[A-Z]+&[A-Z]+(?!\w)")


def ptb_words(caption: str) -> list[str]:
    """The words of a caption, in lower case, without punctuation."""
    caption = caption.replace("’", "'")
    words, at = [], 0
    while at < len(caption):
        match = _JOINED.match(caption, at) or _TOKEN.match(caption, at)
        if match is None:  # white space
            at += 1
            continue
        at = match.end()
        words += [word for word in _parts(match[0].lower()) if word not in _DROPPED]
    return words


def _parts(token: str) -> list[str]:
    """A token as the treebank writes it."""
    if token in _SPLIT:
        return [token[: _SPLIT[token]], token[_SPLIT[token] :]]
    if token.startswith("..."):
        return ["..."]
    return [_WRITTEN.get(token, token)]
