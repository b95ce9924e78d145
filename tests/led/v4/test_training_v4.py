"""The Trainer of transformers, Accelerate and PEFT train our models. Adapters are merged as PEFT does it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.sequence_classification import LEDForSequenceClassification
from led.testing import TINY, spread_weights, tiny_config, tiny_model

ABSENT = "the reference, transformers 4.57, is not installed: make test-parity"
transformers = pytest.importorskip("transformers", reason=ABSENT)
accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: make test-parity")
peft = pytest.importorskip("peft", reason="peft is not installed: make test-parity")
if not transformers.__version__.startswith("4."):
    pytest.skip(ABSENT, allow_module_level=True)

TARGETS = ["query", "value_global", "q_proj", "v_proj", "fc1"]


def examples(labels: Any = None) -> list[dict[str, Tensor]]:
    ids = torch.randint(5, 99, (8, 20), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    return [
        {
            "input_ids": row,
            "attention_mask": torch.ones_like(row),
            "labels": row[:6] if labels is None else labels[i],
        }
        for i, row in enumerate(ids)
    ]


def saving(trainer: type) -> type:
    """The trainer, with the only method that a model which is not transformers' own needs."""

    class Saving(trainer):  # type: ignore[misc, valid-type]
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            self.model.save_pretrained(output_dir or self.args.output_dir)

    return Saving


@pytest.mark.parametrize(
    ("trainer", "more"),
    [
        ("Trainer", {}),
        ("Trainer", {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}),
        ("Seq2SeqTrainer", {"predict_with_generate": True, "generation_max_length": 8}),
    ],
)
def test_trainers_train_as_the_reference_and_save(tmp_path: Path, trainer: str, more: dict[str, Any]) -> None:
    theirs = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**TINY, dropout=0.0))
    spread_weights(theirs, seed=3)
    ours = LEDForConditionalGeneration(tiny_config(dropout=0.0))
    ours.load_state_dict(theirs.state_dict())
    losses = []
    kind = "Seq2SeqTrainingArguments" if trainer == "Seq2SeqTrainer" else "TrainingArguments"
    for model, name in ((theirs, "theirs"), (ours, "ours")):
        arguments = getattr(transformers, kind)(
            output_dir=str(tmp_path / name),
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            **more,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = saving(getattr(transformers, trainer))(
                model=model, args=arguments, train_dataset=examples(), eval_dataset=examples()
            )
            losses.append((run.train().training_loss, run.evaluate()["eval_loss"]))
            run.save_model(str(tmp_path / name / "saved"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    saved = LEDForConditionalGeneration.from_pretrained(tmp_path / "ours" / "saved")
    trained = theirs.state_dict()
    for name, x in saved.state_dict().items():
        torch.testing.assert_close(x, trained[name], rtol=1e-3, atol=1e-4)


def test_a_classifier_trains_in_the_trainer(tmp_path: Path) -> None:
    model = LEDForSequenceClassification(tiny_config(num_labels=3))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to=[], use_cpu=True, save_strategy="no"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = saving(transformers.Trainer)(
            model=model, args=arguments, train_dataset=examples(torch.arange(8) % 3)
        )
        assert run.train().training_loss > 0


def test_accelerate_trains() -> None:
    runner = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = tiny_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(examples(), batch_size=2)  # type: ignore[arg-type]
    model, optimizer, loader = runner.prepare(model, optimizer, loader)
    losses = []
    for _ in range(6):
        for batch in loader:
            with runner.accumulate(model):
                loss = model(**batch).loss
                runner.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "lora_alpha": 7},
        {"use_dora": True},
        {"rank_pattern": {"fc1": 4}, "alpha_pattern": {"fc1": 32, "encoder.layers.0.*query": 5}},
        {"bias": "all"},
        {"target_modules": ["query", "embed_positions"]},
    ],
    ids=lambda each: "-".join(each) or "plain",
)
def test_adapters_are_merged_as_peft_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    base = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**TINY))
    spread_weights(base, seed=3)
    base.save_pretrained(tmp_path / "base")
    config = {"r": 2, "target_modules": TARGETS, "task_type": "SEQ_2_SEQ_LM", **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(base, peft.LoraConfig(**config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().eval()
    cache = str(tmp_path / "cache")
    ours = LEDForConditionalGeneration.from_pretrained(tmp_path / "adapter", cache_dir=cache)
    batch = examples()[0]
    ids, labels = batch["input_ids"][None], batch["labels"][None]
    with torch.no_grad():
        torch.testing.assert_close(
            ours(ids, labels=labels).logits, merged(ids, labels=labels).logits, rtol=1e-4, atol=1e-4
        )


def test_peft_trains_our_model_and_its_adapter_is_read(tmp_path: Path) -> None:
    model = tiny_model(seed=5)
    model.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=TARGETS, task_type="SEQ_2_SEQ_LM")
    )
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    batch = {name: torch.stack([each[name] for each in examples()]) for name in examples()[0]}
    first = adapted(**batch).loss
    for _ in range(5):
        loss = adapted(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < first
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(tmp_path / "adapter")
    tokens = adapted.eval().generate(input_ids=batch["input_ids"], max_new_tokens=6)
    loaded = LEDForConditionalGeneration.from_pretrained(
        tmp_path / "adapter", base_model=str(tmp_path / "base"), cache_dir=tmp_path / "cache"
    )
    assert torch.equal(loaded.generate(batch["input_ids"], max_new_tokens=6), tokens)
