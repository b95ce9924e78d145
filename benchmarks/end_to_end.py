"""Parquet to Parquet: the job's own reader, predictor and commit against the script a careful user of
transformers writes.

Both read the same texts, cut them at the same number of tokens, write as many with four beams, and put the
summaries into a Parquet file, in one process and thread, taking turns. The reference computes in float32, in
batches of documents of one length, so without padding; it cannot lose to its own padding here. Model loading
and Ray are left out of both sides (`benchmarks.pipeline` has what Ray costs).

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
from pipeline.output.store import open_store
from pipeline.prepare import build_plan
from pipeline.settings import SummarizeSettings
from pipeline.tasks import Summarize
from pipeline.tasks.base import InputLimits
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader

DEMO_MODEL = Path("demo/checkpoints/led-reports-summary")


def make_checkpoint(folder: Path, tiny: bool) -> None:
    """Random, spread-out weights of led-base's shape with the demo's tokenizer."""
    shape = {**TINY, "vocab_size": 50265, "max_encoder_position_embeddings": 16384} if tiny else LED_BASE
    model = LEDForConditionalGeneration(LEDConfig(**shape)).eval()
    spread_weights(model, seed=0, scale=2)
    model.save_pretrained(folder)
    for file in DEMO_MODEL.iterdir():
        if "token" in file.name or file.suffix == ".txt" or file.name == "vocab.json":
            shutil.copy(file, folder)


def make_corpus(path: Path, tokenizer: LEDTokenizer, count: int, tokens: int) -> None:
    """`count` texts of a few more than `tokens` tokens, out of the demo's reports."""
    reports = iter(pq.read_table("demo/corpus", columns=["text"])["text"].to_pylist() * 100)
    texts = []
    for _ in range(count):
        text = ""
        while len(tokenizer.encode_batch([text])[0].ids) < tokens + 50:
            text += next(reports) + "\n"
        texts.append(text)
    pq.write_table(pa.table({"doc_id": [str(i) for i in range(count)], "text": texts}), path)


def our_job(
    corpus: Path, model: Path, output: Path, dtype: str, tokens: int, new: int
) -> Callable[[], list[str]]:
    """Reads, predicts and commits every shard; the summaries."""
    settings = SummarizeSettings(
        input=(str(corpus),),
        output=str(output),
        model=str(model),
        dtype=dtype,  # type: ignore[arg-type]
        max_input_tokens=tokens,
        num_beams=4,
        max_new_tokens=new,
        min_new_tokens=new,
    )
    task = Summarize(settings)
    plan = build_plan(task, find_checkpoint(settings), None)
    predictor = Predictor(task, settings.model, None)
    reader = ShardReader(task, settings.model, None, InputLimits(tokens, tokens))

    def run() -> list[str]:
        shutil.rmtree(output, ignore_errors=True)
        store = open_store(str(output))
        for shard in plan.shards:
            commit(store, predictor(reader(shard)), plan.facts)
        return pq.read_table(output)["summary"].to_pylist()

    return run


def their_script(
    corpus: Path, model: Path, output: Path, tokens: int, new: int, batch: int
) -> Callable[[], list[str]]:
    """The same with transformers; the summaries."""
    import transformers

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.LEDTokenizerFast.from_pretrained(model)
    reference = transformers.LEDForConditionalGeneration.from_pretrained(model).eval()

    def run() -> list[str]:
        table = pq.read_table(corpus)
        texts, summaries = table["text"].to_pylist(), []
        for i in range(0, len(texts), batch):
            inputs = tokenizer(
                texts[i : i + batch], truncation=True, max_length=tokens, padding=True, return_tensors="pt"
            )
            inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
            inputs["global_attention_mask"][:, 0] = 1
            with torch.inference_mode():
                written = reference.generate(**inputs, num_beams=4, max_new_tokens=new, min_new_tokens=new)
            summaries += tokenizer.batch_decode(written, skip_special_tokens=True)
        pq.write_table(table.append_column("summary", pa.array(summaries)), output)
        return [summary.strip() for summary in summaries]

    return run


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds per document of the reference and of each of our kinds, and how many summaries are the
    same."""
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
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    parser.add_argument("--here", action="store_true", help="in this process and environment")
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(measure(args)))
        return
    options = ["--dtypes", *args.dtypes, *(["--tiny"] if args.tiny else [])]
    for name in ("tokens", "new_tokens", "documents", "reference_batch", "rounds"):
        options += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    found = in_both_environments("benchmarks.end_to_end", options)
    for environment, row in found.items():
        theirs = row["seconds"]["transformers"]
        for dtype in args.dtypes:
            mine = row["seconds"][dtype]
            print(
                f"Parquet to Parquet, {args.tokens} in, {args.new_tokens} out, 4 beams, {dtype}, {environment}: led "
                f"{mine:.1f} s per document, transformers {theirs:.1f}, {theirs / mine:.1f} x; {row['same'][dtype]} of "
                f"{args.documents} summaries the same"
            )
    print(
        json.dumps(
            {
                "machine": machine(),
                **{n: getattr(args, n) for n in ("tokens", "new_tokens", "documents")},
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
