"""Model inputs by the settings of a run: prefix, several documents in one input, global attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from led.pipelines.global_attention import GlobalAttention
from led.pipelines.inputs import EncodedInput, InputRules, InputText, Span, encode_inputs
from led.pipelines.joining import own_separator, separator_ids
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.checkpoint import SPECIAL_TOKENS_MODES, load_tokenizer
from pipeline.schema import DOCUMENTS, GLOBAL_TOKENS, PREFIX
from pipeline.settings import DocumentSettings, RunSettings
from pipeline.tasks.base import InputLimits, ModelInput, RequestedRow, Row, RowInput

# The tokens with global attention where neither the run nor the task says anything.
_OWN_RULES = ("first",)


def input_columns(settings: RunSettings) -> list[pa.Field]:
    """The columns that describe the input, if the settings choose more than the defaults."""
    columns = []
    if isinstance(settings, DocumentSettings):
        columns += [PREFIX] if settings.prefix_column else []
        columns += [DOCUMENTS] if settings.joins_documents else []
    return [*columns, *([GLOBAL_TOKENS] if settings.global_attention or settings.joins_documents else [])]


def input_config(settings: RunSettings, folder: Path) -> dict[str, Any]:
    """What the input depends on besides the settings, for the run config.

    Raises:
        ValueError: a rule of --global-attention does not fit the tokenizer.
    """
    tokenizer = load_tokenizer(folder, settings.special_tokens)
    input_rules(tokenizer, settings)
    split = tokenizer.split_special_tokens
    added = [
        t
        for t in tokenizer.added_tokens_decoder.values()
        if t.special and t.content not in tokenizer.control_tokens
    ]
    # As in plans of versions that took every special token of a text as text.
    return (
        {}
        if split is True or (split is None and not added)
        else {"special_tokens": SPECIAL_TOKENS_MODES[split]}
    )


def input_rules(
    tokenizer: LEDTokenizer, settings: RunSettings, own_rules: Sequence[str] = _OWN_RULES
) -> InputRules:
    """The rules of the settings, with the tokenizer's ids. `own_rules` are the task's, where none are set.

    Raises:
        ValueError: a rule does not fit the tokenizer.
    """
    separator, truncation = None, "equal"
    if isinstance(settings, DocumentSettings):
        separator, truncation = settings.document_separator, settings.truncate
    ids = separator_ids(tokenizer, separator)
    try:
        rules = GlobalAttention.parse(settings.global_attention or own_rules).resolve(tokenizer, ids)
    except ValueError as error:
        raise ValueError(f"--global-attention {' '.join(settings.global_attention)}: {error}.") from error
    return InputRules(rules, ids, truncation)  # type: ignore[arg-type]


def describe_inputs(settings: RunSettings, folder: Path, own_rules: Sequence[str] = _OWN_RULES) -> str:
    """The input settings in force, and who decided."""
    tokenizer = load_tokenizer(folder, settings.special_tokens)
    own = own_separator(tokenizer)
    source = "given" if settings.global_attention else "default"
    rules = " ".join(settings.global_attention or own_rules)
    hint = ""
    if own is not None and not settings.global_attention:
        hint = f"; for {own}, too, give --global-attention {rules} separator"
    described = [f"global_attention {rules} ({source}{hint})"]
    if isinstance(settings, DocumentSettings) and settings.joins_documents:
        separator = settings.document_separator or own or tokenizer.sep_token
        source = "given" if settings.document_separator else "checkpoint"
        described += [f"document_separator {separator!r} ({source})", f"truncate {settings.truncate}"]
    if (split := tokenizer.split_special_tokens) is not None:
        source = "given" if settings.special_tokens else "checkpoint"
        described.append(f"special_tokens {SPECIAL_TOKENS_MODES[split]} ({source})")
    return ", ".join(described)


def requested_row(settings: DocumentSettings, values: Mapping[str, Any]) -> RequestedRow:
    """The only row of a document whose input columns have these values.

    Raises:
        ValueError: a value is not a prefix, or not a list of spans.
    """
    known: Row = {}
    if settings.prefix_column:
        prefix = values[settings.prefix_column]
        if not isinstance(prefix, str | None):
            raise ValueError(
                f"column {settings.prefix_column!r} holds {type(prefix).__name__}; a prefix is a text"
            )
        known[PREFIX.name] = prefix or ""
    return RequestedRow(known, spans_in(values, settings.span_column))


def spans_in(values: Mapping[str, Any], column: str | None) -> tuple[Span, ...]:
    """The spans in a value of `column`: a list of [start, end], or of records with these fields.

    Raises:
        ValueError: it holds something else.
    """
    spans = []
    for item in (values[column] or ()) if column else ():
        ends: Any = [item.get("start"), item.get("end")] if isinstance(item, dict) else item
        try:
            start, end = (int(number) for number in ends)
        except (TypeError, ValueError):
            raise ValueError(
                f"column {column!r} holds {item!r}; a span is [start, end] in characters"
            ) from None
        spans.append((start, end))
    return tuple(spans)


def encode_documents(
    tokenizer: LEDTokenizer,
    documents: Sequence[RowInput],
    limits: InputLimits,
    settings: RunSettings,
    *,
    in_chunks: bool,
) -> list[ModelInput]:
    """The model inputs of documents.

    Raises:
        ValueError: a document cannot be an input.
    """
    inputs = [
        InputText(d.text, d.row.known_columns.get(PREFIX.name, limits.prefix), d.row.spans) for d in documents
    ]
    rules = input_rules(tokenizer, settings)
    chunk_rules = limits.chunk_rules if in_chunks else None
    encoded = encode_inputs(
        tokenizer,
        inputs,
        limits.max_input_tokens,
        rules,
        chunk_rules,
        count=settings.count_truncated_tokens,
    )
    names = {column.name for column in input_columns(settings)}
    return [
        ModelInput(
            item.input_ids,
            item.global_positions,
            item.leading,
            item.truncated_tokens,
            item.truncated_characters,
            item.chunks,
            columns={name: value for name, value in _columns(item).items() if name in names},
        )
        for item in encoded
    ]


def _columns(item: EncodedInput) -> Row:
    documents = [{"input_tokens": kept, "truncated_tokens": cut} for kept, cut in item.documents]
    return {GLOBAL_TOKENS.name: len(item.global_positions), DOCUMENTS.name: documents}
