"""led: Longformer-Encoder-Decoder (arXiv:2004.05150) in PyTorch alone.

    from led import LEDForConditionalGeneration, LEDTokenizer, generate

Not here: corpora, clusters and files of documents; those are `pipeline`.
"""

from led.checkpoint import CheckpointError
from led.config import LEDConfig
from led.generation import DecodingLimits, DecodingLoop, GenerateOutput, GenerationConfig, generate
from led.model import LEDForConditionalGeneration, LEDForQuestionAnswering, LEDForSequenceClassification, LEDModel
from led.outputs import (
    LEDEncoderBaseModelOutput,
    LEDSeq2SeqLMOutput,
    LEDSeq2SeqModelOutput,
    LEDSeq2SeqQuestionAnsweringModelOutput,
    LEDSeq2SeqSequenceClassifierOutput,
)
from led.packing import PackedBatch, pack_documents
from led.tokenizer import LEDTokenizer

__all__ = [
    "CheckpointError",
    "DecodingLimits",
    "DecodingLoop",
    "GenerateOutput",
    "GenerationConfig",
    "LEDConfig",
    "LEDEncoderBaseModelOutput",
    "LEDForConditionalGeneration",
    "LEDForQuestionAnswering",
    "LEDForSequenceClassification",
    "LEDModel",
    "LEDSeq2SeqLMOutput",
    "LEDSeq2SeqModelOutput",
    "LEDSeq2SeqQuestionAnsweringModelOutput",
    "LEDSeq2SeqSequenceClassifierOutput",
    "LEDTokenizer",
    "PackedBatch",
    "generate",
    "pack_documents",
]
