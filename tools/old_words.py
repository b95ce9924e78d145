"""Occurrences of words that the project no longer uses.

The words and their replacements are in `old_words.toml`. Lines between `# old names` and `# end of old names`
may hold old words. In Markdown, the markers are HTML comments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.sentences import FENCE, chunks

OLD_NAMES = re.compile(r"(?:#|<!--) old names\b.*?(?:#|<!--) end of old names\b", re.DOTALL)
IN_LED = re.compile(r"(?:tests/)?led/")

# Borders of words within identifiers: my_word, MyWord, HTTPWord.
BEGIN = r"(?-i:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]))"
BETWEEN = r"(?:[\s_#-]+|(?-i:(?<=[a-z])(?=[A-Z])))"
END = r"(?-i:(?![a-z]))"


@dataclass(frozen=True)
class OldWord:
    """An occurrence of the old vocabulary."""

    path: str
    line: int
    text: str
    replacement: str


def code_of(path: str, source: str) -> str:
    """The source without its prose, line by line. Code spans and flags within the prose are kept."""
    lines, span, is_fenced = source.split("\n"), re.compile(r"`[^`]+`|--[a-z][\w-]*"), False
    for _, first, texts in chunks(path, source) if path.endswith(".py") else ():
        for row, text in enumerate(texts, first - 1):
            lines[row] = lines[row].replace(text.strip(), " ".join(span.findall(text)))
    for row, line in enumerate(lines) if path.endswith(".md") else ():
        is_fenced ^= bool(FENCE.match(line.strip()))
        lines[row] = line if is_fenced else " ".join(span.findall(line))
    return "\n".join(lines)


def blanked(found: re.Match[str]) -> str:
    """The matched text with its lines, but without its characters."""
    return re.sub(r"[^\n]", " ", found[0])


def old_words(path: str, source: str, vocabulary: dict[str, Any], sections: Sequence[str]) -> list[OldWord]:
    """Occurrences of the words in these sections of the vocabulary, in the order of their lines."""
    source, words = OLD_NAMES.sub(blanked, source), []
    sections = [section for section in sections if section != "pipeline_names" or not IN_LED.match(path)]
    for section in sections:
        text = code_of(path, source) if section.endswith("names") else source
        for allowed in vocabulary["allowed"]:
            text = re.sub(allowed, blanked, text)
        for pattern, replacement in vocabulary[section].items():
            if not section.endswith("names"):
                pattern = f"(?i){BEGIN}(?:{pattern.replace(' ', BETWEEN)}){END}"
            for found in re.finditer(pattern, text):
                line = text.count("\n", 0, found.start()) + 1
                words.append(OldWord(path, line, " ".join(found[0].split()), replacement))
    return sorted(words, key=lambda word: word.line)
