"""Instruction sets that a processor can imitate, by the limits that oneDNN, ATen and FBGEMM read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """An instruction set: the flag that it needs, and its name for each library."""

    name: str
    flag: str
    onednn: str
    aten: str
    fbgemm: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "ATEN_CPU_CAPABILITY": self.aten,
            "FBGEMM_ENABLE_INSTRUCTIONS": self.fbgemm,
            "MKL_ENABLE_INSTRUCTIONS": "AVX512" if self.aten == "avx512" else "AVX2",
        }


LEVELS = (
    Level("no AVX", "sse4_1", "SSE41", "default", "avx2"),
    Level("AVX2", "avx2", "AVX2", "avx2", "avx2"),
    Level("AVX2 with VNNI", "avx_vnni", "AVX2_VNNI", "avx2", "avx2"),
    Level("AVX-512", "avx512bw", "AVX512_CORE", "avx512", "avx512"),
    Level("AVX-512 with VNNI", "avx512_vnni", "AVX512_CORE_VNNI", "avx512", "avx512_vnni"),
    Level("AVX-512 with bfloat16", "avx512_bf16", "AVX512_CORE_BF16", "avx512", "avx512_vnni"),
    Level("AMX", "amx_bf16", "AVX512_CORE_AMX", "avx512", "avx512_vnni"),
)
