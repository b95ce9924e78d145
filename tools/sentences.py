"""Sentences of Markdown, docstrings and comments.

Code blocks, tables, headings, HTML and shape legends (`Shapes:`) are not prose. List items and entries of a
`Raises:` or `Args:` section are sentences of their own. The name that an item or entry defines is removed.
"""

from __future__ import annotations

import ast
import html
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PARTS = ("README.md", "docs", "docstrings", "comments", "help texts")

GENERATED = re.compile(
    r"(?is).{0,300}?\b(?:generated|made) (?:from|by)[^\n]*(?:`(?:python|make)\b|make_\w+\.py)"
)

CODE = "`…`"  # stands for a code span, which counts as one word
FENCE = re.compile(r"```|~~~")
ITEM = re.compile(r"(?:[*+-]|\d{1,2}[.)])\s+")
SKIPPED_LINE = re.compile(
    r"\||#+ |[-=*_]{3,}|[│├└]|\[[^\]]+\]:\s|\$ |python3? (?:-m |\S+\.py)"
    r"|(?:noqa|type: ignore|fmt:|mypy:|ruff:|pragma:|old names|end of old names)"
)
SKIPPED_PARAGRAPH = re.compile(r">>> |(?:Shapes?|Examples?|Usage):(?:$| )")
SECTION = re.compile(r"(?:Args|Arguments|Attributes|Raises|Returns|Yields|Notes?|Warns|Warnings?):$")
DEFINED = rf"{CODE}(?:,?\s+(?:and |or )?{CODE})*:\s+"
LABEL = re.compile(rf"\*\*[^*]+(?:\*\*:|:\*\*)\s+|{DEFINED}|(?:\S+\s+){{0,2}}\S+:\s+")
SENTENCE_END = re.compile(r"[.!?][\"”’')\]*_]*(?=\s|$)")
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|vs|cf|approx|al|resp|incl|[Ff]igs?|[Ss]ecs?|[Ee]qs?)\.$")
DIVIDER = re.compile(r";|(?<!\d)(?<!\d ):(?=\s|$|[\"”’')\]*])|(?<=\d):(?=\s*$|\s+\D)")

Chunk = tuple[str, int, list[str]]  # part, first line, lines without indentation and comment signs


@dataclass(frozen=True)
class Sentence:
    """One sentence, without markup. A code span is one word."""

    part: str
    path: str
    line: int
    text: str

    @property
    def words(self) -> int:
        """Number of words. Dashes and operators are not words."""
        return sum(bool(re.search(r"[\w`]", word)) for word in self.text.split())

    @property
    def is_divided(self) -> bool:
        """True if the sentence has a semicolon, or a colon outside a time, ratio or URL."""
        return bool(DIVIDER.search(self.text))


def prose_lines(lines: Sequence[str], first: int) -> Iterator[tuple[int, int, str]]:
    """Lines as (number, indent, text). Code, tables, headings, commands and shape legends have no text."""
    is_fenced = is_skipped = False
    for number, line in enumerate(lines, first):
        text, is_fence = line.strip(), bool(FENCE.match(line.strip()))
        is_skipped = bool(text) and (is_skipped or bool(SKIPPED_PARAGRAPH.match(text)))
        is_hidden = is_fenced or is_fence or is_skipped or bool(SKIPPED_LINE.match(text))
        is_fenced ^= is_fence
        yield number, len(line) - len(line.lstrip()), "" if is_hidden else text.removeprefix("> ")


