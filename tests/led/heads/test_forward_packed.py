"""`forward_packed` equals the padded forward pass of each document, with and without a decoder prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from led.batch.packed_batch import pack_documents
from led.config import LEDConfig
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.model.led_model import LEDModel
from led.pipelines.chunk_reader import pool_logits, read_chunks
from led.pipelines.chunking import ChunkInput, default_pooling
from led.testing import TINY, spread_weights, tiny_config

LENGTHS = ([5], [1], [2, 64, 17, 1, 33], [64, 64], [3] * 9)
PROMPT = {"decoder_prompt": (2, 0, 7), "max_decoder_position_embeddings": 4}


def model_of(cls: type, **config: Any) -> Any:
    model = cls(tiny_config(**config))
    spread_weights(model, seed=2, scale=8)
    return model.eval()


def documents(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [[*torch.randint(5, 99, (n - 1,), generator=generator).tolist(), 2] for n in lengths]


def alone(model: Any, ids: list[int], global_positions: range) -> Any:
    input_ids = torch.tensor([ids])
    mask = torch.zeros_like(input_ids)
    mask[:, list(global_positions)] = 1
    return model(input_ids, global_attention_mask=mask)


@pytest.mark.parametrize("global_positions", [0, 1, 4])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_the_decoder_over_packed_documents_is_the_forward_pass(
    lengths: list[int], global_positions: int
) -> None:
    model, rows = model_of(LEDModel), documents(lengths)
    places = [range(min(global_positions, n)) for n in lengths]
    with torch.no_grad():
        for ids, where, states in zip(
            rows, places, model.forward_packed(pack_documents(rows, places)), strict=True
        ):
            expected = alone(model, ids, where).last_hidden_state[0]
            torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_prompt_packed_and_padded_is_the_same(lengths: list[int]) -> None:
    rows = documents(lengths)
    places = [range(1)] * len(rows)
    classifier, answerer = (
        model_of(cls, **PROMPT) for cls in (LEDForSequenceClassification, LEDForQuestionAnswering)
    )
    with torch.no_grad():
        batch = pack_documents(rows, places)
        for ids, logits, (start, end) in zip(
            rows, classifier.forward_packed(batch), answerer.forward_packed(batch), strict=True
        ):
            torch.testing.assert_close(
                logits, alone(classifier, ids, range(1)).logits[0], atol=1e-5, rtol=1e-5
            )
            expected = alone(answerer, ids, range(1))
            torch.testing.assert_close(start, expected.start_logits[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(end, expected.end_logits[0], atol=1e-5, rtol=1e-5)


def test_a_prompt_reads_beyond_the_decoders_positions_and_depends_on_all_of_the_document() -> None:
    model, ids = model_of(LEDForSequenceClassification, **PROMPT), documents([128])[0]
    changed = [*ids[:100], 9, *ids[101:]]
    with torch.no_grad():
        one, other = model.forward_packed(pack_documents([ids, changed], [range(1)] * 2))
    assert (one - other).abs().max() > 1e-4
    assert model.config.max_input_tokens == 128 and tiny_config().max_input_tokens == 64


@pytest.mark.parametrize("cls", [LEDForSequenceClassification, LEDForQuestionAnswering])
@pytest.mark.parametrize("config", [{}, PROMPT], ids=["document", "prompt"])
def test_reading_can_be_trained(cls: type, config: dict[str, Any]) -> None:
    model, rows = model_of(cls, **config), documents([9, 30])
    batch = pack_documents(rows, [range(1)] * 2)
    sum(
        torch.as_tensor(x if isinstance(x, torch.Tensor) else torch.stack(x)).sum()
        for x in model.forward_packed(batch)
    ).backward()
    packed = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    for ids in rows:
        out = alone(model, ids, range(1))
        (
            out.logits.sum()
            if cls is LEDForSequenceClassification
            else (out.start_logits + out.end_logits).sum()
        ).backward()
    assert len(packed) > 50
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, atol=1e-3, rtol=1e-4)


def test_a_document_beyond_the_positions_is_refused() -> None:
    batch = pack_documents(documents([65]), [range(1)])
    with pytest.raises(ValueError, match="the decoder input has 65 positions; this model has 64"):
        model_of(LEDModel).forward_packed(batch)


def test_decoder_inputs_beside_a_prompt_are_refused() -> None:
    ids = torch.tensor(documents([9]))
    for cls in (LEDForSequenceClassification, LEDForQuestionAnswering):
        with pytest.raises(ValueError, match="this checkpoint's decoder input is its decoder_prompt"):
            model_of(cls, **PROMPT)(ids, decoder_input_ids=ids)


def test_the_prompt_is_kept_in_the_file_and_only_where_there_is_one(tmp_path: Path) -> None:
    tiny_config(**PROMPT).save_pretrained(tmp_path)
    assert LEDConfig.from_pretrained(tmp_path).decoder_prompt == (2, 0, 7)
    tiny_config().save_pretrained(tmp_path)
    assert "decoder_prompt" not in json.loads((tmp_path / "config.json").read_text())
    for wrong in ([99], [-1], ["a"], [0] * 65, 7):
        with pytest.raises(
            ValueError, match=r"decoder_prompt is .*; it must be a list of at most 64 token ids"
        ):
            tiny_config(decoder_prompt=wrong)


def test_windows_come_back_in_their_order_and_are_pooled() -> None:
    model, rows = model_of(LEDForSequenceClassification), documents([20, 3, 50, 8])
    chunks = [ChunkInput(ids, 0, len(ids) - 2, 1, [0]) for ids in rows]
    few, many = read_chunks(model, chunks, 10), read_chunks(model, chunks, 10_000)
    with torch.no_grad():
        for ids, a, b in zip(rows, few, many, strict=True):
            torch.testing.assert_close(a, alone(model, ids, range(1)).logits[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    stacked = torch.stack(few)
    assert torch.equal(pool_logits(stacked, "max"), stacked.max(0).values) and torch.equal(
        pool_logits(stacked, "mean"), stacked.mean(0)
    )
    assert [
        default_pooling(kind)
        for kind in ("multi_label_classification", "single_label_classification", "regression", None)
    ] == ["max", "mean", "mean", "mean"]


@pytest.mark.parametrize("global_positions", [0, 1, 4])
def test_answers_scores_are_the_references(global_positions: int) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference, transformers, is not installed")
    reference = transformers.LEDForQuestionAnswering(transformers.LEDConfig(**TINY)).eval()
    spread_weights(reference, seed=7, scale=8)
    model = LEDForQuestionAnswering(tiny_config())
    model.load_state_dict(reference.state_dict())
    rows = documents([1, 2, 9, 63, 64, 40])
    counts = [min(global_positions, len(ids)) for ids in rows]
    chunks = [
        ChunkInput(ids, 0, 0, count, list(range(count))) for ids, count in zip(rows, counts, strict=True)
    ]
    with torch.no_grad():
        for chunk, (start, end) in zip(chunks, read_chunks(model.eval().pack(), chunks, 100), strict=True):
            expected = alone(reference, chunk.input_ids, range(chunk.offset))
            torch.testing.assert_close(start, expected.start_logits[0], atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(end, expected.end_logits[0], atol=1e-4, rtol=1e-5)
