"""For every published LED checkpoint, a job gives what its authors' recipe gives in the reference.

The folders are tiny, in the shape of the published files (`tests/published.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.errors import UsageError
from pipeline.planning.plan import Shard
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader
from tests.published import PUBLISHED, Published, inputs_of, make

transformers = pytest.importorskip("transformers", reason="the reference, transformers 5, is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("led.checkpoint.hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def reference_tokenizer(checkpoint: Published, folder: Path) -> Any:
    if checkpoint.tokenizer == "unigram":
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **names)
    return transformers.LEDTokenizerFast.from_pretrained(folder)


def recipe_ids(checkpoint: Published, tokenizer: Any, item: str | list[str], limit: int) -> list[int]:
    """The ids that the authors' code makes of an input."""
    recipe = checkpoint.recipe
    if isinstance(item, str):
        ids = tokenizer(recipe.prefix + item, add_special_tokens=False)["input_ids"][: limit - 2]
        return [0, *ids, 2]
    separator = tokenizer.convert_tokens_to_ids(recipe.separator)
    ids = [0]
    for number, document in enumerate(item):
        if recipe.documents == "primera":
            most = limit // len(item)
            ids += tokenizer(document, truncation=True, max_length=most)["input_ids"][1:-1]
            ids.append(separator)
        else:
            ids += [
                *([separator] if number else []),
                *tokenizer(document, add_special_tokens=False)["input_ids"],
            ]
    return [*ids, 2]


@torch.no_grad()
def reference_tokens(
    checkpoint: Published, folder: Path, rows: list[list[int]], masks: list[list[int]]
) -> tuple[list[list[int]], list[float | None]]:
    """What the reference writes for ids and global masks."""
    model = transformers.LEDForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    # Settings come from the recipe alone. transformers 5 would make a forced token of the key
    # `force_bos_token_to_be_generated`, which LED ignored in all earlier versions.
    model.generation_config = transformers.GenerationConfig()
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[1] * (width - len(row))] for row in rows])
    visible = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    is_global = torch.tensor([[*mask, *[0] * (width - len(mask))] for mask in masks])
    settings = {
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        **checkpoint.recipe.generation,
    }
    out = model.generate(
        ids,
        attention_mask=visible,
        global_attention_mask=is_global,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    pad, eos = settings["pad_token_id"], settings["eos_token_id"]
    sequences = []
    for row in out.sequences.tolist():
        end = next((i for i, token in enumerate(row) if i and token in (pad, eos)), len(row) - 1)
        sequences.append(row[: end + 1])
    return sequences, out.sequences_scores.tolist()


@pytest.mark.parametrize("checkpoint", PUBLISHED, ids=lambda each: each.name.replace(" ", "-"))
def test_a_job_follows_the_authors_recipe(checkpoint: Published, tmp_path: Path) -> None:
    folder = make(checkpoint, tmp_path / "model")
    base = tmp_path / "model"
    items = inputs_of(checkpoint)
    multi = isinstance(items[0], list)
    kind = pa.list_(pa.string()) if multi else pa.string()
    table = pa.table({"doc_id": [f"d{i}" for i in range(len(items))], "text": pa.array(items, kind)})
    pq.write_table(table, tmp_path / "corpus.parquet")
    task = Summarize(SummarizeSettings(input=("c",), output="o", model=str(folder), **checkpoint.flags))

    from led.checkpoint.hub import resolve

    resolved = resolve(str(folder)).folder
    limits = task.input_limits(resolved)
    task.run_config(resolved)
    shard = Shard("s", str(tmp_path / "corpus.parquet"), 0, len(items))
    read = ShardReader(task, str(folder), None, limits)(shard)

    tokenizer = reference_tokenizer(checkpoint, base)
    expected = [recipe_ids(checkpoint, tokenizer, item, limits.max_input_tokens) for item in items]
    within = [i for i, ids in enumerate(expected) if len(ids) <= limits.max_input_tokens]
    global_ids = {tokenizer.convert_tokens_to_ids(token) for token in checkpoint.recipe.global_tokens}
    masks = [[int(i == 0 or token in global_ids) for i, token in enumerate(ids)] for ids in expected]
    ids, positions = read["_input_ids"].to_pylist(), read["_global_positions"].to_pylist()
    for i in within:
        assert ids[i] == expected[i], items[i]
        assert positions[i] == [p for p, flag in enumerate(masks[i]) if flag], items[i]
    for i in range(len(items)):
        assert len(ids[i]) <= limits.max_input_tokens
    assert len(within) >= len(items) - 6

    rows = Predictor(task, str(folder), None)(read).to_pylist()
    weights = base
    if checkpoint.weights == "adapter":
        (folder / "merged.safetensors").replace(base / "model.safetensors")
    all_masks = [
        [int(p in set(of_row)) for p in range(len(row))] for row, of_row in zip(ids, positions, strict=True)
    ]
    sequences, scores = reference_tokens(checkpoint, weights, ids, all_masks)
    for row, sequence, score in zip(rows, sequences, scores, strict=True):
        assert row["status"] == "ok"
        text = tokenizer.decode(sequence, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert (row["summary"], row["score"]) == (text.strip(), pytest.approx(score, abs=2e-4))
        assert row["output_tokens"] == len(sequence) - 1


def test_lengths_beyond_the_decoder_are_refused(tmp_path: Path) -> None:
    [checkpoint] = [each for each in PUBLISHED if "16896" in each.name]
    folder = make(checkpoint, tmp_path / "model")
    task = Summarize(SummarizeSettings(input=("c",), output="o", model=str(folder)))
    with pytest.raises((ValueError, UsageError), match="max_length is 1056; this model's decoder has 64 pos"):
        task.run_config(folder)


def test_there_is_a_folder_for_every_published_checkpoint() -> None:
    assert len(PUBLISHED) >= 30 and len({each.name for each in PUBLISHED}) == len(PUBLISHED)
