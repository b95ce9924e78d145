"""Extraction of sentences from Markdown, docstrings and comments, and the search for old words."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tools.old_words import old_words
from tools.prose import Measures
from tools.sentences import Sentence, sentences


def texts(source: str, path: str = "docs/page.md", part: str | None = None) -> list[str]:
    """The sentences of a source, of one part or of all."""
    return [s.text for s in sentences(path, textwrap.dedent(source)) if part in (None, s.part)]


def test_markdown_keeps_sentences_and_leaves_out_the_rest() -> None:
    page = """
        # A heading. It is no sentence.

        The first sentence
        wraps. The second one has `code; with: marks.` in it.

        <!-- A comment. -->
        | a table. | is none |
        |---|---|

        ```python
        x = 1  # Nor is code.
        ```

            python -m indented.code

        See the <b>last</b> *word* of [the **guide**](guide.md#part) or [another][ref] at <https://a.example/b>.

        [ref]: https://b.example "A title."
    """
    assert texts(page) == [
        "The first sentence wraps.",
        "The second one has `…` in it.",
        "See the last word of the guide or another at URL.",
    ]


def test_list_items_are_sentences_without_the_name_that_they_define() -> None:
    page = """
        Two ways:

        * `--actors`, `--gpus`: the first way
          on two lines
        * **Long name of a thing:** the second way; with a semicolon
        1. A numbered item. It has two sentences.

           A paragraph of the item.

               code of the item
        - nested
          - deeper item

        After the list.
    """
    assert texts(page) == [
        "Two ways:",
        "the first way on two lines",
        "the second way; with a semicolon",
        "A numbered item.",
        "It has two sentences.",
        "A paragraph of the item.",
        "nested",
        "deeper item",
        "After the list.",
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Units, e.g. bytes, are in names (cf. the guide). Done here.", 2),
        ("It takes 0.5 s on v1.2 of file.txt. Next one!", 2),
        ('He wrote "stop." Then it went on (as it should.) Really?', 3),
        ("Use rows, columns, etc. in this order. Files, etc. Next one.", 3),
        ("See https://a.example/x.y. Then go.", 2),
    ],
)
def test_sentences_end_at_marks_but_not_in_abbreviations(text: str, count: int) -> None:
    assert len(texts(text)) == count


def test_docstrings_leave_out_code_and_legends_and_split_raises() -> None:
    module = '''
        """What the module does.

        Shapes: T tokens; E width,
        continued; H heads.

        `rows`, `columns`: sizes of the table.

            python -m example --now

        For example:
            code = 1
        """

        def function():
            """Compute it.

            >>> function()
            No prose.

            Args:
                name: the name of it,
                    on two lines.
                other (int): another.

            Raises:
                ValueError: the name is empty.
                OSError: the disk is full; nothing is written.

            A last paragraph.
            """
    '''
    assert texts(module, "led/module.py") == [
        "What the module does.",
        "sizes of the table.",
        "For example:",
        "Compute it.",
        "the name of it, on two lines.",
        "another.",
        "the name is empty.",
        "the disk is full; nothing is written.",
        "A last paragraph.",
    ]


def test_help_texts_are_attribute_docstrings_of_settings() -> None:
    module = '''
        class RunSettings:
            """Settings of a run."""

            name: str = ""
            """Name of the run."""

        class Other:
            name: str = ""
            """Name of the other."""
    '''
    assert texts(module, "pipeline/x.py", "help texts") == ["Name of the run."]
    assert texts(module, "pipeline/x.py", "docstrings") == ["Settings of a run.", "Name of the other."]


def test_adjacent_comment_lines_are_one_paragraph() -> None:
    module = """
        #!/usr/bin/env python3
        # A comment on
        # two lines. And more.
        x = "# no comment"  # beside the code
        y = 1  # (S, nb)
        # Another one.
        z = 2  # noqa: E731
    """
    assert texts(module, "led/x.py") == [
        "A comment on two lines.",
        "And more.",
        "beside the code",
        "Another one.",
    ]


def test_sentences_know_their_lines() -> None:
    found = list(sentences("led/x.py", '"""One.\n\nTwo is\nhere. Three\nis it.\n"""\n\nx = 1\n# Four.\n'))
    lines = {sentence.text: sentence.line for sentence in found}
    assert lines == {"One.": 1, "Two is here.": 3, "Three is it.": 4, "Four.": 9}


@pytest.mark.parametrize(
    ("text", "words", "is_divided"),
    [
        ("It starts at 06:00 with a ratio of 1:2 at https://a.example.", 11, False),
        ("This is one; this is another.", 6, True),
        ("There are two: this and that.", 6, True),
        ("Run it in 2024: then again.", 6, True),
        ("`…` — a dash is no word.", 6, False),
    ],
)
def test_words_and_marks_of_a_sentence(text: str, words: int, is_divided: bool) -> None:
    sentence = Sentence("docs", "docs/page.md", 1, text)
    assert (sentence.words, sentence.is_divided) == (words, is_divided)


def test_measures() -> None:
    group = [
        Sentence("docs", "x.md", 1, " ".join(["word"] * n) + (";" if n == 1 else "")) for n in range(1, 11)
    ]
    assert Measures.of(group) == Measures(10, 5.5, 9, 0.1)
    assert Measures.of([]) == Measures(0, 0.0, 0, 0.0)


def test_generated_pages_are_not_measured() -> None:
    assert texts("# Settings\n\nMade from the dataclasses by `python -m docs.make_settings`. Really.\n") == []


VOCABULARY = {
    "allowed": ["Ray actor"],
    "words": {"model cop(?:y|ies)": "replica", "actors?": "replica"},
    "names": {r"\bChoice\b": "StepOutput", r"--nights\b": "--runs"},
    "pipeline_names": {r"\bPool\b": "Capacity"},
}
Found = list[tuple[int, str]]


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("docs/x.md", "A model\ncopy, a Ray actor, factors and actors.", [(1, "model copy"), (2, "actors")]),
        ("led/x.py", "model_copies = ModelCopy()\n", [(1, "model_copies"), (1, "ModelCopy")]),
        (
            "led/x.py",
            "# A Choice of model\n# copies.\nChoice(Pool)\n",
            [(1, "model # copies"), (3, "Choice")],
        ),
        ("led/x.py", '"""Choice of `Choice`.\n\nUse --nights.\n"""\n', [(1, "Choice"), (3, "--nights")]),
        ("docs/x.md", "Choice, `Choice`.\n\n```\nChoice\n```\n", [(1, "Choice"), (4, "Choice")]),
        ("jobs/x.py", "Pool()\n# Pool\n", [(1, "Pool")]),
        ("jobs/x.py", "# old names\nactors = 1\n# end of old names\nactors = 2\n", [(4, "actors")]),
        ("docs/x.md", "<!-- old names -->\nactors\n<!-- end of old names -->\n", []),
    ],
)
def test_old_words_are_found_in_text_and_code(path: str, source: str, expected: Found) -> None:
    found = old_words(path, source, VOCABULARY, ("words", "names", "pipeline_names"))
    assert [(word.line, word.text) for word in found] == expected


@pytest.mark.parametrize(("text", "code"), [("A short sentence.", 0), ("The tally; the receipt.", 1)])
def test_check_fails_on_old_words_and_long_sentences(tmp_path: Path, text: str, code: int) -> None:
    (tmp_path / "README.md").write_text(f"# Title\n\n{text}\n")
    options = ["--root", str(tmp_path), "--words", "--check"]
    command = [sys.executable, "-m", "tools.prose", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == code, done.stdout + done.stderr
    assert ("'tally' -> run stats" in done.stdout) == bool(code)
