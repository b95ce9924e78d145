"""The mask of a padded batch has the positions of the rules, and none of the padding."""

from __future__ import annotations

import pytest
import torch

from led import global_attention_mask
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words


def test_a_padded_batch() -> None:
    tokenizer = LEDTokenizer.learn([words(200, 0)], vocab_size=320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    separator = tokenizer.convert_tokens_to_ids("<doc-sep>")
    batch = tokenizer(["the pump<doc-sep>water", "the"], padding=True, return_tensors="pt")
    ids, visible = batch["input_ids"], batch["attention_mask"]
    mask = global_attention_mask(tokenizer, ids, ["first", "separator"], attention_mask=visible)
    expected = (ids == separator) | (torch.arange(ids.shape[1]) == 0)
    assert torch.equal(mask, expected.long())
    every = global_attention_mask(tokenizer, ids, "every:1", attention_mask=visible)
    assert torch.equal(every, visible)
    assert global_attention_mask(tokenizer, ids, "none").sum() == 0
    assert torch.equal(
        global_attention_mask(tokenizer, ids, "question", leading=2)[:, :3].sum(1), torch.tensor([2, 2])
    )
    with pytest.raises(ValueError, match="column:NAME is for tables"):
        global_attention_mask(tokenizer, ids, "column:spans")