def blocks(lines: Sequence[str], first: int = 1) -> Iterator[tuple[int, str, bool]]:
    """Paragraphs and items as (line, text, is item). Entries of a `Raises:` or `Args:` section are items.

    A line that is indented four columns more than its surroundings is a code example, which is left out.
    """
    block: list[str] = []
    start, is_item = first, False
    margin, entries = 0, -1  # columns of the text of a list or section, and of the entries of a section
    for number, indent, text in [*prose_lines(lines, first), (0, 0, "")]:
        item, is_section = ITEM.match(text), bool(SECTION.match(text))
        is_code = indent >= margin + 4 and not item and (not block or block[-1].endswith(":"))
        if block and text and not (item or is_section or is_code or indent == entries):
            block.append(text)
            continue
        if block:
            yield start, "\n".join(block), is_item
            block = []
        if is_section:
            margin = entries = indent + 4
        elif text and not is_code:
            entries = entries if indent >= entries else -1
            margin = indent + item.end() if item else min(margin, indent)
            start, is_item = number, bool(item) or indent == entries
            block = [text[item.end() :] if item else text]


def without_markup(text: str, is_item: bool) -> str:
    """The text of a block. Links become their text and code spans one word. The defined name is removed."""
    text = re.sub(r"(`+)(?:(?!\1).)+?\1", CODE, text, flags=re.DOTALL)
    text = re.sub(r"</?[a-zA-Z][^<>:]*>", "", re.sub(r"<?https?://[^>\s)]*[^>\s).,;:!?]>?", "URL", text))
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])", r"\1", text)
    label = (LABEL if is_item else re.compile(DEFINED)).match(text)
    text = text[label.end() :] if label else text
    return html.unescape(re.sub(r"\*\*|(?<![\w*])\*(?=\w)|(?<=[\w.,`])\*(?![\w*])", "", text))


def split_sentences(text: str) -> Iterator[tuple[int, str]]:
    """Sentences as (lines before, text). Text without a word of three letters is left out."""
    begin = 0
    for end in [*(found.end() for found in SENTENCE_END.finditer(text)), len(text)]:
        is_inside = text[:end].endswith("etc.") and text[end:].lstrip()[:1].islower()
        if end < len(text) and (is_inside or ABBREVIATION.search(text[:end])):
            continue
        sentence, begin = text[begin:end], end
        if re.search(r"[^\W\d_]{3}", sentence):
            yield text[: end - len(sentence.lstrip())].count("\n"), " ".join(sentence.split())


def docstrings(source: str) -> Iterator[Chunk]:
    """Docstrings of modules, classes, functions and attributes. Attributes of settings have help texts."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        is_settings = isinstance(node, ast.ClassDef) and node.name.endswith(("Settings", "Options"))
        before: ast.AST = node
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                head, _, rest = value.value.partition("\n")
                part = "help texts" if is_settings and isinstance(before, ast.AnnAssign) else "docstrings"
                yield part, value.lineno, [head.strip(), *textwrap.dedent(rest).split("\n")]
            before = statement


def comments(source: str) -> Iterator[Chunk]:
    """Comments. Adjacent lines with nothing but a comment are one chunk."""
    lines: list[str] = []
    first, following = 0, (0, 0)  # where the next line of the chunk would start
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("#!"):
            if lines and token.start != following:
                yield "comments", first, lines
                lines = []
            first = first if lines else token.start[0]
            is_alone = not token.line[: token.start[1]].strip()
            following = (token.start[0] + 1, token.start[1]) if is_alone else (0, 0)
            lines.append(re.sub(r"^#+!? ?", "", token.string))
    if lines:
        yield "comments", first, lines


def chunks(path: str, source: str) -> Iterator[Chunk]:
    """The prose of a Markdown or Python file. Generated pages have none.

    Raises:
        SyntaxError: a Python file cannot be parsed.
    """
    if path.endswith(".py"):
        yield from docstrings(source)
        yield from comments(source)
    elif path.endswith(".md") and not GENERATED.match(source):
        visible = re.sub(
            r"<!--.*?-->", lambda comment: "\n" * comment[0].count("\n"), source, flags=re.DOTALL
        )
        yield "README.md" if path == "README.md" else "docs", 1, visible.split("\n")


def sentences(path: str, source: str) -> Iterator[Sentence]:
    """All sentences of a file."""
    for part, first, lines in chunks(path, source):
        for start, block, is_item in blocks(lines, first):
            for before, text in split_sentences(without_markup(block, is_item)):
                yield Sentence(part, path, start + before, text)
