"""Compares the whole way from Parquet to Parquet with a careful script that uses transformers.

This library's side consists of the job's reader, predictor and commit. Both sides read the same texts,
truncate them at the same length, and generate the same number of tokens with four beams. They write the
summaries to a Parquet file, and run alternately in one process with one thread.

The reference computes in float32. Its batches have documents of the same length, so it does not compute
padding. Model loading and Ray are not included. `benchmarks.pipeline` measures the cost of Ray.

    python -m benchmarks.end_to_end --tokens 4096 --new-tokens 128 --documents 4
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.rival import LED_BASE, in_both_environments, interleaved, machine
from led import LEDConfig, LEDForConditionalGeneration, LEDTokenizer
from led.testing import TINY, spread_weights
from pipeline.checkpoint import find_checkpoint
from pipeline.output.commit import commit
from pipeline.output.open_store import open_store
from pipeline.prepare import build_plan
from pipeline.tasks.base import InputLimits
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader

DEMO_MODEL = Path("demo/checkpoints/led-reports-summary")


def make_checkpoint(folder: Path, tiny: bool) -> None:
    """Write a checkpoint of led-base's shape with random weights and the demo's tokenizer."""
    shape = {**TINY, "vocab_size": 50265, "max_encoder_position_embeddings": 16384} if tiny else LED_BASE
    model = LEDForConditionalGeneration(LEDConfig(**shape)).eval()
    spread_weights(model, seed=0, scale=2)
    model.save_pretrained(folder)
    for file in DEMO_MODEL.iterdir():
        if "token" in file.name or file.suffix == ".txt" or file.name == "vocab.json":
            shutil.copy(file, folder)


def make_corpus(path: Path, tokenizer: LEDTokenizer, count: int, tokens: int) -> None:
    """Write `count` texts of slightly more than `tokens` tokens, composed of the demo's reports."""
    reports = iter(pq.read_table("demo/corpus", columns=["text"])["text"].to_pylist() * 100)
    texts = []
    for _ in range(count):
        text = ""
        while len(tokenizer.encode_batch([text])[0].ids) < tokens + 50:
            text += next(reports) + "\n"
        texts.append(text)
    pq.write_table(pa.table({"doc_id": [str(i) for i in range(count)], "text": texts}), path)


def our_job(
    corpus: Path, model: Path, output: Path, dtype: str, tokens: int, new_tokens: int
) -> Callable[[], list[str]]:
    """A function that reads, predicts and commits every shard, and returns the summaries."""
    settings = SummarizeSettings(
        input=(str(corpus),),
        output=str(output),
        model=str(model),
        dtype=dtype,  # type: ignore[arg-type]
        max_input_tokens=tokens,
        num_beams=4,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
    )
    task = Summarize(settings)
    plan = build_plan(task, find_checkpoint(settings), None)
    predictor = Predictor(task, settings.model, None)
    reader = ShardReader(task, settings.model, None, InputLimits(tokens, tokens))

    def run() -> list[str]:
        shutil.rmtree(output, ignore_errors=True)
        store = open_store(str(output))
        for shard in plan.shards:
            commit(store, predictor(reader(shard)), plan.config)
        return pq.read_table(output)["summary"].to_pylist()

    return run


def their_script(
    corpus: Path, model: Path, output: Path, tokens: int, new_tokens: int, batch_size: int
) -> Callable[[], list[str]]:
    """A function that does the same with transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.LEDTokenizerFast.from_pretrained(model)
    reference = transformers.LEDForConditionalGeneration.from_pretrained(model).eval()

    def run() -> list[str]:
        table = pq.read_table(corpus)
        texts, summaries = table["text"].to_pylist(), []
        for i in range(0, len(texts), batch_size):
            batch = texts[i : i + batch_size]
            inputs = tokenizer(batch, truncation=True, max_length=tokens, padding=True, return_tensors="pt")
            inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
            inputs["global_attention_mask"][:, 0] = 1
            with torch.inference_mode():
                generated = reference.generate(
                    **inputs, num_beams=4, max_new_tokens=new_tokens, min_new_tokens=new_tokens
                )
            summaries += tokenizer.batch_decode(generated, skip_special_tokens=True)
        pq.write_table(table.append_column("summary", pa.array(summaries)), output)
        return [summary.strip() for summary in summaries]

    return run


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds per document of the reference and of each dtype, and the number of equal summaries."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, corpus = folder / "model", folder / "corpus.parquet"
        make_checkpoint(model, args.tiny)
        make_corpus(corpus, LEDTokenizer.from_pretrained(model), args.documents, args.tokens)
        theirs = their_script(
            corpus, model, folder / "theirs.parquet", args.tokens, args.new_tokens, args.reference_batch
        )
        calls = {"transformers": theirs}
        for dtype in args.dtypes:
            calls[dtype] = our_job(corpus, model, folder / dtype, dtype, args.tokens, args.new_tokens)
        seconds, summaries = interleaved(calls, args.rounds)
        same = {
            d: sum(a == b for a, b in zip(summaries[d], summaries["transformers"], strict=True))
            for d in args.dtypes
        }
    return {"seconds": {name: s / args.documents for name, s in seconds.items()}, "same": same}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--reference-batch", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="use a tiny model")
    parser.add_argument("--here", action="store_true", help="measure in this process and environment")
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(measure(args)))
        return
    options = ["--dtypes", *args.dtypes, *(["--tiny"] if args.tiny else [])]
    for name in ("tokens", "new_tokens", "documents", "reference_batch", "rounds"):
        options += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    results = in_both_environments("benchmarks.end_to_end", options)
    for environment, row in results.items():
        theirs = row["seconds"]["transformers"]
        for dtype in args.dtypes:
            ours = row["seconds"][dtype]
            print(
                f"Parquet to Parquet, {args.tokens} in, {args.new_tokens} out, 4 beams, {dtype}, "
                f"{environment}: led {ours:.1f} s per document, transformers {theirs:.1f}, "
                f"{theirs / ours:.1f} x; {row['same'][dtype]} of {args.documents} summaries are equal"
            )
    print(
        json.dumps(
            {
                "machine": machine(),
                **{n: getattr(args, n) for n in ("tokens", "new_tokens", "documents")},
                **results,
            }
        )
    )


if __name__ == "__main__":
    main()
