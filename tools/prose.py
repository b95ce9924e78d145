"""Measures the prose of the repository and finds words of its old vocabulary.

    python tools/prose.py                              # the table
    python tools/prose.py --worst 20 --paths led docs  # the longest sentences of two folders
    python tools/prose.py --words --paths led/model    # old words with their lines and replacements
    python tools/prose.py --advisory                   # ambiguous words, which do not fail the check
    python tools/prose.py --check                      # exit code 1 beyond a limit or with an old word left

Prose is Markdown, docstrings, comments and the help texts of settings. `sentences.py` extracts its sentences.
`old_words.toml` holds the old words.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.old_words import OldWord, old_words
from tools.sentences import PARTS, Sentence, sentences

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = Path(__file__).with_name("old_words.toml")

MAX_MEAN, MAX_P90, MAX_SHARE = 16.0, 27, 0.25

PROSE = ("README.md", "docs", "led", "pipeline", "jobs", "demo", "benchmarks", "infra", "tools")
WORDS = (
    "README.md",
    "docs",
    "led",
    "pipeline",
    "jobs",
    "demo",
    "benchmarks",
    "infra",
    "tests",
    "Makefile",
    "pyproject.toml",
)
SUFFIXES = {".md", ".py", ".yaml", ".yml", ".toml", ".sh", ""}
NO_PROSE_IN = re.compile(r"benchmarks/.*\.md$|demo/(?:checkpoints|corpus)/")
NO_WORDS_IN = re.compile(r"(?:.*/)?CHANGELOG\.md$|tools/|tests/tools/|tests/fixtures/|benchmarks/.*\.md$")


def sources(root: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Files of these names and below these folders as (path, text). Hidden files and folders are left out."""
    for name in names:
        top = root / name
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            path = file.relative_to(root).as_posix()
            if (
                file.is_file()
                and file.suffix in SUFFIXES
                and not re.search(r"(?:^|/)(?:\.|__pycache__)", path)
            ):
                yield path, file.read_text(encoding="utf-8")


def all_sentences(root: Path, names: Sequence[str]) -> Iterator[Sentence]:
    """The sentences of these files and folders. Files that cannot be parsed are reported on stderr."""
    for path, source in sources(root, names):
        try:
            yield from () if NO_PROSE_IN.match(path) else sentences(path, source)
        except SyntaxError as error:
            print(f"{path} was left out: {error}", file=sys.stderr)


def all_words(root: Path, names: Sequence[str], sections: Sequence[str]) -> Iterator[OldWord]:
    """The old words of these files and folders."""
    vocabulary = tomllib.loads(VOCABULARY.read_text(encoding="utf-8"))
    for path, source in sources(root, names):
        try:
            yield from () if NO_WORDS_IN.match(path) else old_words(path, source, vocabulary, sections)
        except SyntaxError as error:
            print(f"{path} was left out: {error}", file=sys.stderr)


@dataclass(frozen=True)
class Measures:
    """Figures of a group of sentences.

    `mean` and `p90` (90th percentile) are words of a sentence. `share` is the part of the sentences with a
    semicolon or colon, from 0 to 1.
    """

    count: int
    mean: float
    p90: int
    share: float

    @classmethod
    def of(cls, group: Sequence[Sentence]) -> Measures:
        """The figures of these sentences, zeros if there are none."""
        words = sorted(sentence.words for sentence in group) or [0]
        share = sum(sentence.is_divided for sentence in group) / max(1, len(group))
        return cls(len(group), sum(words) / len(words), words[math.ceil(0.9 * len(words)) - 1], share)

    @property
    def is_within_limits(self) -> bool:
        """True if the prose is as short and plain as the project wants it."""
        return self.mean <= MAX_MEAN and self.p90 <= MAX_P90 and self.share <= MAX_SHARE

    def row(self, name: str) -> str:
        """A row of the table."""
        return f"{name:<28} {self.count:>9,} {self.mean:>6.1f} {self.p90:>4} {self.share:>7.0%}"


def print_table(title: str, groups: Mapping[str, Sequence[Sentence]]) -> None:
    """Print the figures of each group, with the totals."""
    print(f"{title:<28} {'sentences':>9} {'mean':>6} {'p90':>4} {'; or :':>7}")
    for name, group in groups.items():
        print(Measures.of(group).row(name))


def print_words(words: Sequence[OldWord]) -> None:
    """Print each old word with its place and replacement, then the number of each."""
    for word in words:
        print(f"{word.path}:{word.line}: {word.text!r} -> {word.replacement}")
    for (text, replacement), count in Counter(
        (word.text.lower(), word.replacement) for word in words
    ).most_common():
        print(f"{count:>6}  {text} -> {replacement}")


def main() -> int:
    """Print what the options name. The exit code is 1 if `--check` fails."""
    parser = argparse.ArgumentParser(description="Measure the prose of the repository and find old words.")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the repository")
    parser.add_argument("--paths", nargs="+", metavar="PATH", help="files or folders, relative to the root")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="print the N longest sentences")
    parser.add_argument(
        "--folders", type=int, default=0, metavar="N", help="print the N folders with the longest sentences"
    )
    parser.add_argument("--words", action="store_true", help="print every old word and its replacement")
    parser.add_argument(
        "--advisory", action="store_true", help="print ambiguous words, which do not fail the check"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a limit is exceeded or an old word is left"
    )
    parser.add_argument("--each", action="store_true", help="check the limits of each part, too")
    options = parser.parse_args()
    if missing := [path for path in options.paths or () if not (options.root / path).exists()]:
        parser.error(f"{', '.join(missing)} not found below {options.root}; give paths relative to --root")
    prose = list(all_sentences(options.root, options.paths or PROSE))
    words = list(all_words(options.root, options.paths or WORDS, ("words", "names", "pipeline_names")))
    parts = {part: [sentence for sentence in prose if sentence.part == part] for part in PARTS}
    print_table("part", {**parts, "total": prose})
    print(f"old words: {len(words):,}")
    if options.folders:
        folders: defaultdict[str, list[Sentence]] = defaultdict(list)
        for sentence in prose:
            folders[str(Path(sentence.path).parent)].append(sentence)
        longest = sorted(folders.items(), key=lambda folder: -Measures.of(folder[1]).mean)
        print_table("\nfolder", dict(longest[: options.folders]))
    for sentence in sorted(prose, key=lambda sentence: -sentence.words)[: options.worst]:
        print(f"{sentence.words:>4}  {sentence.path}:{sentence.line}: {sentence.text}")
    if options.words:
        print_words(words)
    if options.advisory:
        print_words(list(all_words(options.root, options.paths or PROSE, ["advisory"])))
    checked = [prose, *parts.values()] if options.each else [prose]
    is_good = not words and all(Measures.of(group).is_within_limits for group in checked)
    if options.check and not is_good:
        limits = f"mean <= {MAX_MEAN:g}, p90 <= {MAX_P90}, share <= {MAX_SHARE:.0%}"
        print(f"failed: {limits} and no old words are required")
    return int(options.check and not is_good)


if __name__ == "__main__":
    sys.exit(main())
