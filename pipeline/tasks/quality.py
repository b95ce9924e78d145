"""Quality flags of a summary, computed from its text, document and score without another model.

All functions are pure. Words are compared without case, numbers without thousands separators. A flag is a
reason to check a summary, not a verdict. Its measures are written beside it. Coverage and density follow
Grusky et al. (arXiv:1804.11283).
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
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
_SPACE = re.compile(r"\s")
_BLOCK = 1 << 20
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


class Source:
    """A document as seen by the words of its summary, and by `others`: where it has them.

    All other words of the document are -1, so that one of millions of words takes four bytes for each.
    `pairs` has the positions at which two words of the summary that follow one another do so, too.
    """

    def __init__(self, document: str, words: Sequence[str], others: Iterable[str] = ()) -> None:
        self._numbers = {word: number for number, word in enumerate(dict.fromkeys([*words, *others]))}
        numbers = array("i")
        for block in _blocks(document):
            numbers.extend([self._numbers.get(word, -1) for word in map(_normalized, words_of(block))])
        self._words, self._source = words, np.array(numbers, np.int32)
        self._present = set(np.unique(self._source).tolist()) - {-1}
        self.pairs = self._find_pairs()

    def _find_pairs(self) -> dict[tuple[str, str], list[int]]:
        numbers, count = self._numbers, len(self._numbers)
        pairs = {numbers[a] * count + numbers[b]: (a, b) for a, b in itertools.pairwise(self._words)}
        first, second = self._source[:-1].astype(np.int64), self._source[1:]
        keys = np.where((first >= 0) & (second >= 0), first * count + second, -1)
        found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for position in np.flatnonzero(np.isin(keys, list(pairs))).tolist():
            found[pairs[int(keys[position])]].append(position)
        return dict(found)

    def __len__(self) -> int:
        return len(self._source)

    def __contains__(self, word: str) -> bool:
        """Whether the document has a word of the summary, or another one that was named."""
        return self._numbers.get(word, -1) in self._present

    def fragments(self, length: int | None = None) -> list[int]:
        """The lengths in words of the fragments that the summary shares with the first `length` words of the
        document.

        Fragments are matched greedily from the left, the longest first.
        """
        words, source = self._words, self._source[:length]
        numbers = [self._numbers[word] for word in words]
        present = self._present if length is None else set(source.tolist())
        lengths, i = [], 0
        while i < len(words):
            # By pairs of words: a single word such as "the" is at thousands of positions of a long document.
            starts = self.pairs.get((words[i], words[i + 1]), ()) if i + 1 < len(words) else ()
            longer = (_common_length(numbers[i:], source[j : j + len(words) - i].tolist()) for j in starts)
            longest = max(max(longer, default=0), int(numbers[i] in present))
            if longest:
                lengths.append(longest)
            i += max(1, longest)
        return lengths


def measure(summary: str, document: str) -> Quality:
    """The measures of a summary. Those of an empty one are 0."""
    written = words_of(summary)
    words = [_normalized(word) for word in written]
    names = _names(summary)
    source = Source(document, words, (part for _, parts in names for part in parts))
    lengths = source.fragments()
    beginning = _LEAD_LENGTH * len(words)
    bigrams = list(itertools.pairwise(words))
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    numbers = [i for i, word in enumerate(words) if _DIGIT.search(word)]
    return Quality(
        repetition=_share(len(trigrams) - len(set(trigrams)), len(trigrams)),
        novel=_share(sum(pair not in source.pairs for pair in bigrams), len(bigrams)),
        coverage=_share(sum(lengths), len(words)),
        density=_share(sum(n * n for n in lengths), len(words)),
        lead=_share(sum(source.fragments(beginning)), len(words)) if len(source) >= 2 * beginning else 0.0,
        numbers=[written[i] for i in numbers if words[i] not in source],
        misplaced_numbers=[
            written[i] for i in numbers if words[i] in source and not _has_neighbor(words, i, source.pairs)
        ],
        names=[
            name
            for name, (whole, *parts) in names
            if not (whole in source or all(part in source for part in parts))
        ],
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


def _blocks(text: str) -> Iterator[str]:
    """A text in parts of about `_BLOCK` characters, cut at white space."""
    start = 0
    while start < len(text):
        match = _SPACE.search(text, start + _BLOCK)
        end = match.start() if match else len(text)
        yield text[start:end]
        start = end


def _common_length(words: Sequence[int], source: Sequence[int]) -> int:
    """The number of words that are equal, from the first on."""
    pairs = enumerate(zip(words, source, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(words), len(source)))


def _normalized(word: str) -> str:
    """A word in lower case, without a possessive ending."""
    lower = word.lower()
    return _POSSESSIVE.sub("", lower) if lower.endswith("s") else lower


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


def _has_neighbor(words: Sequence[str], i: int, pairs: Mapping[tuple[str, str], object]) -> bool:
    """True if word `i` has a neighbor that it also has in the document, or has no neighbors at all."""
    before = i > 0 and (words[i - 1], words[i]) in pairs
    after = i + 1 < len(words) and (words[i], words[i + 1]) in pairs
    return before or after or len(words) == 1


def _names(summary: str) -> list[tuple[str, list[str]]]:
    """Capitalized words, each with its normalized form and the parts of that between hyphens.

    The first word of a sentence counts only if the second is capitalized too.
    """
    names = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n", summary):
        words = words_of(sentence)
        capitalized = [word[0].isupper() and not _DIGIT.search(word) for word in words]
        for i, word in enumerate(words):
            if capitalized[i] and (i > 0 or (len(words) > 1 and capitalized[1])):
                names.append((word, [_normalized(word), *_normalized(word).split("-")]))
    return names
