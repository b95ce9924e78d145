"""Compares both libraries on a GPU. Needs only torch and transformers.

    python -m benchmarks.gpu                          # led-base's shape on a GPU, about ten minutes
    python -m benchmarks.gpu --tiny --device cpu      # the same in miniature, a few seconds

The first part measures the alternatives: window kernels, kernels of paged cross-attention, tokens to encode
together and documents to decode together. In the second part, both libraries process the same documents with
the same weights, alternately. It measures the encoder, decoding steps, whole documents and memory. Rates are
also given as a share of the machine's limit. This is the matrix rate for the encoder, and the copy bandwidth
for decoding. The last line of the output is JSON with all results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.identity import corpus, first_difference, reference_tokens
from benchmarks.rival import LED_BASE, documents, padded
from led import GenerationConfig, LEDConfig, LEDForConditionalGeneration
from led.batch.attention_metadata import AttentionMetadata
from led.batch.packed_batch import PackedBatch, pack_documents
from led.generation.limits import SchedulerLimits
from led.generation.scheduler import Scheduler
from led.ops.gpu_backends import (
    PAGE,
    gathered_paged_attention,
    strided_window,
    triton_paged_attention,
    triton_window,
)
from led.testing import TINY, spread_weights

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a comparison: the model's shape, lengths, new tokens, documents at once, repetitions.

    `max_num_seqs` is the default number of slots of a scheduler. `whole` has (input tokens, new tokens) of
    whole documents. `ragged` is (documents, longest length) of the comparison of tokens, where the shortest
    document has 30 tokens.
    """

    shape: dict[str, Any]
    lengths: tuple[int, ...] = (1024, 4096, 16384)
    new_tokens: int = 96
    documents: tuple[int, ...] = (1, 16, 64, 128)
    max_num_seqs: int = 64
    reference_documents: int = 8
    max_num_batched_tokens: tuple[int, ...] = (16384, 65536, 131072)
    whole: tuple[tuple[int, int], ...] = ((4096, 128), (16384, 256))
    ragged: tuple[int, int] = (51, 3000)
    rounds: int = 3


FULL = Sizes(LED_BASE)
MINIATURE = Sizes(
    {**TINY, "vocab_size": 50265, "max_encoder_position_embeddings": 512},
    lengths=(64, 256),
    new_tokens=4,
    documents=(1, 3),
    max_num_seqs=1,
    reference_documents=2,
    max_num_batched_tokens=(256, 512),
    whole=((64, 4),),
    ragged=(3, 90),
    rounds=1,
)


