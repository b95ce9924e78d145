"""led: Longformer-Encoder-Decoder (arXiv:2004.05150) in plain PyTorch.

    from led import LEDForConditionalGeneration, LEDTokenizer, pipeline

Names are loaded on first use, so a process that only tokenizes does not import torch. The guide is
docs/tutorials/python.md. Corpora and clusters are the package `pipeline`.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # with `as`, type checkers see public names
    from led.batch.packed_batch import (
        PackedBatch as PackedBatch,
        pack_documents as pack_documents,
    )
    from led.checkpoint.files import CheckpointError as CheckpointError
    from led.config import LEDConfig as LEDConfig
    from led.generation.config import GenerationConfig as GenerationConfig
    from led.generation.generate import (
        GenerateOutput as GenerateOutput,
        generate as generate,
    )
    from led.generation.limits import SchedulerLimits as SchedulerLimits
    from led.generation.scheduler import Scheduler as Scheduler
    from led.heads.conditional_generation import LEDForConditionalGeneration as LEDForConditionalGeneration
    from led.heads.question_answering import LEDForQuestionAnswering as LEDForQuestionAnswering
    from led.heads.sequence_classification import LEDForSequenceClassification as LEDForSequenceClassification
    from led.kv_cache.decoder_cache import DecoderCache as DecoderCache
    from led.model.led_model import (
        LEDInputs as LEDInputs,
        LEDModel as LEDModel,
    )
    from led.model.outputs import (
        LEDEncoderBaseModelOutput as LEDEncoderBaseModelOutput,
        LEDSeq2SeqLMOutput as LEDSeq2SeqLMOutput,
        LEDSeq2SeqModelOutput as LEDSeq2SeqModelOutput,
        LEDSeq2SeqQuestionAnsweringModelOutput as LEDSeq2SeqQuestionAnsweringModelOutput,
        LEDSeq2SeqSequenceClassifierOutput as LEDSeq2SeqSequenceClassifierOutput,
    )
    from led.model.pretrained import LEDPreTrainedModel as LEDPreTrainedModel
    from led.pipelines.masks import global_attention_mask as global_attention_mask
    from led.pipelines.pipeline import pipeline as pipeline
    from led.pipelines.question_answering import (
        QuestionAnsweringPipeline as QuestionAnsweringPipeline,
    )
    from led.pipelines.text_classification import (
        TextClassificationPipeline as TextClassificationPipeline,
    )
    from led.pipelines.text_generation import Text2TextPipeline as Text2TextPipeline
    from led.tokenizer.batch_encoding import BatchEncoding as BatchEncoding
    from led.tokenizer.tokenizer import (
        LEDTokenizer as LEDTokenizer,
        LEDTokenizerFast as LEDTokenizerFast,
    )

# The module of each public name.
_MODULES = {
    "BatchEncoding": "led.tokenizer.batch_encoding",
    "CheckpointError": "led.checkpoint.files",
    "DecoderCache": "led.kv_cache.decoder_cache",
    "GenerateOutput": "led.generation.generate",
    "GenerationConfig": "led.generation.config",
    "LEDConfig": "led.config",
    "LEDEncoderBaseModelOutput": "led.model.outputs",
    "LEDForConditionalGeneration": "led.heads.conditional_generation",
    "LEDForQuestionAnswering": "led.heads.question_answering",
    "LEDForSequenceClassification": "led.heads.sequence_classification",
    "LEDInputs": "led.model.led_model",
    "LEDModel": "led.model.led_model",
    "LEDPreTrainedModel": "led.model.pretrained",
    "LEDSeq2SeqLMOutput": "led.model.outputs",
    "LEDSeq2SeqModelOutput": "led.model.outputs",
    "LEDSeq2SeqQuestionAnsweringModelOutput": "led.model.outputs",
    "LEDSeq2SeqSequenceClassifierOutput": "led.model.outputs",
    "LEDTokenizer": "led.tokenizer.tokenizer",
    "LEDTokenizerFast": "led.tokenizer.tokenizer",
    "PackedBatch": "led.batch.packed_batch",
    "QuestionAnsweringPipeline": "led.pipelines.question_answering",
    "Scheduler": "led.generation.scheduler",
    "SchedulerLimits": "led.generation.limits",
    "Text2TextPipeline": "led.pipelines.text_generation",
    "TextClassificationPipeline": "led.pipelines.text_classification",
    "generate": "led.generation.generate",
    "global_attention_mask": "led.pipelines.masks",
    "pack_documents": "led.batch.packed_batch",
    "pipeline": "led.pipelines.pipeline",
}

# old names
_RENAMED = {"DecodingLoop": "Scheduler", "DecodingLimits": "SchedulerLimits"}
# end of old names

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"led.{name} is now led.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name in _MODULES:
        globals()[name] = value = getattr(import_module(_MODULES[name]), name)
        return value
    raise AttributeError(f"module 'led' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
