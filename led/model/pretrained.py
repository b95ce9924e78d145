"""What all LED models (arXiv:2004.05150) share: configuration, initialization, loading, saving, packing.

How weights are stored in files is in `checkpoint/weights.py`, how a name becomes a folder in
`checkpoint/hub.py`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from led.checkpoint.hub import resolve
from led.checkpoint.weights import load_weights, match_weights, read_entries, save_weights
from led.config import LEDConfig
from led.model.inference_packing import inference_dtype, pack_model
from led.model.layers import LEDStack
from led.ops.cpu_capabilities import cpu
from led.ops.prepacked_linear import QuantizedLinear


class _SkipInitialization(TorchFunctionMode):
    """Modules are created without drawing initial weights, which loading would overwrite."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class LEDPreTrainedModel(nn.Module):
    """Base class of all LED models.

    `head` has the prefixes of the weights that a model adds to the bare LED. `new_head` may initialize them.
    """

    head: ClassVar[tuple[str, ...]] = ()

    # The Trainer of transformers then averages the loss itself, as it does for the reference's LED.
    accepts_loss_kwargs = False

    def __init__(self, config: LEDConfig) -> None:
        super().__init__()
        self.config = config
        self.is_packed = False

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str | None = torch.float32,
        device: torch.device | str | int = "cpu",
        device_map: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        new_head: bool = False,
        base_model: str | None = None,
        **changes: Any,
    ) -> Self:
        """The published model of a folder or a hub name, in evaluation mode.

        Weights come from safetensors or pytorch_model.bin (read as plain tensors, no code is run), whole or
        sharded, and are converted to `dtype`. "auto" or None keeps the file's own dtype. `device` (or
        `device_map`) "auto" is the first GPU, if there is one. `new_head` initializes the head's weights for
        training, whatever the files hold. A LoRA adapter is merged into its base: `base_model`, or the one
        that it names. `changes` replace fields of the configuration (`num_labels=3`).
        Peak memory is about one copy of the weights.

        Raises:
            FileNotFoundError: the folder or published model does not exist, or cannot be read or reached.
            CheckpointError: weights are absent, unreadable, missing, unexpected or of another shape. All
                are listed.
            ValueError: the configuration breaks a rule, or an argument is unknown.
        """
        folder = resolve(
            str(model),
            revision,
            base_model=base_model,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        ).folder
        config = LEDConfig.from_pretrained(folder)
        entries = read_entries(config.parameters, folder)
        loaded = cls._on_meta_device(changed(config, changes))
        device = as_device(device_map or device)
        load_weights(
            loaded,
            folder,
            dtype=as_dtype(dtype),
            device=device,
            init_std=loaded.config.init_std,
            new_head=new_head,
            read=entries,
        )
        loaded._load_settings(folder)
        return loaded.eval()

    @classmethod
    def check_pretrained(cls, folder: str | Path) -> None:
        """Check that the folder has every weight of this model, in the right shape, without loading them.

        Raises:
            FileNotFoundError: there is no config.json.
            CheckpointError: as `from_pretrained`.
        """
        config = LEDConfig.from_pretrained(folder)
        entries = read_entries(config.parameters, folder)
        match_weights(cls._on_meta_device(config), folder, read=entries)

    @classmethod
    def _on_meta_device(cls, config: LEDConfig) -> Self:
        with torch.device("meta"), _SkipInitialization():
            return cls(config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` in the layout that transformers reads.

        Raises:
            ValueError: the model was packed for inference and no longer has its weights.
        """
        if self.is_packed:
            raise ValueError(
                "this model was packed for inference and cannot be saved; load the checkpoint again to save "
                "it."
            )
        extra = {name: value for name, value in self.config.extra.items() if name != "torch_dtype"}
        extra |= {"architectures": [type(self).__name__], "dtype": str(self.dtype).removeprefix("torch.")}
        replace(self.config, extra=extra).save_pretrained(folder)
        save_weights(self.state_dict(), folder, tied=self.has_tied_head)

    def _load_settings(self, folder: Path) -> None:
        """Load what a model has besides configuration and weights."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """The number of parameters, shared ones counted once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def pack(self, *, int8: bool = False) -> Self:
        """Prepack the weights for inference on this device, in place. The model can then be neither trained
        nor saved.

        Results change by rounding only. A language-model head costs a copy of the token embedding. On the CPU
        nothing happens for dtypes without prepacked kernels. On a GPU, products of the same rows are fused.
        On a processor without fast bfloat16, a bfloat16 model reads documents in float32 and decodes in
        bfloat16. On one without bfloat16 products it is converted to float32, with a warning. With `int8`,
        linear layers compute in 8 bits, which makes a whole run 1.3 to 1.5 times as fast as in float32, and
        less exact (docs/benchmarks.md).

        Raises:
            ValueError: `int8` is not supported by this torch, device or dtype, or the model was packed
                without it.
        """
        if self.is_packed:
            if int8 and not any(isinstance(module, QuantizedLinear) for module in self.modules()):
                raise ValueError(
                    "this model was packed without int8 and no longer has its weights; load the checkpoint "
                    "again."
                )
            return self
        dtype = self.dtype if int8 else inference_dtype(self.dtype, self.device)
        if dtype != self.dtype:
            warnings.warn(
                f"this processor ({cpu().describe()}) has no products in {self.dtype}; the model computes in "
                f"{dtype} instead.",
                stacklevel=2,
            )
            self.to(dtype)
        self.is_packed = pack_model(self, dtype, self.device, int8)
        return self.requires_grad_(False)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """In training, recompute each layer in the backward pass instead of keeping its inner values.

        `gradient_checkpointing_kwargs` is what trainers pass. It has no effect: recomputation is never
        reentrant.
        """
        self._set_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """In training, keep every layer's inner values for the backward pass."""
        self._set_checkpointing(False)

    def _set_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, LEDStack):
                module.gradient_checkpointing = on

    @property
    def base_model(self) -> Any:
        """The `LEDModel` inside this model, or the model itself if it has no head."""
        return getattr(self, "led", self)

    @property
    def has_tied_head(self) -> bool:
        """Whether a language-model head shares the token embedding."""
        return self.config.tie_word_embeddings

    def tie_weights(self) -> None:
        """Share the token embedding again, after its users were assigned one by one."""
        led = self.base_model
        led.encoder.embed_tokens = led.decoder.embed_tokens = led.shared

    def get_encoder(self) -> LEDStack:
        """The encoder. It can be called alone on padded batches."""
        return self.base_model.encoder

    def get_decoder(self) -> LEDStack:
        """The decoder."""
        return self.base_model.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding, which encoder and decoder share."""
        return self.base_model.shared

    def set_input_embeddings(self, embedding: nn.Embedding) -> None:
        """Replace the token embedding."""
        self.base_model.shared = embedding
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Module | None:
        """The language-model head. None for models without one."""
        return None

    def can_generate(self) -> bool:
        """Whether this model has `generate`."""
        return False

    @torch.no_grad()
    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Grow or shrink the vocabulary, and return the embedding. New rows are initialized as at the start
        of training. `pad_to_multiple_of` rounds the size up.

        Raises:
            ValueError: a token of the configuration would be outside, or the model was packed for inference.
        """
        if self.is_packed:
            raise ValueError(
                "this model was packed for inference and keeps its vocabulary; load the checkpoint again to "
                "resize it."
            )
        vocab_size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            vocab_size = -(-vocab_size // pad_to_multiple_of) * pad_to_multiple_of
        kept = min(vocab_size, self.config.vocab_size)
        self.config = replace(self.config, vocab_size=vocab_size)
        led = self.base_model
        old = led.shared.weight
        size = (vocab_size, self.config.d_model, self.config.pad_token_id)
        led.shared = nn.Embedding(*size, device=old.device, dtype=old.dtype)
        led.shared.weight.normal_(0.0, self.config.init_std)
        led.shared.weight[:kept] = old[:kept]
        for module in (led, led.encoder, led.decoder):
            module.config = self.config
        self._resize_head(kept, vocab_size)
        self.tie_weights()
        return led.shared

    def _resize_head(self, kept: int, vocab_size: int) -> None:
        """Resize what a head has for each token, and keep the first `kept` entries."""

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal weights of standard deviation `init_std`, zero biases, and a zero embedding of the padding
        token."""
        if self.device.type == "meta":
            return
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, self.config.init_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()


def shift_tokens_right(input_ids: Tensor, pad_token_id: int, decoder_start_token_id: int) -> Tensor:
    """(B, T) the decoder input for targets (B, T): start token first, last target dropped, -100 replaced by
    padding."""
    start = input_ids.new_full((input_ids.shape[0], 1), decoder_start_token_id)
    shifted = torch.cat([start, input_ids[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, pad_token_id)


def changed(config: LEDConfig, changes: dict[str, Any]) -> LEDConfig:
    """The configuration with some fields replaced.

    Raises:
        ValueError: a name is not a field of the configuration, or a value breaks its rule.
    """
    known = LEDConfig.__dataclass_fields__.keys() - {"extra"}
    unknown = [name for name in changes if name not in known]
    if unknown:
        hint = "; use dtype=" if "torch_dtype" in unknown else ""
        raise ValueError(
            f"{unknown[0]} is neither an argument of from_pretrained nor a field of LEDConfig{hint}."
        )
    if "num_labels" in changes and "id2label" not in changes and changes["num_labels"] != config.num_labels:
        changes = {**changes, "id2label": None}
    if "id2label" in changes and "num_labels" not in changes:
        changes = {**changes, "num_labels": 0}
    return replace(config, **changes)


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype of the weights. None keeps the file's own.

    Raises:
        ValueError: it is not a floating-point dtype.
    """
    if dtype is None or dtype == "auto":
        return None
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(
            f"dtype is {dtype!r}; it must be a floating-point type such as torch.float16, its name, or "
            "'auto'."
        )
    return kind


def as_device(device: torch.device | str | int) -> torch.device:
    """A torch device, from a device or its name, "auto", the number of a GPU, or -1 for the CPU.

    Raises:
        ValueError: it is not a device, or torch does not find that GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = torch.device(
            ("cpu" if device < 0 else f"cuda:{device}") if isinstance(device, int) else device
        )
    except RuntimeError as error:
        raise ValueError(
            f"device is {device!r}; name one such as 'cpu', 'cuda', 'cuda:0' or 'auto'."
        ) from error
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {device!r}; torch finds {torch.cuda.device_count()} GPUs here: use 'cpu' or 'auto'."
        )
    return kind
