"""What every LED model (arXiv:2004.05150) shares: a configuration, the published initialisation, loading and saving.

Not here: how weights lie in files (`checkpoint.py`), how a name becomes a folder (`hub.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from led.checkpoint import load_weights, save_weights
from led.config import LEDConfig
from led.hub import resolve
from led.layers import LEDStack
from led.packed_linear import PackedLinear, QuantizedLinear, bfloat16_is_slower, has_kernels, pack_linears, plain_is_as_fast

# Linear layers that stay as they are when a model is packed: those whose weights are folded into queries, and, where torch's
# own product is as fast (and faster over more than 10,000 rows), those that multiply all tokens of a batch at once.
_FOLDED = ("key_global", "value_global")
_OVER_ALL_TOKENS = ("self_attn.query", "self_attn.key", "self_attn.value", "self_attn.output")


# Where packed layers multiply many rows at once, and wait for arithmetic rather than for memory.
_MANY_ROWS = ("encoder.", "led.encoder.")


class LEDPreTrainedModel(nn.Module):
    """What every LED model shares: configuration, initialisation, device and dtype, loading and saving.

    `head` names the weights (by prefix) that a model adds to the bare LED and that may be made new for training.
    """

    head: ClassVar[tuple[str, ...]] = ()

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
        **changes: Any,
    ) -> Self:
        """The published model of a folder or a hub name, in evaluation mode.

        Weights come from safetensors or pytorch_model.bin (read as plain tensors; no code is run), whole or sharded, and are
        converted to `dtype`; "auto" or None keeps the file's own. `device` (or `device_map`) "auto" is the first GPU where
        there is one. `new_head` makes the head's weights new, whatever the files hold, to train it. `changes` replace fields
        of the configuration (`num_labels=3`). Peak memory is about one copy of the weights.

        Raises:
            FileNotFoundError: there is no such folder or published model, or it cannot be read or reached.
            CheckpointError: weights are absent, unreadable, missing, unexpected or of another shape; all are listed.
            ValueError: the configuration breaks a rule, or an argument is not known.
        """
        folder = resolve(str(model), revision, cache_dir=cache_dir, local_files_only=local_files_only).folder
        config = changed(LEDConfig.from_pretrained(folder), changes)
        loaded = load_weights(
            cls, config, folder, dtype=as_dtype(dtype), device=as_device(device_map or device), new_head=new_head
        )
        loaded._read_settings(folder)
        return loaded.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, in the layout transformers reads, the shared embedding once.

        Raises:
            ValueError: the model was packed for inference and no longer has its weights.
        """
        if self.is_packed:
            raise ValueError("this model was packed for inference and cannot be saved; load the checkpoint again to save it.")
        extra = {name: value for name, value in self.config.extra.items() if name != "torch_dtype"}
        extra |= {"architectures": [type(self).__name__], "dtype": str(self.dtype).removeprefix("torch.")}
        replace(self.config, extra=extra).save_pretrained(folder)
        save_weights(self.state_dict(), folder)

    def _read_settings(self, folder: Path) -> None:
        """Read what a model keeps besides configuration and weights."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next(self.parameters()).dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers the model holds, shared ones once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def pack(self, *, int8: bool = False) -> Self:
        """Lay the weights out for inference on this device, in place, once; the model can then be neither trained nor saved.

        Answers change by rounding only. Costs a copy of the token embedding where there is a language-model head. Does
        nothing on the CPU for types without such kernels, and where torch has none; on a GPU makes one product of those that
        read the same rows. Where this processor multiplies bfloat16 more slowly than float32, a bfloat16 model reads documents
        in float32 and writes in bfloat16. With `int8` the linear layers compute in 8 bits, and decoding reads documents in
        bfloat16 where that is fast: several times as fast, and answers differ; docs/performance.md says by how much.

        Raises:
            ValueError: 8 bits are asked for where this torch, this device or the weights' type have none, or of a model that
                was packed without.
        """
        if self.is_packed:
            if int8 and not any(isinstance(module, QuantizedLinear) for module in self.modules()):
                raise ValueError("this model was packed without int8 and no longer has its weights; load the checkpoint again.")
            return self
        in_float32 = self.dtype == torch.float32
        stacks = [module for module in self.modules() if isinstance(module, LEDStack)]
        if self.device.type == "cpu" and has_kernels(torch.float32) and (int8 or self.dtype == torch.bfloat16):
            if int8 and not bfloat16_is_slower():
                for stack in stacks:
                    stack.remember_in_bfloat16()
            elif not int8 and bfloat16_is_slower():
                in_float32 = True
                for stack in stacks:
                    stack.read_in_float32()
        plain = _FOLDED + _OVER_ALL_TOKENS if in_float32 and not int8 and plain_is_as_fast() else _FOLDED
        pack_linears(self, lambda name: name.endswith(plain), int8)
        for name, module in self.named_modules():
            if isinstance(module, PackedLinear) and not name.startswith(_MANY_ROWS):
                module.move_to_huge_pages()
        packed = QuantizedLinear if int8 else PackedLinear
        self.is_packed = any(isinstance(module, packed) or getattr(module, "qkv", None) for module in self.modules())
        if int8 and not self.is_packed:
            raise ValueError(f"int8 is for float32 weights on a CPU that torch has 8-bit products for; these are {self.dtype} "
                             f"on {self.device}.")  # fmt: skip
        return self.requires_grad_(False)

    def gradient_checkpointing_enable(self) -> None:
        """In training, compute each layer again in the backward pass instead of keeping its inner values."""
        self._set_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """In training, keep every layer's inner values for the backward pass."""
        self._set_checkpointing(False)

    def _set_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, LEDStack):
                module.gradient_checkpointing = on

    def tie_weights(self) -> None:
        """Make one parameter of those that share the token embedding, after they were assigned one by one."""
        raise NotImplementedError

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal weights of standard deviation `init_std`, zero biases and a zero embedding of the padding token."""
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
    """(B, T) the decoder's input for targets (B, T): the start token first, the last target dropped, -100 read as padding."""
    start = input_ids.new_full((input_ids.shape[0], 1), decoder_start_token_id)
    shifted = torch.cat([start, input_ids[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, pad_token_id)


def changed(config: LEDConfig, changes: dict[str, Any]) -> LEDConfig:
    """The configuration with some fields replaced.

    Raises:
        ValueError: a name is no field of the configuration, or a value breaks its rule.
    """
    known = LEDConfig.__dataclass_fields__.keys() - {"extra"}
    unknown = [name for name in changes if name not in known]
    if unknown:
        hint = "; say dtype=" if "torch_dtype" in unknown else ""
        raise ValueError(f"{unknown[0]} is neither an argument of from_pretrained nor a field of LEDConfig{hint}.")
    if "num_labels" in changes and "id2label" not in changes and changes["num_labels"] != config.num_labels:
        changes = {**changes, "id2label": None}
    if "id2label" in changes and "num_labels" not in changes:
        changes = {**changes, "num_labels": 0}
    return replace(config, **changes)


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The type of weights that is meant; None for the file's own.

    Raises:
        ValueError: it is no floating-point type.
    """
    if dtype is None or dtype == "auto":
        return None
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; it must be a floating-point type such as torch.float16, its name, or 'auto'.")
    return kind


def as_device(device: torch.device | str | int) -> torch.device:
    """The device that is meant: a torch device or its name, "auto", a GPU's number, or -1 for the CPU.

    Raises:
        ValueError: it is no device, or torch sees no such GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = torch.device(("cpu" if device < 0 else f"cuda:{device}") if isinstance(device, int) else device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; name one such as 'cpu', 'cuda', 'cuda:0' or 'auto'.") from error
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {device!r}; torch sees {torch.cuda.device_count()} GPUs here: use 'cpu' or 'auto'.")
    return kind
