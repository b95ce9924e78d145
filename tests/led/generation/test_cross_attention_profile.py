"""The cross-attention profile equals the attention weights of `forward`, for plain and paged KV caches."""

from __future__ import annotations

import pytest
import torch

from led.batch.packed_batch import pack_documents
from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.generation.cross_attention_profile import profile_of, summed_cross_attention
from led.generation.cuda_graph_runner import CudaGraphRunner
from led.generation.scheduler import Scheduler
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.testing import TINY, spread_weights

BINS = 8


@pytest.fixture(scope="module")
def model() -> LEDForConditionalGeneration:
    made = LEDForConditionalGeneration(LEDConfig(**TINY)).eval()
    spread_weights(made, seed=3, scale=2)
    return made


def document(length: int) -> list[int]:
    return [0, *(5 + i * 7 % 90 for i in range(length - 2)), 2]


def profile_of_forward(
    model: LEDForConditionalGeneration, ids: list[int], sequence: list[int]
) -> list[float]:
    """The profile from the cross-attention weights that `forward` returns."""
    glob = torch.zeros(1, len(ids), dtype=torch.long)
    glob[:, 0] = 1
    with torch.inference_mode():
        out = model(
            input_ids=torch.tensor([ids]),
            global_attention_mask=glob,
            decoder_input_ids=torch.tensor([sequence[:-1]]),
            output_attentions=True,
        )
    total = torch.stack(out.cross_attentions).sum((0, 1, 2, 3))[: len(ids)]
    shares = [
        float(total[[i for i in range(len(ids)) if i * BINS // len(ids) == b]].sum()) for b in range(BINS)
    ]
    return [share / sum(shares) for share in shares]


@pytest.mark.parametrize("beams", [1, 4])
def test_hypotheses_have_the_cross_attention_profile(model: LEDForConditionalGeneration, beams: int) -> None:
    lengths = [40, 3, 17, 29]
    config = GenerationConfig(num_beams=beams, max_length=9)
    packed = [pack_documents([document(n)], [[0]]) for n in lengths]
    found = dict(Scheduler(model, config, attention=True).run(packed))
    without = dict(Scheduler(model, config).run(packed))
    for i, n in enumerate(lengths):
        assert found[i].sequences == without[i].sequences and without[i].attention is None
        profile = profile_of(found[i].attention, BINS)
        expected = profile_of_forward(model, document(n), found[i].sequences[0])
        assert profile == pytest.approx(expected, abs=1e-5) and sum(profile) == pytest.approx(1)


def test_paged_documents_have_the_same_profile(model: LEDForConditionalGeneration) -> None:
    batch = pack_documents([document(n) for n in (40, 3, 128)], [[0]] * 3)
    with torch.inference_mode():
        encoded = model.led.encoder.encode(batch)
        runner = CudaGraphRunner(model, None, 4, 2, 16, 1 << 24)
        runner.add(batch, encoded, [2])
        documents = model.led.decoder.cross_attention_cache(encoded, batch)
        for d, plain in enumerate(documents):
            ways = [
                profile_of(summed_cross_attention(model.led.decoder, each, [2, 0, 9, 11, 2]), BINS)
                for each in (plain, runner.document(d))
            ]
            assert ways[0] == pytest.approx(ways[1], abs=1e-6)
