"""led: Longformer-Encoder-Decoder (arXiv:2004.05150) in PyTorch alone.

    from led import LEDForConditionalGeneration, LEDTokenizer, generate

Not here: corpora, clusters and files of documents; those are `pipeline`.
"""

from led.checkpoint import CheckpointError, load_model, save_model
from led.config import LEDConfig
from led.generation import DecodingLimits, DecodingLoop, GenerateOutput, GenerationConfig, generate
from led.model import LEDForConditionalGeneration, LEDModel
from led.outputs import LEDEncoderBaseModelOutput, LEDSeq2SeqLMOutput, LEDSeq2SeqModelOutput
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
    "LEDModel",
    "LEDSeq2SeqLMOutput",
    "LEDSeq2SeqModelOutput",
    "LEDTokenizer",
    "PackedBatch",
    "generate",
    "load_model",
    "pack_documents",
    "save_model",
]
