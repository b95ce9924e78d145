"""The GPU comparison runs in miniature on a CPU."""

from __future__ import annotations

import json

import pytest

from benchmarks import gpu


@pytest.mark.filterwarnings("ignore:this processor .* has no products")
def test_the_whole_comparison_runs_in_miniature(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--tiny", "--device", "cpu", "--dtypes", "float32"])
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]}
    assert rows["window, strided_window, float32, 1 x 256"]["difference"] < 1e-5
    # Triton has no CPU kernels. Its interpreter runs them if another test has enabled it in this process.
    triton = rows["window, triton_window, float16, 1 x 256"]
    assert "failed" in triton or triton["difference"] < 0.01
    assert rows["encoder, float32, 2 x 256 tokens"]["difference"] < 1e-4
    assert rows["step, float32, 2 x 256 tokens"]["same tokens"] == "2 of 2"
    assert rows["same tokens as float32, float32"]["value"] == 3
    kernels = [row for what, row in rows.items() if what.startswith(("window", "cross-attention"))]
    assert all("value" in row for row in rows.values() if row not in kernels)
    assert all("value" in row or "failed" in row for row in kernels)