class Bench:
    """The device, the models of each dtype, and time measurement."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.device, self.sizes = torch.device(device), sizes
        self.models: dict[str, tuple[LEDForConditionalGeneration, Any]] = {}
        self.schedulers: dict[tuple[int, int, int], Scheduler] = {}

    def seconds(self, call: Callable[[], Any]) -> float:
        """The median seconds of `call`, after a warm-up call."""
        return self.interleaved(call)[0]

    def interleaved(self, *calls: Callable[[], Any]) -> list[float]:
        """The median seconds of each call. They run alternately, after a warm-up of each."""
        for call in calls:
            call()
        rounds = [[self.once(call) for call in calls] for _ in range(self.sizes.rounds)]
        return [statistics.median(times) for times in zip(*rounds, strict=True)]

    def once(self, call: Callable[[], Any]) -> float:
        """The seconds of one call."""
        self.synchronize()
        start = time.perf_counter()
        call()
        self.synchronize()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def pair(self, dtype: str) -> tuple[LEDForConditionalGeneration, Any]:
        """This library's model and the reference, with the same weights."""
        if dtype not in self.models:
            import transformers

            transformers.logging.set_verbosity_error()
            reference = transformers.LEDForConditionalGeneration(
                transformers.LEDConfig(**self.sizes.shape)
            ).eval()
            spread_weights(reference, seed=0, scale=2)
            ours = LEDForConditionalGeneration(LEDConfig(**self.sizes.shape)).eval()
            ours.load_state_dict(reference.state_dict())
            torch_dtype = getattr(torch, dtype)
            ours = ours.to(self.device, torch_dtype).pack()
            self.models[dtype] = ours, reference.to(self.device, torch_dtype)
        return self.models[dtype]

    def scheduler(self, model: LEDForConditionalGeneration, slots: int, new_tokens: int) -> Scheduler:
        """A scheduler with four beams. The two latest ones are cached, as workers keep theirs."""
        key = id(model), slots, new_tokens
        if key not in self.schedulers:
            for old in list(self.schedulers)[:-1]:
                del self.schedulers[old]
            config = GenerationConfig().updated(
                num_beams=4, max_new_tokens=new_tokens, min_new_tokens=new_tokens
            )
            self.schedulers[key] = Scheduler(model, config, SchedulerLimits(max_num_seqs=slots))
        return self.schedulers[key]

    def packed(self, lengths: Sequence[int]) -> PackedBatch:
        """A packed batch of documents of these lengths on the device. `<s>` is global."""
        return pack_documents([d.tolist() for d in documents(lengths)], [[0]] * len(lengths)).to(self.device)

    def padded(self, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
        """The same documents as a padded batch."""
        return {name: x.to(self.device) for name, x in padded(documents(lengths)).items()}


def limits_of_the_machine(bench: Bench) -> Iterator[Row]:
    """The matrix rate of each dtype, and the bandwidth of a copy (bytes read and written)."""
    n = 8192 if bench.device.type == "cuda" else 256
    for dtype in ("float32", "float16", "bfloat16"):
        a, b = (torch.randn(n, n, device=bench.device).to(getattr(torch, dtype)) for _ in range(2))
        seconds = bench.seconds(lambda a=a, b=b: a @ b)
        yield {"what": f"matrix rate, {dtype}", "value": 2 * n**3 / seconds / 1e12, "unit": "TFLOP/s"}
    x = torch.randn(n * n * 4, device=bench.device)
    y = torch.empty_like(x)
    yield {"what": "copy", "value": 2 * x.nbytes / bench.seconds(lambda: y.copy_(x)) / 1e12, "unit": "TB/s"}


def window_kernels(bench: Bench) -> Iterator[Row]:
    """Milliseconds of one layer's window attention by each kernel, and its largest error."""
    config = LEDConfig(**bench.sizes.shape)
    H, D = config.encoder_attention_heads, config.d_model // config.encoder_attention_heads
    one_sided = config.attention_windows[0] // 2
    for n in bench.sizes.lengths:
        batch = bench.packed([n] * max(1, bench.sizes.max_num_batched_tokens[0] // n))
        local = ~batch.is_global
        q, k, v = (torch.randn(batch.cu_seqlens[-1], H, D, device=bench.device) for _ in range(3))
        q = q / D**0.5
        double = (x.double() for x in (q, k, v))
        expected = strided_window(*double, AttentionMetadata(batch), one_sided)[local]
        for dtype, kernel in itertools.product(("float32", "float16"), (triton_window, strided_window)):
            qkv, metadata = [x.to(getattr(torch, dtype)) for x in (q, k, v)], AttentionMetadata(batch)
            row: Row = {
                "what": f"window, {kernel.__name__}, {dtype}, {len(metadata.lengths)} x {n}",
                "unit": "ms",
            }
            try:
                row["difference"] = float((kernel(*qkv, metadata, one_sided)[local] - expected).abs().max())
                row["value"] = bench.seconds(partial(kernel, *qkv, metadata, one_sided)) * 1e3
            except Exception as error:  # this device or this torch does not support the kernel
                row["failed"] = f"{type(error).__name__}: {str(error)[:80]}"
            yield row


def cross_attention_kernels(bench: Bench) -> Iterator[Row]:
    """Milliseconds and bandwidth of one layer's paged cross-attention by each kernel, with four beams."""
    config = LEDConfig(**bench.sizes.shape)
    H, D = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
    for count, n in itertools.product(bench.sizes.documents[1:2], bench.sizes.lengths):
        pages = -(-n // PAGE)
        table = torch.arange(count * pages, dtype=torch.int32, device=bench.device).view(count, pages)
        tokens = torch.full((count,), n, dtype=torch.int32, device=bench.device)
        for dtype, kernel in itertools.product(
            ("float32", "float16"), (triton_paged_attention, gathered_paged_attention)
        ):
            k, v = (
                torch.randn(count * pages, PAGE, H, D, device=bench.device).to(getattr(torch, dtype))
                for _ in range(2)
            )
            query = torch.randn(count * 4, H, D, device=bench.device).to(k.dtype)
            row: Row = {"what": f"cross-attention, {kernel.__name__}, {dtype}, {count} x {n}", "unit": "ms"}
            try:
                seconds = bench.seconds(partial(kernel, query, k, v, table, tokens))
                row |= {"value": seconds * 1e3, "TB/s": 2 * k.nbytes / seconds / 1e12}
            except Exception as error:  # this device or this torch does not support the kernel
                row["failed"] = f"{type(error).__name__}: {str(error)[:80]}"
            yield row


def batch_sizes(bench: Bench, dtype: str) -> Iterator[Row]:
    """Tokens per second of the encoder, and documents per second, for different batch sizes."""
    ours, _ = bench.pair(dtype)
    bench.schedulers.clear()
    n = bench.sizes.lengths[1]
    for tokens in bench.sizes.max_num_batched_tokens:
        batch = bench.packed([n] * max(1, tokens // n))
        seconds = bench.seconds(torch.inference_mode()(partial(ours.led.encoder.encode, batch)))
        rate = batch.cu_seqlens[-1] / seconds / 1e3
        yield {"what": f"encoder, {dtype}, {tokens} tokens at once", "value": rate, "unit": "ktok/s"}
    for count in bench.sizes.documents:
        seconds = bench.seconds(partial(generate, bench, ours, [n] * count, count, bench.sizes.new_tokens))
        yield {
            "what": f"whole documents, {dtype}, {count} at once",
            "value": count / seconds,
            "unit": "documents/s",
        }


def generate(
    bench: Bench, model: LEDForConditionalGeneration, lengths: Sequence[int], slots: int, new_tokens: int
) -> list[list[int]]:
    """The tokens that this library generates for documents of these lengths."""
    results = dict(bench.scheduler(model, slots, new_tokens).run(bench.packed(lengths).documents()))
    return [results[i].sequences[0] for i in range(len(lengths))]


def encoders(bench: Bench, dtype: str, matrix_rate: float) -> Iterator[Row]:
    """Both encoders, for one document and for several of one length, and the share of the matrix rate."""
    ours, reference = bench.pair(dtype)
    config = ours.config
    weights = config.encoder_layers * (4 * config.d_model + 2 * config.encoder_ffn_dim) * config.d_model
    window = 4 * config.d_model * (config.attention_windows[0] + 1) * config.encoder_layers
    for count, n in itertools.product((1, bench.sizes.reference_documents), bench.sizes.lengths):
        batch, rows = bench.packed([n] * count), bench.padded([n] * count)
        encode = torch.inference_mode()(partial(ours.led.encoder.encode, batch))
        encode_reference = torch.inference_mode()(partial(reference.led.encoder, **rows, return_dict=True))
        times = bench.interleaved(encode, encode_reference)
        difference = encode() - encode_reference().last_hidden_state.flatten(0, 1)
        yield {
            "what": f"encoder, {dtype}, {count} x {n} tokens",
            "value": times[0] * 1e3,
            "unit": "ms",
            "transformers": times[1] * 1e3,
            "ratio": times[1] / times[0],
            "difference": float(difference.abs().max()),
            "of matrix rate": count * n * (2 * weights + window) / times[0] / matrix_rate,
        }


def decoding(bench: Bench, dtype: str, bandwidth: float) -> Iterator[Row]:
    """A decoding step with four beams: milliseconds per document of both, and whether tokens are equal.

    The reference decodes the same documents as one padded batch. The time of a step is the difference between
    generating n and 2 n tokens.
    """
    ours, reference = bench.pair(dtype)
    config, new, count = ours.config, bench.sizes.new_tokens, bench.sizes.reference_documents
    tokens: dict[str, list[list[int]]] = {}

    def run(n: int, new_tokens: int) -> None:
        tokens["ours"] = generate(bench, ours, [n] * count, count, new_tokens)

    def run_reference(rows: dict[str, torch.Tensor], new_tokens: int) -> None:
        tokens["reference"] = generate_reference(reference, rows, new_tokens)

    for n in bench.sizes.lengths:
        rows = bench.padded([n] * count)
        calls = [
            call for t in (new, 2 * new) for call in (partial(run, n, t), partial(run_reference, rows, t))
        ]
        times = bench.interleaved(*calls)
        step, reference_step = (
            (after - before) / new / count for before, after in zip(times[:2], times[2:], strict=True)
        )
        equal = sum(a == b for a, b in zip(tokens["ours"], tokens["reference"], strict=True))
        # These weights are used once per document and not at every step.
        once = ("encoder_attn.k_proj", "encoder_attn.v_proj")
        read = [
            p
            for name, p in ours.led.decoder.layers.named_parameters()
            if not any(part in name for part in once)
        ]
        weights = sum(p.nbytes for p in (*read, ours.led.shared.weight))
        moved = (
            2 * config.decoder_layers * config.d_model * ours.dtype.itemsize * (n + 4 * 1.5 * new)
            + weights / count
        )
        yield {
            "what": f"step, {dtype}, {count} x {n} tokens",
            "value": step * 1e3,
            "unit": "ms/step/document",
            "transformers": reference_step * 1e3,
            "ratio": reference_step / step,
            "same tokens": f"{equal} of {count}",
            "of copy bandwidth": moved / step / bandwidth,
        }


def full_steps(bench: Bench, dtype: str, bandwidth: float) -> Iterator[Row]:
    """A step with all default slots filled, and its share of the copy bandwidth."""
    ours, _ = bench.pair(dtype)
    config, new, count = ours.config, bench.sizes.new_tokens, bench.sizes.max_num_seqs
    for n in bench.sizes.lengths:
        times = bench.interleaved(
            *(partial(generate, bench, ours, [n] * count, count, t) for t in (new, 3 * new))
        )
        step = (times[1] - times[0]) / (2 * new)
        moved = 2 * config.decoder_layers * config.d_model * ours.dtype.itemsize * (n + 4 * 2 * new) * count
        yield {
            "what": f"step, {dtype}, {count} x {n} tokens, all slots",
            "value": step * 1e3,
            "unit": "ms",
            "of copy bandwidth": moved / step / bandwidth,
        }


def generate_reference(reference: Any, rows: dict[str, torch.Tensor], new_tokens: int) -> list[list[int]]:
    """The tokens that the reference generates for a padded batch."""
    with torch.inference_mode():
        tokens: list[list[int]] = reference.generate(
            **rows, num_beams=4, max_new_tokens=new_tokens, min_new_tokens=new_tokens
        ).tolist()
    return tokens


def whole_documents(bench: Bench, dtype: str) -> Iterator[Row]:
    """Documents per second from input tokens to new tokens. One run of each, after a short warm-up."""
    ours, reference = bench.pair(dtype)
    count = bench.sizes.reference_documents
    for n, new in bench.sizes.whole:
        rows = bench.padded([n] * count)
        generate_reference(reference, rows, 2)
        generate(bench, ours, [n] * count, count, new)
        seconds = bench.once(partial(generate, bench, ours, [n] * count, count, new))
        reference_seconds = bench.once(partial(generate_reference, reference, rows, new))
        yield {
            "what": f"whole documents, {dtype}, {count} x {n} in, {new} out",
            "value": count / seconds,
            "unit": "documents/s",
            "transformers": count / reference_seconds,
            "ratio": reference_seconds / seconds,
        }


def same_tokens(bench: Bench, dtypes: Sequence[str]) -> Iterator[Row]:
    """The number of documents that get the tokens of the float32 reference, as in `benchmarks.identity`."""
    count, longest = bench.sizes.ragged
    rows, settings = corpus(count, 30, longest), {"num_beams": 4, "max_new_tokens": bench.sizes.new_tokens}
    expected = list(reference_tokens(bench.pair("float32")[1], rows, settings))
    packed = pack_documents([row.tolist() for row, _ in rows], [positions for _, positions in rows])
    for dtype in dtypes:
        scheduler = Scheduler(bench.pair(dtype)[0], GenerationConfig().updated(**settings))
        tokens = {i: hypotheses.sequences[0] for i, hypotheses in scheduler.run(packed.documents())}
        differences = [
            first_difference(tokens[i], theirs) for i, theirs in enumerate(expected) if tokens[i] != theirs
        ]
        first = {"first difference": statistics.median(differences)} if differences else {}
        yield {
            "what": f"same tokens as float32, {dtype}",
            "value": len(rows) - len(differences),
            "unit": f"of {len(rows)}",
            **first,
        }


def peak_memory(bench: Bench, dtype: str) -> Iterator[Row]:
    """Gigabytes beyond the weights while one document of the largest length is summarized."""
    if bench.device.type != "cuda":
        return
    ours, reference = bench.pair(dtype)
    n, new = bench.sizes.lengths[-1], bench.sizes.new_tokens
    rows = bench.padded([n])
    peaks = []
    for call in (
        partial(generate, bench, ours, [n], 1, new),
        partial(generate_reference, reference, rows, new),
    ):
        bench.schedulers.clear()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.inference_mode():
            call()
        peaks.append((torch.cuda.max_memory_allocated() - before) / 1e9)
    yield {
        "what": f"peak memory, {dtype}, 1 x {n} tokens",
        "value": peaks[0],
        "unit": "GB",
        "transformers": peaks[1],
        "ratio": peaks[1] / peaks[0],
    }


def show(row: Row) -> Row:
    """Print a row and return it."""
    rest = {key: value for key, value in row.items() if key not in ("what", "value", "unit")}
    details = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in rest.items()
    )
    value = f"{row['value']:10.3f} {row['unit']}" if "value" in row else " " * 10
    print(f"{row['what']:52s}{value}  {details}", flush=True)
    return row


def shown(part: Iterator[Row]) -> Iterator[Row]:
    """Print the rows of a part and yield them. An error ends this part only."""
    try:
        yield from map(show, part)
    except Exception as error:
        yield show({"what": part.__name__, "failed": f"{type(error).__name__}: {str(error)[:200]}"})  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use a tiny model and short documents")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"])
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch found no GPU; on a CPU, use --tiny --device cpu.")
    import transformers

    bench = Bench(args.device, MINIATURE if args.tiny else FULL)
    on_gpu = bench.device.type == "cuda"
    where = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print("  ".join(where.values()))
    rows = [show(row) for row in limits_of_the_machine(bench)]
    rates = {row["what"]: row["value"] * 1e12 for row in rows}
    parts = [
        window_kernels(bench),
        cross_attention_kernels(bench),
        *(batch_sizes(bench, dtype) for dtype in args.dtypes),
    ]
    for dtype in args.dtypes:
        parts += [
            encoders(bench, dtype, rates[f"matrix rate, {dtype}"]),
            decoding(bench, dtype, rates["copy"]),
        ]
        parts += [
            full_steps(bench, dtype, rates["copy"]),
            peak_memory(bench, dtype),
            whole_documents(bench, dtype),
        ]
    for part in (*parts, same_tokens(bench, ("float32", "float16", "bfloat16"))):
        rows += shown(part)
    print(json.dumps({**where, "rows": rows}))


if __name__ == "__main__":
    main()
