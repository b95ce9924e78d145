"""Quality flags of a summary, computed from its text, document and score without another model.

All functions are pure. Words are compared without case, numbers without thousands separators. A flag is a
reason to check a summary, not a verdict. Its measures are written beside it. Coverage and density follow
Grusky et al. (arXiv:1804.11283).
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

# A summary is flagged from these values on. Summaries with fewer words than SHORT or a score below UNLIKELY
# are flagged too.
REPETITION, NOVEL, LEAD, SHORT, UNLIKELY = 0.1, 0.85, 0.95, 5, -1.5

# The beginning of a document has this many times the words of the summary. `lead` is measured only if the
# document is at least twice as long as its beginning.
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

    Attributes:
        repetition: share of the trigrams that occurred earlier in the summary.
        novel: share of the bigrams that the document does not have.
        coverage: share of the words that belong to a fragment of the document.
        density: mean length of a word's fragment, in words.
        lead: coverage by the beginning of the document.
        numbers: numbers that do not occur in the document.
        misplaced_numbers: numbers that do, but not next to a word that they are next to in the summary.
        names: capitalized words that do not occur in the document.
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
    """The words of a text with their case. Numbers lose their thousands separators."""
    return _WORD.findall(_SEPARATOR.sub("", text))


def measure(summary: str, document: str) -> Quality:
    """The measures of a summary. Those of an empty one are 0."""
    written, source = words_of(summary), [_normalized(word) for word in words_of(document)]
    words = [_normalized(word) for word in written]
    lengths = fragments(words, source)
    beginning = source[: _LEAD_LENGTH * len(words)]
    known, pairs = set(source), set(itertools.pairwise(source))
    bigrams = list(itertools.pairwise(words))
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    numbers = [i for i, word in enumerate(words) if _DIGIT.search(word)]
    return Quality(
        repetition=_share(len(trigrams) - len(set(trigrams)), len(trigrams)),
        novel=_share(sum(pair not in pairs for pair in bigrams), len(bigrams)),
        coverage=_share(sum(lengths), len(words)),
        density=_share(sum(n * n for n in lengths), len(words)),
        lead=_share(sum(fragments(words, beginning)), len(words))
        if len(source) >= 2 * len(beginning)
        else 0.0,
        numbers=[written[i] for i in numbers if words[i] not in known],
        misplaced_numbers=[
            written[i] for i in numbers if words[i] in known and not _has_neighbor(words, i, pairs)
        ],
        names=_unknown_names(summary, known),
    )


def flags_of(quality: Quality, words: int, score: float | None, *, finished: bool) -> list[str]:
    """The flags of a summary with `words` words, most serious first. `score` is its mean log-probability."""
    flags = {
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
    return [name for name, holds in flags.items() if holds]


def quality_columns(summary: str, document: str, score: float | None, *, finished: bool) -> dict[str, Any]:
    """The columns `flags` and `quality` of a summary. `score` is its mean log-probability."""
    quality = measure(summary, document)
    measures = asdict(quality) | {"mean_log_probability": score}
    return {"flags": flags_of(quality, len(words_of(summary)), score, finished=finished), "quality": measures}


def fragments(words: Sequence[str], source: Sequence[str]) -> list[int]:
    """The lengths in words of the fragments that `words` shares with `source`.

    Fragments are matched greedily from the left, the longest first.
    """
    # By pairs of words: a single word such as "the" is at thousands of positions of a long document.
    known = set(source)
    positions: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, pair in enumerate(itertools.pairwise(source)):
        positions[pair].append(position)
    lengths, i = [], 0
    while i < len(words):
        longer = (_common_length(words, i, source, j) for j in positions.get(tuple(words[i : i + 2]), ()))
        length = max(longer, default=int(words[i] in known))
        if length:
            lengths.append(length)
        i += max(1, length)
    return lengths


def _common_length(words: Sequence[str], i: int, source: Sequence[str], j: int) -> int:
    """The number of words from `words[i]` on that equal those from `source[j]` on."""
    n = 0
    while i + n < len(words) and j + n < len(source) and words[i + n] == source[j + n]:
        n += 1
    return n


def _normalized(word: str) -> str:
    """A word in lower case, without a possessive ending."""
    return _POSSESSIVE.sub("", word.lower())


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


def _has_neighbor(words: Sequence[str], i: int, pairs: set[tuple[str, str]]) -> bool:
    """True if word `i` has a neighbor that it also has in the document, or has no neighbors at all."""
    before = i > 0 and (words[i - 1], words[i]) in pairs
    after = i + 1 < len(words) and (words[i], words[i + 1]) in pairs
    return before or after or len(words) == 1


def _unknown_names(summary: str, known: set[str]) -> list[str]:
    """Capitalized words that the document does not have.

    The first word of a sentence counts only if the second is capitalized too.
    """
    names = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n", summary):
        words = words_of(sentence)
        capitalized = [word[0].isupper() and not _DIGIT.search(word) for word in words]
        for i, word in enumerate(words):
            if not capitalized[i] or (i == 0 and not (len(words) > 1 and capitalized[1])):
                continue
            parts = [_normalized(word), *_normalized(word).split("-")]
            if not (parts[0] in known or all(part in known for part in parts[1:])):
                names.append(word)
    return names
