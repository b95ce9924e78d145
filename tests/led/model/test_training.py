"""Losses and gradients of every head are the reference's, dropout included, and training lowers the loss.

Classification is compared with the reference in `v4/`, the last version that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import led
from led.checkpoint.files import CheckpointError
from led.model import decoder, encoder
from led.testing import TINY, spread_weights, tiny_config

transformers = pytest.importorskip(
    "transformers", "5", reason="the reference, transformers 5, is not installed"
)

from tests.led.model.test_led_model import GLOBALS, TOLERANCE, global_mask, padding, tokens  # noqa: E402
from tests.led.model.test_outputs import EVERYTHING, masked, pair  # noqa: E402

HEADS = ("LEDForConditionalGeneration", "LEDForSequenceClassification", "LEDForQuestionAnswering")
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout")


def documents(rows: int = 3, n: int = 13) -> dict[str, Tensor]:
    """Documents with one end token each, the last ones padded. The model makes its own decoder inputs."""
    batch = {
        "input_ids": tokens(0, rows, n),
        "attention_mask": padding("right", rows, n),
        "global_attention_mask": global_mask("several", rows, n),
    }
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        batch["input_ids"][row, length - 1] = 2
        batch["input_ids"][row, length:] = 1
    return batch


def targets(name: str, rows: int = 3) -> dict[str, Tensor]:
    """Labels for a head."""
    if name == "LEDForConditionalGeneration":
        labels = tokens(4, rows, 6)
        labels[0, 4:] = -100
        return {"labels": labels}
    if name == "LEDForQuestionAnswering":
        return {"start_positions": torch.arange(rows), "end_positions": torch.arange(rows) + 3}
    return {"labels": torch.arange(rows) % 2}


def made(name: str, **changes: Any) -> Any:
    """A model of this library in training mode, with spread-out weights."""
    model = getattr(led, name)(tiny_config(**{"dropout": 0.0, **changes}))
    spread_weights(model, seed=5)
    return model.train()


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(mine: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert mine.keys() == other.keys()
    for name, expected in other.items():
        # A key's bias adds the same to all scores of a softmax: its gradient is nought but for rounding.
        torch.testing.assert_close(
            mine[name], expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


# Losses.


def test_the_loss_of_answers_is_the_references_wherever_they_lie() -> None:
    ours, reference = pair("LEDForQuestionAnswering")
    batch = masked(13, "right", "one")
    T = batch["decoder_input_ids"].shape[1]
    places = ([0, 2, T - 1], [0, T, 3], [T + 1, 99, 1], [-1, 2, -100], [T, 2, T], [-5, 4, 50])
    for starts in places:
        for ends in places:
            for shape in ((3,), (3, 1)):
                where = {
                    "start_positions": torch.tensor(starts).view(shape),
                    "end_positions": torch.tensor(ends).view(shape),
                }
                with torch.no_grad():
                    mine, other = ours(**batch, **where), reference(**batch, **where)
                assert mine.past_key_values is None
                torch.testing.assert_close(mine.loss, other.loss, atol=TOLERANCE, rtol=0, equal_nan=True)
                assert mine.loss.shape == other.loss.shape == ()
    whole = {
        key: x for key, x in batch.items() if key != "decoder_input_ids"
    }  # the decoder reads the document
    where = {"start_positions": torch.tensor([0, 12, 13]), "end_positions": torch.tensor([1, 12, 40])}
    with torch.no_grad():
        torch.testing.assert_close(
            ours(**whole, **where).loss, reference(**whole, **where).loss, atol=TOLERANCE, rtol=0
        )


def test_there_is_no_loss_without_both_ends_of_the_answers() -> None:
    ours, reference = pair("LEDForQuestionAnswering")
    batch = masked(13, "right", "one")
    for one in ("start_positions", "end_positions"):
        with torch.no_grad():
            mine, other = (model(**batch, **{one: torch.tensor([0, 1, 2])}) for model in (ours, reference))
        assert mine.loss is other.loss is None
        assert list(mine) == list(other)


def test_the_loss_of_a_text_is_the_references() -> None:
    ours, reference = pair("LEDForConditionalGeneration")
    batch = masked(13, "holes", "one")
    ids = batch.pop("decoder_input_ids")
    for labels in (
        tokens(4, 3, 6),
        tokens(5, 3, 6).masked_fill(padding("right", 3, 6) == 0, -100),
        torch.full((3, 6), -100),
        tokens(6, 3, 6).masked_fill(padding("left", 3, 6) == 0, 1),
    ):
        for given in ({}, {"decoder_input_ids": ids}, {"decoder_input_ids": ids, "use_cache": True}):
            with torch.no_grad():
                mine, other = (model(**batch, **given, labels=labels) for model in (ours, reference))
            assert list(mine) == list(other)
            torch.testing.assert_close(mine.loss, other.loss, atol=TOLERANCE, rtol=0, equal_nan=True)


# Gradients.


@pytest.mark.parametrize("name", ["LEDModel", "LEDForConditionalGeneration", "LEDForQuestionAnswering"])
def test_every_gradient_is_the_references(name: str) -> None:
    ours, reference = pair(name, (4, 8))

    def loss(model: Any, batch: dict[str, Any]) -> Tensor:
        if name != "LEDModel":
            return model(**batch, **targets(name)).loss
        states = model(**batch)[0]
        return (states * torch.linspace(-1, 1, states.numel()).view(states.shape)).mean()

    for kind, dark in product(GLOBALS, (None, "document", "decoder")):
        batch = masked(26, "holes", kind)
        if dark == "document":  # the decoder sees nothing of it
            batch["attention_mask"][2] = 0
        if dark == "decoder":  # its first query sees nothing
            batch["decoder_attention_mask"] = padding("left", 3, 6)
        expected = gradients(reference, loss(reference, batch))
        for path in ({}, EVERYTHING):  # packed, and plainly
            assert_same_gradients(gradients(ours, loss(ours, batch | path)), expected)


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_the_same_on_both_paths_and_with_layers_computed_again(name: str) -> None:
    model = made(name, attention_window=(4, 8))
    for kind in GLOBALS:
        batch = documents(n=17) | targets(name) | {"global_attention_mask": global_mask(kind, 3, 17)}
        expected = gradients(model, model(**batch).loss)
        assert_same_gradients(gradients(model, model(**batch, output_attentions=True).loss), expected)
        model.gradient_checkpointing_enable()
        out = model(**batch)
        assert out.past_key_values is None
        assert_same_gradients(gradients(model, out.loss), expected)
        assert_same_gradients(gradients(model, model(**batch, output_attentions=True).loss), expected)
        model.gradient_checkpointing_disable()


def test_gradients_with_layers_computed_again_are_the_same_under_dropout() -> None:
    for name in HEADS:
        model = made(name, **dict.fromkeys(DROPOUTS, 0.2))
        found = []
        for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
            enable()
            torch.manual_seed(0)
            found.append(gradients(model, model(**documents(), **targets(name)).loss))
        assert_same_gradients(*found)


def test_layers_are_computed_again_only_where_a_backward_pass_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    for module in (encoder, decoder):
        monkeypatch.setattr(
            module, "checkpoint", lambda *args, **how: calls.append(1) or checkpoint(*args, **how)
        )
    model = made("LEDForConditionalGeneration")
    model.gradient_checkpointing_enable()
    batch = documents() | targets("LEDForConditionalGeneration")
    with torch.no_grad():
        model(**batch)
    model.eval()(**batch)
    assert not calls
    model.train()(**batch)
    assert len(calls) == 4


def test_the_embedding_of_padding_is_not_learned_from_documents() -> None:
    model = made("LEDModel")
    found = gradients(model, model(**documents()).last_hidden_state.square().sum())
    assert not found["shared.weight"][1].any()
    assert found["shared.weight"][2].any()


# Dropout.


@pytest.mark.parametrize("name", HEADS)
def test_each_dropout_alone_makes_training_random_and_evaluation_not(name: str) -> None:
    batch = documents()
    for path in ({}, {"output_attentions": True}):
        for place in (None, *DROPOUTS):
            model = made(name, **({} if place is None else {place: 0.3}))
            outputs = [first(model, batch | path) for _ in range(2)]
            torch.manual_seed(3)
            seeded = first(model, batch | path)
            torch.manual_seed(3)
            assert torch.equal(seeded, first(model, batch | path))
            model.eval()
            calm = [first(model, batch | path) for _ in range(2)]
            assert torch.equal(*calm)
            acts = place is not None and (
                place != "classifier_dropout" or name == "LEDForSequenceClassification"
            )
            assert torch.equal(*outputs) != acts, place
            assert torch.allclose(outputs[0], calm[0], atol=TOLERANCE) != acts, place


@torch.no_grad()
def first(model: Any, batch: dict[str, Any]) -> Tensor:
    """The first result of a model: its logits."""
    out = model(**batch)
    return out[0]


@pytest.mark.parametrize("place", DROPOUTS[:3])
def test_dropout_spreads_every_state_as_the_references_does(place: str) -> None:
    rows, n = 600, 9
    changes = {**dict.fromkeys(DROPOUTS, 0.0), place: 0.3}
    reference = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**{**TINY, **changes}))
    spread_weights(reference, seed=7)
    ours = made("LEDForConditionalGeneration", **changes)
    ours.load_state_dict(reference.state_dict())
    batch = {
        "input_ids": tokens(0, 1, n),
        "decoder_input_ids": tokens(1, 1, 3),
        "global_attention_mask": global_mask("one", 1, n),
    }
    batch = {key: x.expand(rows, -1) for key, x in batch.items()}
    spreads = []
    for model, paths in ((reference.train(), ({},)), (ours, ({}, {"output_attentions": True}))):
        for path in paths:
            torch.manual_seed(1)
            with torch.no_grad():
                out = model(**batch, **path, output_hidden_states=True)
            states = (*out.encoder_hidden_states, *out.decoder_hidden_states, out.logits)
            spreads.append(torch.cat([x.std(0).flatten(1).mean(1) for x in states]))  # by position
            assert len(states) == 7
    for mine in spreads[1:]:
        torch.testing.assert_close(mine, spreads[0], rtol=0.12, atol=1e-6)


def test_layers_are_left_out_in_training_as_often_as_the_configuration_says() -> None:
    batch = documents() | targets("LEDForConditionalGeneration")
    model = made("LEDForConditionalGeneration", encoder_layerdrop=0.4, decoder_layerdrop=0.4)
    plain = made("LEDForConditionalGeneration").eval()
    assert torch.equal(first(model.eval(), batch), first(plain, batch))
    model.train()
    kinds: dict[float, int] = {}
    for seed in range(200):
        torch.manual_seed(seed)
        loss = round(first(model, batch).item(), 5)
        kinds[loss] = kinds.get(loss, 0) + 1
    assert (
        len(kinds) == 13
    )  # each of four layers is there or not; without decoder layers the encoder's do not count
    everything = kinds[round(first(plain, batch).item(), 5)]
    assert 0.6**4 - 0.08 < everything / 200 < 0.6**4 + 0.08


def test_left_out_layers_are_the_references_for_the_same_seed() -> None:
    drops = {"dropout": 0.0, "encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5}
    reference = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**{**TINY, **drops})).train()
    spread_weights(reference, seed=7)
    ours = made("LEDForConditionalGeneration", **drops)
    ours.load_state_dict(reference.state_dict())
    batch = documents() | targets("LEDForConditionalGeneration")
    for seed in range(20):
        found = []
        for model in (ours, reference):
            torch.manual_seed(seed)
            found.append(gradients(model, model(**batch).loss))
        assert_same_gradients(*found)


# Training.


@pytest.mark.parametrize("name", HEADS)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    batch = documents() | targets(name)
    ways: tuple[Callable[[Any], None], ...] = (
        lambda model: None,
        lambda model: model.gradient_checkpointing_enable(),
    )
    for prepare in ways:
        torch.manual_seed(0)
        model = made(name, dropout=0.1, attention_dropout=0.1, encoder_layerdrop=0.1, decoder_layerdrop=0.1)
        prepare(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        before = model.eval()(**batch).loss.item()
        model.train()
        for _ in range(20):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        assert model.eval()(**batch).loss.item() < 0.6 * before
        if name == "LEDForConditionalGeneration":
            assert model.lm_head.weight is model.led.shared.weight


def test_the_steps_of_an_optimizer_are_the_references() -> None:
    batch = documents() | targets("LEDForConditionalGeneration")
    losses = []
    for model in pair("LEDForConditionalGeneration"):
        start = {key: x.clone() for key, x in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.load_state_dict(start)
        model.zero_grad()
    assert losses[0] > losses[4]
    assert losses[:5] == pytest.approx(losses[5:], abs=1e-4)


# Labels of classification.


def test_each_kind_of_label_has_its_loss() -> None:
    batch = documents()
    three = {"id2label": {0: "a", 1: "b", 2: "c"}}
    floats = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    single, several = torch.tensor([2, 0, 1]), torch.tensor([0.5, -1.0, 3.0])
    cases: list[tuple[str, dict[str, Any], Tensor, Callable[[Tensor], Tensor]]] = [
        ("single_label_classification", three, single, lambda x: F.cross_entropy(x, single)),
        (
            "multi_label_classification",
            three,
            floats,
            lambda x: F.binary_cross_entropy_with_logits(x, floats),
        ),
        ("regression", {"num_labels": 1}, several, lambda x: F.mse_loss(x[:, 0], several)),
        ("regression", {"num_labels": 1}, several[:, None], lambda x: F.mse_loss(x[:, 0], several)),
    ]
    for kind, shape, labels, loss in cases:
        for given in (None, kind):
            model = made("LEDForSequenceClassification", **shape, problem_type=given).eval()
            out = model(**batch, labels=labels)
            torch.testing.assert_close(out.loss, loss(out.logits))
            assert out.past_key_values is None
    model = made("LEDForSequenceClassification", **three, problem_type="regression").eval()
    out = model(**batch, labels=floats)
    torch.testing.assert_close(out.loss, F.mse_loss(out.logits, floats))


def test_labels_and_documents_that_do_not_fit_are_refused() -> None:
    batch = documents()
    model = made("LEDForSequenceClassification", num_labels=3).eval()
    for problem, labels, said in (
        (None, torch.tensor([0, 1]), "single_label_classification of 3 labels"),
        (None, torch.zeros(3), "multi_label_classification of 3 labels"),
        (None, torch.zeros(3, 2), "(3, 2)"),
        ("regression", torch.zeros(3), "regression of 3 labels"),
        ("single_label_classification", torch.zeros(3, 3, dtype=torch.long), "(3, 3)"),
    ):
        fitted = made("LEDForSequenceClassification", num_labels=3, problem_type=problem).eval()
        with pytest.raises(ValueError, match="labels have shape") as error:
            fitted(**batch, labels=labels)
        assert said in str(error.value)
    uneven, none = batch["input_ids"].clone(), batch["input_ids"].clone()
    uneven[1, 2] = 2
    none[none == 2] = 5
    for ids, said in ((uneven, "1 or 2 end tokens"), (none, "have 0 end tokens")):
        with pytest.raises(ValueError, match=said):
            model(**batch | {"input_ids": ids})
    with pytest.raises(ValueError, match="inputs_embeds alone are not enough"):
        model(inputs_embeds=torch.zeros(3, 13, 32))
    with pytest.raises(ValueError, match="6 positions for 13 tokens"):
        model(**batch, decoder_input_ids=tokens(1, 3, 6))


# A new head.


def test_a_new_head_is_drawn_over_the_weights_of_any_folder(tmp_path: Path) -> None:
    for number, source in enumerate(("LEDModel", *HEADS)):
        folder = tmp_path / source
        saved = made(source)
        saved.save_pretrained(folder)
        body = getattr(saved, "led", saved).state_dict()
        for name in HEADS:
            torch.manual_seed(number)
            model = getattr(led, name).from_pretrained(folder, new_head=True, num_labels=4)
            assert not model.training
            for key, x in model.led.state_dict().items():
                assert torch.equal(x, body[key]), key
            heads = {key: x for key, x in model.state_dict().items() if key.startswith(model.head)}
            for key, x in heads.items():
                assert (
                    key not in saved.state_dict()
                    or not torch.equal(x, saved.state_dict()[key])
                    or not x.any()
                )
                if key.endswith("weight"):
                    assert 0.01 < x.std() < 0.03
                else:
                    assert not x.any()
            assert heads.keys() and all(not x.is_meta for x in heads.values())
            model.train()(**documents(), **targets(name)).loss.backward()
            if name == "LEDForSequenceClassification":
                assert (
                    model.config.num_labels
                    == len(model.config.labels)
                    == len(model.classification_head.out_proj.bias)
                    == 4
                )


def test_a_folder_of_another_task_is_refused_with_advice(tmp_path: Path) -> None:
    advice = "Load a checkpoint trained for this task, or pass new_head=True to train a new head"
    for source in ("LEDModel", *HEADS):
        made(source).save_pretrained(tmp_path / source)
    for name, head in (
        ("LEDForSequenceClassification", "classification_head."),
        ("LEDForQuestionAnswering", "qa_outputs."),
    ):
        model = getattr(led, name)
        with pytest.raises(CheckpointError, match=rf"\d missing: {head}.*{advice}"):
            model.from_pretrained(tmp_path / "LEDModel")
        with pytest.raises(
            CheckpointError, match=rf"{name}: \d missing: {head}.*1 unexpected: final_logits_bias.*{advice}"
        ):
            model.from_pretrained(tmp_path / "LEDForConditionalGeneration")
        with pytest.raises(CheckpointError, match=r"mis-shaped|missing") as error:
            model.from_pretrained(tmp_path / name, d_model=16)
        assert (
            "mis-shaped" in str(error.value)
            and "missing" not in str(error.value)
            and advice not in str(error.value)
        )
    classifier = led.LEDForSequenceClassification
    with pytest.raises(CheckpointError, match="2 mis-shaped: classification_head") as error:
        classifier.from_pretrained(tmp_path / "LEDForSequenceClassification", num_labels=5)
    assert "(2, 32)" in str(error.value) and "(5, 32)" in str(error.value)
    five = classifier.from_pretrained(tmp_path / "LEDForSequenceClassification", num_labels=5, new_head=True)
    assert five.classification_head.out_proj.weight.shape == (5, 32)
