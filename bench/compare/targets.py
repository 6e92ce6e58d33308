"""What losa's products are held to: 4096 × 4096, 70 % pruned, all hardware threads, weights cold.

A target is a ratio, the fastest of the peers' times by losa's, all of one run.
"""
from dataclasses import dataclass

SQUARE = (4096, 4096)
TOKENS = (1, 8, 64, 512)


@dataclass(frozen=True)
class Target:
    op: str
    type: str  # of losa's weights
    against: str  # in words
    peers: tuple  # parts of contenders' names
    ratios: dict  # instruction set → ratio for each of TOKENS, None where there is no target


def by_isa(avx2, avx512, amx=None):
    return {"avx2": avx2, "avx512": avx512, "amx": amx or avx512}


def for_all(*ratios):
    return by_isa(ratios, ratios)


F32 = ("OpenBLAS", "MKL", "oneDNN matmul f32", "oneDNN ip f32", "libxsmm", "Eigen", "ggml f32")
HALF = ("ggml f16", "ggml bf16", "oneDNN matmul bf16", "oneDNN ip bf16")

TARGETS = (
    Target("spmm", "f32", "dense f32", F32, by_isa((2.6, 2.8, 2.8, 2.4), (2.7, 3.0, 2.6, 2.4))),
    Target("spmm", "bf16", "dense f16, bf16", HALF,
           by_isa((2.1, 2.0, 2.2, 2.3), (2.5, 2.2, 1.3, 1.3), (2.5, 2.2, 0.9, 0.9))),
    Target("spmm", "int8", "ggml Q8_0", ("ggml Q8_0",),
           by_isa((1.35, 1.8, 2.2, 2.2), (2.0, 1.8, 1.2, 1.1))),
    Target("spmm", "int8", "ggml Q4_0", ("ggml Q4_0",),
           by_isa((0.9, 1.8, 2.2, 2.2), (1.15, 1.5, 1.2, 1.1))),
    Target("spmm", "int4", "ggml Q4_0", ("ggml Q4_0",),
           by_isa((1.0, 1.5, 2.0, 2.0), (1.5, 1.5, 1.2, 1.1))),
    Target("spmm", "f32", "DeepSparse", ("DeepSparse",), for_all(1.8, 4.0, 1.5, 1.6)),
    Target("dx", "f32", "dense f32", F32, for_all(None, None, None, 2.2)),
    Target("sddmm", "f32", "dense f32", F32, for_all(None, None, None, 2.1)),
)

# The sparsity from which a product in f32 or bf16 must be faster than the dense one, for each of TOKENS.
BREAK_EVEN = (0.4, 0.45, 0.4, 0.4)

# Value types whose times may be compared: the peers of a losa product, by the type of its weights.
SAME_TYPE = {"f32": ("f32",), "bf16": ("f16", "bf16"), "f16": ("f16", "bf16"), "int8": ("int8",), "int4": ("int4",)}
DEFAULT_FORMAT = "bitmask"
