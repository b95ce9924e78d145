"""The whole comparison on a GPU, in one call, with torch and transformers alone.

    python -m benchmarks.gpu                          # a GPU, led-base's shape: some ten minutes
    python -m benchmarks.gpu --tiny --device cpu      # the same in miniature: seconds

First the choices are measured: which window kernel, which kernel for the decoder's memory, how many
tokens to encode and how many documents to decode together. Then both libraries take turns over the same
documents with the same weights: encoder, steps of decoding, whole documents, memory. Each rate is set
beside the machine's own: the matrix rate for the encoder, the copy bandwidth for decoding. The last line
is everything as JSON.
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

from benchmarks.fingerprinted_settings import corpus, first_difference, reference_tokens
from benchmarks.rival import LED_BASE, documents, padded
from led import GenerationConfig, LEDConfig, LEDForConditionalGeneration
from led.batch.attention_metadata import AttentionMetadata
from led.batch.packed_batch import PackedBatch, pack_documents
from led.generation.scheduler import Scheduler, SchedulerLimits
from led.ops.gpu_backends import (
    PAGE,
    flash_pages,
    flash_window,
    flex_window,
    gathered_paged_attention,
    strided_window,
    triton_paged_attention,
    triton_window,
)
from led.testing import TINY, spread_weights

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What is measured: the model's shape, lengths of documents, tokens written, documents at once,
    repetitions.

    `in_flight` are the documents that a loop takes by itself; `whole` are (tokens read, tokens written) of
    whole documents; `ragged` how many documents of 30 tokens to how many are held to the reference's tokens.
    """

    shape: dict[str, Any]
    lengths: tuple[int, ...] = (1024, 4096, 16384)
    new_tokens: int = 96
    documents: tuple[int, ...] = (1, 16, 64, 128)
    in_flight: int = 64
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
    in_flight=1,
    reference_documents=2,
    max_num_batched_tokens=(256, 512),
    whole=((64, 4),),
    ragged=(3, 90),
    rounds=1,
)


