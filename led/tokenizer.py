"""LEDTokenizer: the byte-level BPE of the published checkpoints, on the `tokenizers` library.

Formats: one text `<s> A </s>`, a pair `<s> A </s></s> B </s>`. Offsets count characters of the text as given, leave out a
token's leading space, and are (0, 0) for the tokens of the format.

A document may hold the characters `</s>` or `<mask>`: they are text, not control tokens, unless
`split_special_tokens=False` is asked for.

Truncation and padding are on the right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_UNLIMITED = int(1e30)


class LEDTokenizer:
    """Text to token ids and back.

    `model_max_length` is what the checkpoint states, or unlimited; it is used only where truncation is asked for.
    """

    def __init__(self, backend: Tokenizer, model_max_length: int | None = None, *, split_special_tokens: bool = True) -> None:
        missing = [t for t in SPECIAL_TOKENS if backend.token_to_id(t) is None]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}; LED needs {', '.join(SPECIAL_TOKENS)}.")
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = split_special_tokens
        self.backend = backend
        self.model_max_length = model_max_length or _UNLIMITED
        vocab = backend.get_vocab()
        ids = [vocab[t] for t in SPECIAL_TOKENS]
        self.bos_token_id, self.pad_token_id, self.eos_token_id, self.unk_token_id, self.mask_token_id = ids
        self.all_special_ids = ids

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, split_special_tokens: bool = True) -> LEDTokenizer:
        """The tokenizer of a model folder: its `tokenizer.json`, or its `vocab.json` and `merges.txt`.

        Raises:
            FileNotFoundError: neither is there.
        """
        folder = Path(folder)
        whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        if whole.is_file():
            backend = Tokenizer.from_file(str(whole))
        elif vocab.is_file() and merges.is_file():
            backend = build_backend(*models.BPE.read_file(str(vocab), str(merges)))
        else:
            raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt: no tokenizer there.")
        settings = folder / "tokenizer_config.json"
        limit = json.loads(settings.read_text("utf-8")).get("model_max_length") if settings.is_file() else None
        return cls(backend, int(limit) if limit else None, split_special_tokens=split_special_tokens)

    @classmethod
    def learn(
        cls, texts: Iterable[str], vocab_size: int, model_max_length: int | None = None, *, split_digits: bool = False
    ) -> LEDTokenizer:
        """A tokenizer of `vocab_size` entries, the special tokens included, learned from `texts`.

        With `split_digits` no merge joins two digits, so a small model can copy a number digit by digit.
        """
        parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            special_tokens=list(SPECIAL_TOKENS[:-1]),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        merges = json.loads(learner.to_str())["model"]["merges"]
        vocab = learner.get_vocab()
        backend = build_backend({**vocab, "<mask>": len(vocab)}, [tuple(pair) for pair in merges])
        return cls(backend, model_max_length)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the published layout: vocab.json, merges.txt, tokenizer.json and tokenizer_config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.backend.model.save(str(folder))
        self.backend.save(str(Path(folder) / "tokenizer.json"))
        settings: dict[str, Any] = {"tokenizer_class": "LEDTokenizer"}
        if self.model_max_length < _UNLIMITED:
            settings["model_max_length"] = self.model_max_length
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings) + "\n", "utf-8")

    def encode_batch(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Encoding]:
        """Whole texts, or pairs, as encodings with special tokens; nothing is cut."""
        return self.backend.encode_batch(list(texts))

    def encode(self, text: str, text_pair: str | None = None, *, max_length: int | None = None) -> list[int]:
        """The ids of one text or pair with special tokens, cut to `max_length` tokens."""
        return self(text, text_pair, max_length=max_length, truncation=max_length is not None)["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool = False,
        padding: bool | str = False,
        return_tensors: str | None = None,
    ) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of one text or of several.

        `truncation` cuts to `max_length`, by default `model_max_length`, from the longer text of a pair first and keeps the
        special tokens. `padding` is True for the longest of the batch, or "max_length".
        """
        one = isinstance(text, str)
        texts: list[Any] = [text] if one else list(text)
        if text_pair is not None:
            pairs = [text_pair] if one else list(text_pair)
            if len(pairs) != len(texts):
                raise ValueError(f"{len(texts)} texts were given with {len(pairs)} second texts; give one for each.")
            texts = list(zip(texts, pairs, strict=True))
        limit = max_length or self.model_max_length
        if padding == "max_length" and limit == _UNLIMITED:
            raise ValueError("padding='max_length' needs max_length: this tokenizer states no limit of its own.")
        if truncation and limit < _UNLIMITED:
            self.backend.enable_truncation(limit)
        try:
            encodings = self.encode_batch(texts)
        finally:
            self.backend.no_truncation()
        features: dict[str, Any] = {
            "input_ids": [e.ids for e in encodings],
            "attention_mask": [[1] * len(e.ids) for e in encodings],
        }
        if padding or return_tensors:
            features = self.pad(features, padding=padding, max_length=limit, return_tensors=return_tensors)
        if one and return_tensors is None:
            return {name: rows[0] for name, rows in features.items()}
        return features

    def pad(
        self,
        features: dict[str, list[list[int]]],
        *,
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> dict[str, Any]:
        """Pad on the right: ids with the padding token, `attention_mask` with 0, `global_attention_mask` with -1.

        Raises:
            ValueError: tensors are asked for while rows have different lengths and padding is off.
        """
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors is {return_tensors!r}; this library gives None (lists) or 'pt' (torch).")
        fill = {"input_ids": self.pad_token_id, "attention_mask": 0, "global_attention_mask": -1}
        widest = max((len(row) for row in features["input_ids"]), default=0)
        if padding == "max_length" and max_length is not None:
            widest = max(widest, max_length)
        if padding:
            features = {name: [[*row, *[fill[name]] * (widest - len(row))] for row in rows] for name, rows in features.items()}
        if return_tensors is None:
            return features
        if any(len(row) != widest for row in features["input_ids"]):
            raise ValueError("rows of different lengths make no tensor; pass padding=True.")
        return {name: torch.tensor(rows, dtype=torch.long) for name, rows in features.items()}

    def decode(self, ids: Sequence[int] | torch.Tensor, *, skip_special_tokens: bool = False) -> str:
        """The text of these ids; bytes that are not UTF-8 become the replacement character."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(self, rows: Any, *, skip_special_tokens: bool = False) -> list[str]:
        """`decode` of every row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]


def build_backend(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """The published tokenizer from its vocabulary and merges."""
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), trim_offsets=True, add_prefix_space=False
    )
    backend.add_special_tokens([AddedToken(t, lstrip=t == "<mask>", normalized=True, special=True) for t in SPECIAL_TOKENS])
    return backend
