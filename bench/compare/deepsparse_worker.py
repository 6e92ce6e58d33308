"""DeepSparse's part in the comparison: a chain of pruned square layers, one command a line, one answer a line.

    build/bench/venv/bin/python bench/compare/deepsparse_worker.py SIZE SPARSITY THREADS COLD_BYTES

    tokens T    compiles the chain for T tokens      ok LAYERS BYTES_PER_LAYER ERROR NAME
    run N       runs the chain N times               ok SECONDS

The layers' kept weights together exceed COLD_BYTES, as far as one ONNX file (2 GB) can hold them; from 64 tokens on,
where weights cost little, three layers do.
"""
import os
import sys
import tempfile
import time

os.environ["NM_DISABLE_ANALYTICS"] = "1"
ANSWERS = os.fdopen(os.dup(1), "w")  # what the library prints must not come between the answers
os.dup2(2, 1)

import deepsparse  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SIZE, SPARSITY, THREADS, COLD_BYTES = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])


RANDOM = np.random.default_rng(1)
WEIGHTS = []


def weights(layers):
    """Pruned matrices (in, out), scaled so that activations neither grow nor vanish behind the ReLU."""
    scale = np.float32(np.sqrt(2 / (SIZE * (1 - SPARSITY))))
    while len(WEIGHTS) < layers:
        w = RANDOM.standard_normal((SIZE, SIZE), dtype=np.float32) * scale
        w[RANDOM.random((SIZE, SIZE), dtype=np.float32) < SPARSITY] = 0
        WEIGHTS.append(w)
    return WEIGHTS[:layers]


def model(made, tokens):
    nodes, initializers = [], []
    for i, w in enumerate(made):
        initializers.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"h{i}"]))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [f"x{i + 1}"]))
    shape = [tokens, SIZE]
    graph = helper.make_graph(nodes, "chain", [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info(f"x{len(made)}", TensorProto.FLOAT, shape)], initializers)
    made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made_model.ir_version = 8
    return made_model


class Chain:
    def __init__(self, tokens):
        kept_bytes = int(SIZE * SIZE * (1 - SPARSITY) * 4)
        fits = max(1, int(1.9e9) // (SIZE * SIZE * 4))
        self.layers = min(fits, 3 if tokens >= 64 else max(3, COLD_BYTES // kept_bytes + 1))
        self.bytes = kept_bytes
        made = weights(self.layers)
        self.x = np.random.default_rng(2).standard_normal((tokens, SIZE), dtype=np.float32)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "chain.onnx")
            onnx.save(model(made, tokens), path)
            self.engine = deepsparse.Engine(path, batch_size=tokens, num_cores=THREADS)
        want = self.x
        for w in made:
            want = np.maximum(want @ w, 0)
        got = self.engine.run([self.x], val_inp=False)[0]
        self.error = float(np.max(np.abs(got - want)) / np.sqrt(np.mean(want**2)))

    def run(self, times):
        start = time.perf_counter()
        for _ in range(times):
            self.engine.run([self.x], val_inp=False)
        return time.perf_counter() - start


def name():
    try:
        return deepsparse.cpu.cpu_architecture().isa
    except (AttributeError, RuntimeError):
        return "DeepSparse"


def main():
    chain = None
    for line in sys.stdin:
        command, number = line.split()
        try:
            if command == "tokens":
                chain = None  # two engines at once need not fit
                chain = Chain(int(number))
                answer = f"ok {chain.layers} {chain.bytes} {chain.error:.3g} {name()}"
            else:
                answer = f"ok {chain.run(int(number)):.9f}"
        except Exception as error:  # whatever the library throws is an answer
            answer = f"failed: {error}".replace("\n", " ")
        print(answer, file=ANSWERS, flush=True)


main()