class Bench:
    """One device, one pair of models in a precision, and the clock."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.device, self.sizes = torch.device(device), sizes
        self.models: dict[str, tuple[LEDForConditionalGeneration, Any]] = {}
        self.loops: dict[tuple[int, int, int], Scheduler] = {}

    def seconds(self, call: Callable[[], Any]) -> float:
        """Median seconds of `call` after one to warm up."""
        return self.turns(call)[0]

    def turns(self, *calls: Callable[[], Any]) -> list[float]:
        """Median seconds of each call, taking turns, after one of each to warm up."""
        for call in calls:
            call()
        rounds = [[self.once(call) for call in calls] for _ in range(self.sizes.rounds)]
        return [statistics.median(times) for times in zip(*rounds, strict=True)]

    def once(self, call: Callable[[], Any]) -> float:
        """Seconds of `call`."""
        self.finish()
        begun = time.perf_counter()
        call()
        self.finish()
        return time.perf_counter() - begun

    def finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def pair(self, dtype: str) -> tuple[LEDForConditionalGeneration, Any]:
        """(this library's model, the reference) with the same weights."""
        if dtype not in self.models:
            import transformers

            transformers.logging.set_verbosity_error()
            reference = transformers.LEDForConditionalGeneration(
                transformers.LEDConfig(**self.sizes.shape)
            ).eval()
            spread_weights(reference, seed=0, scale=2)
            ours = LEDForConditionalGeneration(LEDConfig(**self.sizes.shape)).eval()
            ours.load_state_dict(reference.state_dict())
            kind = getattr(torch, dtype)
            self.models[dtype] = (ours.to(self.device, kind).pack(), reference.to(self.device, kind))
        return self.models[dtype]

    def loop(self, model: LEDForConditionalGeneration, in_flight: int, new: int) -> Scheduler:
        """A loop that writes `new` tokens of so many documents, four beams; the last two are kept, as workers
        keep theirs."""
        key = id(model), in_flight, new
        if key not in self.loops:
            for old in list(self.loops)[:-1]:
                del self.loops[old]
            config = GenerationConfig().updated(num_beams=4, max_new_tokens=new, min_new_tokens=new)
            self.loops[key] = Scheduler(model, config, SchedulerLimits(documents=in_flight))
        return self.loops[key]

    def packed(self, lengths: Sequence[int]) -> PackedBatch:
        """Documents of these lengths with `<s>` global, on the device."""
        return pack_documents([d.tolist() for d in documents(lengths)], [[0]] * len(lengths)).to(self.device)

    def padded(self, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
        return {name: x.to(self.device) for name, x in padded(documents(lengths)).items()}


def limits_of_the_machine(bench: Bench) -> Iterator[Row]:
    """The matrix rate per precision, and the bandwidth of a copy (bytes read and written)."""
    n = 8192 if bench.device.type == "cuda" else 256
    for dtype in ("float32", "float16", "bfloat16"):
        a, b = (torch.randn(n, n, device=bench.device).to(getattr(torch, dtype)) for _ in range(2))
        seconds = bench.seconds(lambda a=a, b=b: a @ b)
        yield {"what": f"matrix rate, {dtype}", "value": 2 * n**3 / seconds / 1e12, "unit": "TFLOP/s"}
    x = torch.randn(n * n * 4, device=bench.device)
    y = torch.empty_like(x)
    yield {"what": "copy", "value": 2 * x.nbytes / bench.seconds(lambda: y.copy_(x)) / 1e12, "unit": "TB/s"}


def window_kernels(bench: Bench) -> Iterator[Row]:
    """Milliseconds of one layer's windows by each kernel, and how far its answer is from float32's."""
    config = LEDConfig(**bench.sizes.shape)
    H, D = config.encoder_attention_heads, config.d_model // config.encoder_attention_heads
    one_sided = config.attention_windows[0] // 2
    for n in bench.sizes.lengths:
        batch = bench.packed([n] * max(1, bench.sizes.max_num_batched_tokens[0] // n))
        local = ~batch.is_global
        exact = [torch.randn(batch.cu_seqlens[-1], H, D, device=bench.device) for _ in range(3)]
        exact[0] = exact[0] / D**0.5
        truth = strided_window(*(x.double() for x in exact), AttentionMetadata(batch), one_sided)[local]
        halves = [
            ("float16", kernel) for kernel in (triton_window, flash_window, flex_window, strided_window)
        ]
        for dtype, kernel in (("float32", triton_window), ("float32", strided_window), *halves):
            qkv, metadata = [x.to(getattr(torch, dtype)) for x in exact], AttentionMetadata(batch)
            row: Row = {
                "what": f"window, {kernel.__name__}, {dtype}, {len(metadata.lengths)} x {n}",
                "unit": "ms",
            }
            try:
                row["difference"] = float((kernel(*qkv, metadata, one_sided)[local] - truth).abs().max())
                row["value"] = bench.seconds(lambda k=kernel, x=qkv, at=metadata: k(*x, at, one_sided)) * 1e3
            except Exception as error:  # a kernel this device or this torch has not
                row["failed"] = f"{type(error).__name__}: {str(error)[:80]}"
            yield row


def memory_kernels(bench: Bench) -> Iterator[Row]:
    """Milliseconds of one layer's reading of all documents' memories, four beams each, and its share of a
    copy's speed."""
    config = LEDConfig(**bench.sizes.shape)
    H, D = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
    for count, n in itertools.product(bench.sizes.documents[1:2], bench.sizes.lengths):
        pages = -(-n // PAGE)
        table = torch.arange(count * pages, dtype=torch.int32, device=bench.device).view(count, pages)
        tokens = torch.full((count,), n, dtype=torch.int32, device=bench.device)
        for dtype, kernel in itertools.product(
            ("float32", "float16"), (triton_paged_attention, flash_pages, gathered_paged_attention)
        ):
            kind = getattr(torch, dtype)
            pools = [torch.randn(count * pages, PAGE, H, D, device=bench.device).to(kind) for _ in range(2)]
            query = torch.randn(count * 4, H, D, device=bench.device).to(kind)
            row: Row = {"what": f"memory, {kernel.__name__}, {dtype}, {count} x {n}", "unit": "ms"}
            try:
                seconds = bench.seconds(lambda k=kernel, q=query, p=pools, t=table, m=tokens: k(q, *p, t, m))
                row |= {"value": seconds * 1e3, "TB/s": 2 * pools[0].nbytes / seconds / 1e12}
            except Exception as error:  # a kernel this device or this torch has not
                row["failed"] = f"{type(error).__name__}: {str(error)[:80]}"
            yield row


def batch_sizes(bench: Bench, dtype: str) -> Iterator[Row]:
    """Tokens per second of the encoder by tokens at once, and of writing by documents at once."""
    ours, _ = bench.pair(dtype)
    bench.loops.clear()
    n = bench.sizes.lengths[1]
    for tokens in bench.sizes.max_num_batched_tokens:
        batch = bench.packed([n] * max(1, tokens // n))
        seconds = bench.seconds(torch.inference_mode()(lambda b=batch: ours.led.encoder.encode(b)))
        rate = batch.cu_seqlens[-1] / seconds / 1e3
        yield {"what": f"encoder, {dtype}, {tokens} tokens at once", "value": rate, "unit": "ktok/s"}
    for count in bench.sizes.documents:
        seconds = bench.seconds(lambda c=count: write(bench, ours, [n] * c, c, bench.sizes.new_tokens))
        yield {
            "what": f"whole documents, {dtype}, {count} at once",
            "value": count / seconds,
            "unit": "documents/s",
        }


def write(
    bench: Bench, model: LEDForConditionalGeneration, lengths: Sequence[int], in_flight: int, new: int
) -> list[list[int]]:
    """What the loop writes for documents of these lengths, `new` tokens each."""
    found = dict(bench.loop(model, in_flight, new).run(bench.packed(lengths).documents()))
    return [found[i].sequences[0] for i in range(len(lengths))]


def encoders(bench: Bench, dtype: str, matrix_rate: float) -> Iterator[Row]:
    """The encoder against the reference's, one document and several of one length, and its share of the
    matrix rate."""
    ours, reference = bench.pair(dtype)
    config = ours.config
    weights = config.encoder_layers * (4 * config.d_model + 2 * config.encoder_ffn_dim) * config.d_model
    window = 4 * config.d_model * (config.attention_windows[0] + 1) * config.encoder_layers
    for count, n in itertools.product((1, bench.sizes.reference_documents), bench.sizes.lengths):
        batch, rows = bench.packed([n] * count), bench.padded([n] * count)
        mine = torch.inference_mode()(lambda b=batch: ours.led.encoder.encode(b))
        theirs = torch.inference_mode()(
            lambda r=rows: reference.led.encoder(**r, return_dict=True).last_hidden_state
        )
        times = bench.turns(mine, theirs)
        yield {
            "what": f"encoder, {dtype}, {count} x {n} tokens",
            "value": times[0] * 1e3,
            "unit": "ms",
            "transformers": times[1] * 1e3,
            "ratio": times[1] / times[0],
            "difference": float((mine() - theirs().flatten(0, 1)).abs().max()),
            "of matrix rate": count * n * (2 * weights + window) / times[0] / matrix_rate,
        }


def decoding(bench: Bench, dtype: str, bandwidth: float) -> Iterator[Row]:
    """A step of decoding, four beams: milliseconds per document of both, and whether tokens are equal.

    The reference runs the same documents as one padded batch. A step is the difference of two lengths of
    writing.
    """
    ours, reference = bench.pair(dtype)
    config, new, count = ours.config, bench.sizes.new_tokens, bench.sizes.reference_documents
    written: dict[str, list[list[int]]] = {}

    def mine(n: int, tokens: int) -> None:
        written["mine"] = write(bench, ours, [n] * count, count, tokens)

    def theirs(rows: dict[str, torch.Tensor], tokens: int) -> None:
        written["theirs"] = written_by(reference, rows, tokens)

    for n in bench.sizes.lengths:
        rows = bench.padded([n] * count)
        calls = [
            partial(call, given, t) for t in (new, 2 * new) for call, given in ((mine, n), (theirs, rows))
        ]
        times = bench.turns(*calls)
        step, their_step = (
            (after - before) / new / count for before, after in zip(times[:2], times[2:], strict=True)
        )
        equal = sum(a == b for a, b in zip(written["mine"], written["theirs"], strict=True))
        once = (
            "encoder_attn.k_proj",
            "encoder_attn.v_proj",
        )  # used when a document comes in, not at every step
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
            "transformers": their_step * 1e3,
            "ratio": their_step / step,
            "same tokens": f"{equal} of {count}",
            "of copy bandwidth": moved / step / bandwidth,
        }


def full_steps(bench: Bench, dtype: str, bandwidth: float) -> Iterator[Row]:
    """A step with as many documents in flight as the loop takes by itself, and its share of the copy
    bandwidth."""
    ours, _ = bench.pair(dtype)
    config, new, count = ours.config, bench.sizes.new_tokens, bench.sizes.in_flight
    for n in bench.sizes.lengths:
        times = bench.turns(
            *(lambda t=t, n=n: write(bench, ours, [n] * count, count, t) for t in (new, 3 * new))
        )
        step = (times[1] - times[0]) / (2 * new)
        moved = 2 * config.decoder_layers * config.d_model * ours.dtype.itemsize * (n + 4 * 2 * new) * count
        yield {
            "what": f"step, {dtype}, {count} x {n} tokens in flight",
            "value": step * 1e3,
            "unit": "ms",
            "of copy bandwidth": moved / step / bandwidth,
        }


def written_by(reference: Any, rows: dict[str, torch.Tensor], new: int) -> list[list[int]]:
    """What the reference writes for a padded batch."""
    with torch.inference_mode():
        written: list[list[int]] = reference.generate(
            **rows, num_beams=4, max_new_tokens=new, min_new_tokens=new
        ).tolist()
    return written


def whole_documents(bench: Bench, dtype: str) -> Iterator[Row]:
    """Documents per second from tokens to tokens, once each after a short run to warm up: a whole run of both
    is long."""
    ours, reference = bench.pair(dtype)
    count = bench.sizes.reference_documents
    for n, new in bench.sizes.whole:
        rows = bench.padded([n] * count)
        written_by(reference, rows, 2)
        write(bench, ours, [n] * count, count, new)
        mine, theirs = (
            bench.once(call)
            for call in (
                lambda n=n, t=new: write(bench, ours, [n] * count, count, t),
                lambda r=rows, t=new: written_by(reference, r, t),
            )
        )
        yield {
            "what": f"whole documents, {dtype}, {count} x {n} in, {new} out",
            "value": count / mine,
            "unit": "documents/s",
            "transformers": count / theirs,
            "ratio": theirs / mine,
        }


def same_tokens(bench: Bench, dtypes: Sequence[str]) -> Iterator[Row]:
    """How many ragged documents with 0, 1 and 20 global tokens are written as the reference in float32 writes
    each alone."""
    count, longest = bench.sizes.ragged
    rows, settings = corpus(count, 30, longest), {"num_beams": 4, "max_new_tokens": bench.sizes.new_tokens}
    expected = list(reference_tokens(bench.pair("float32")[1], rows, settings))
    packed = pack_documents([row.tolist() for row, _ in rows], [places for _, places in rows])
    for dtype in dtypes:
        loop = Scheduler(bench.pair(dtype)[0], GenerationConfig().updated(**settings))
        written = {i: result.sequences[0] for i, result in loop.run(packed.documents())}
        parted = [
            first_difference(written[i], theirs) for i, theirs in enumerate(expected) if written[i] != theirs
        ]
        first = {"first difference": statistics.median(parted)} if parted else {}
        yield {
            "what": f"same tokens as float32, {dtype}",
            "value": len(rows) - len(parted),
            "unit": f"of {len(rows)}",
            **first,
        }


def peak_memory(bench: Bench, dtype: str) -> Iterator[Row]:
    """Gigabytes beyond the weights while one longest document is written."""
    if bench.device.type != "cuda":
        return
    ours, reference = bench.pair(dtype)
    n, new = bench.sizes.lengths[-1], bench.sizes.new_tokens
    rows = bench.padded([n])
    held = []
    for call in (
        lambda: write(bench, ours, [n], 1, new),
        lambda: reference.generate(**rows, num_beams=4, max_new_tokens=new, min_new_tokens=new),
    ):
        bench.loops.clear()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.inference_mode():
            call()
        held.append((torch.cuda.max_memory_allocated() - before) / 1e9)
    ratio = held[1] / held[0]
    yield {
        "what": f"memory, {dtype}, 1 x {n} tokens",
        "value": held[0],
        "unit": "GB",
        "transformers": held[1],
        "ratio": ratio,
    }


def show(row: Row) -> Row:
    """Print a row as it comes."""
    rest = {key: value for key, value in row.items() if key not in ("what", "value", "unit")}
    shown = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in rest.items()
    )
    value = f"{row['value']:10.3f} {row['unit']}" if "value" in row else " " * 10
    print(f"{row['what']:52s}{value}  {shown}", flush=True)
    return row


def shown(part: Iterator[Row]) -> Iterator[Row]:
    """The rows of a part, printed; one that fails does not take the others with it."""
    try:
        yield from map(show, part)
    except Exception as error:
        yield show({"what": part.__name__, "failed": f"{type(error).__name__}: {str(error)[:200]}"})  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short documents")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"])
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; on a CPU run --tiny --device cpu.")
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
        memory_kernels(bench),
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
