"""What of a summary may be worth a look, found without another model: from the summary, its document and its
score. Pure.

Words are compared without case, numbers without thousands separators. A flag is a reason to look, not a
verdict; the measures behind it are kept beside it. Coverage and density are those of Grusky et al.
(arXiv:1804.11283).
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

# From these values on (for the score: below) a summary is flagged.
REPETITION, NOVEL, LEAD, SHORT, UNLIKELY = 0.1, 0.85, 0.95, 5, -1.5

# The beginning of a document is this many times as long as the summary, and the document at least that much
# again.
_LEAD_LENGTH = 3

QUALITY = pa.struct(
    [
        *(pa.field(name, pa.float32()) for name in ("repetition", "novel", "coverage", "density", "lead")),
        *(pa.field(name, pa.list_(pa.string())) for name in ("numbers", "misplaced_numbers", "names")),
        pa.field("mean_log_probability", pa.float32()),
    ]
)

_WORD = re.compile(r"\w+(?:[-'’.,/]\w+)*")
_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}\b)")
_POSSESSIVE = re.compile(r"['’]s$")
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Quality:
    """Measures of a summary against its document.

    `repetition` is the share of its trigrams that stood in it before, `novel` that of its bigrams that the
    document lacks, `coverage` that of its words in pieces of the document, `density` the mean length of the
    piece a word is in, `lead` the coverage by the document's beginning. `numbers` and `names` do not occur in
    the document; `misplaced_numbers` do, but never beside a word that is beside them here.
    """

    repetition: float
    novel: float
    coverage: float
    density: float
    lead: float
    numbers: list[str]
    misplaced_numbers: list[str]
    names: list[str]


def words_of(text: str) -> list[str]:
    """The words of a text as they stand, numbers without thousands separators."""
    return _WORD.findall(_SEPARATOR.sub("", text))


def measure(summary: str, document: str) -> Quality:
    """The measures of a summary; all 0 where it is empty."""
    shown, source = words_of(summary), [_plain(word) for word in words_of(document)]
    words = [_plain(word) for word in shown]
    pieces = fragments(words, source)
    beginning = source[: _LEAD_LENGTH * len(words)]
    known, pairs = set(source), set(itertools.pairwise(source))
    bigrams = list(itertools.pairwise(words))
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    numbers = [i for i, word in enumerate(words) if _DIGIT.search(word)]
    return Quality(
        repetition=_share(len(trigrams) - len(set(trigrams)), len(trigrams)),
        novel=_share(sum(pair not in pairs for pair in bigrams), len(bigrams)),
        coverage=_share(sum(pieces), len(words)),
        density=_share(sum(n * n for n in pieces), len(words)),
        lead=_share(sum(fragments(words, beginning)), len(words))
        if len(source) >= 2 * len(beginning)
        else 0.0,
        numbers=[shown[i] for i in numbers if words[i] not in known],
        misplaced_numbers=[
            shown[i] for i in numbers if words[i] in known and not _has_neighbour(words, i, pairs)
        ],
        names=_foreign_names(summary, known),
    )


def flags_of(quality: Quality, words: int, score: float | None, *, finished: bool) -> list[str]:
    """The flags of a summary of so many words, the gravest first; `score` is its mean log-probability."""
    found = {
        "empty": words == 0,
        "short": 0 < words < SHORT,
        "unfinished": not finished,
        "repetition": quality.repetition >= REPETITION,
        "numbers": bool(quality.numbers),
        "names": bool(quality.names),
        "misplaced numbers": bool(quality.misplaced_numbers),
        "unlikely": score is not None and score < UNLIKELY,
        "novel": quality.novel >= NOVEL,
        "lead": quality.lead >= LEAD,
    }
    return [name for name, holds in found.items() if holds]


def quality_columns(summary: str, document: str, score: float | None, *, finished: bool) -> dict[str, Any]:
    """The columns `flags` and `quality` of a summary; `score` is its mean log-probability."""
    quality = measure(summary, document)
    measures = asdict(quality) | {"mean_log_probability": score}
    return {"flags": flags_of(quality, len(words_of(summary)), score, finished=finished), "quality": measures}


def fragments(words: Sequence[str], source: Sequence[str]) -> list[int]:
    """The lengths of the pieces of `source` that `words` is made of: from the left, each the longest that
    goes on there."""
    places = defaultdict(list)
    for place, word in enumerate(source):
        places[word].append(place)
    lengths, i = [], 0
    while i < len(words):
        longest = max((_common(words, i, source, place) for place in places.get(words[i], ())), default=0)
        if longest:
            lengths.append(longest)
        i += max(1, longest)
    return lengths


def _common(words: Sequence[str], i: int, source: Sequence[str], j: int) -> int:
    n = 0
    while i + n < len(words) and j + n < len(source) and words[i + n] == source[j + n]:
        n += 1
    return n


def _plain(word: str) -> str:
    return _POSSESSIVE.sub("", word.lower())


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


def _has_neighbour(words: Sequence[str], i: int, pairs: set[tuple[str, str]]) -> bool:
    """Does a neighbour of word `i` stand beside it in the document too? A word without neighbours is in its
    place."""
    before = i > 0 and (words[i - 1], words[i]) in pairs
    after = i + 1 < len(words) and (words[i], words[i + 1]) in pairs
    return before or after or len(words) == 1


def _foreign_names(summary: str, known: set[str]) -> list[str]:
    """Capitalised words that the document lacks; at the beginning of a sentence only those of several such in
    a row."""
    names = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n", summary):
        words = words_of(sentence)
        capital = [word[0].isupper() and not _DIGIT.search(word) for word in words]
        for i, word in enumerate(words):
            if not capital[i] or (i == 0 and not (len(words) > 1 and capital[1])):
                continue
            parts = [_plain(word), *_plain(word).split("-")]
            if not (parts[0] in known or all(part in known for part in parts[1:])):
                names.append(word)
    return names
