"""All names of the package: what `from led import …` finds."""

from led.batch_encoding import BatchEncoding
from led.cache import DecoderCache
from led.config import LEDConfig
from led.generation import DecodingLimits, DecodingLoop, GenerateOutput, generate
from led.generation_config import GenerationConfig
from led.model import (
    LEDForConditionalGeneration,
    LEDForQuestionAnswering,
    LEDForSequenceClassification,
    LEDInputs,
    LEDModel,
)
from led.outputs import (
    LEDEncoderBaseModelOutput,
    LEDSeq2SeqLMOutput,
    LEDSeq2SeqModelOutput,
    LEDSeq2SeqQuestionAnsweringModelOutput,
    LEDSeq2SeqSequenceClassifierOutput,
)
from led.packing import PackedBatch, pack_documents
from led.pipelines import QuestionAnsweringPipeline, Text2TextPipeline, TextClassificationPipeline, pipeline
from led.pretrained import LEDPreTrainedModel
from led.tokenizer import LEDTokenizer, LEDTokenizerFast
from led.weight_files import CheckpointError

__all__ = [
    "BatchEncoding",
    "CheckpointError",
    "DecoderCache",
    "DecodingLimits",
    "DecodingLoop",
    "GenerateOutput",
    "GenerationConfig",
    "LEDConfig",
    "LEDEncoderBaseModelOutput",
    "LEDForConditionalGeneration",
    "LEDForQuestionAnswering",
    "LEDForSequenceClassification",
    "LEDInputs",
    "LEDModel",
    "LEDPreTrainedModel",
    "LEDSeq2SeqLMOutput",
    "LEDSeq2SeqModelOutput",
    "LEDSeq2SeqQuestionAnsweringModelOutput",
    "LEDSeq2SeqSequenceClassifierOutput",
    "LEDTokenizer",
    "LEDTokenizerFast",
    "PackedBatch",
    "QuestionAnsweringPipeline",
    "Text2TextPipeline",
    "TextClassificationPipeline",
    "generate",
    "pack_documents",
    "pipeline",
]
