#!/usr/bin/env bash
# LoSA from start to end on the embedded model: sets up, builds, runs dense -> pruned -> LoSA at 50, 60 and 70 %,
# prints a table and a line of text from each, and draws pictures under build/demo/.
#
#   examples/demo.sh                       about 3 minutes on two cores; a second run builds nothing
#   LOSA_DEMO_TRAIN_TOKENS=400000 examples/demo.sh    train longer, lose less
set -euo pipefail
cd "$(dirname "$0")/.."

cmake/setup.sh
mkdir -p build/demo
if ! { cmake --preset release && cmake --build --preset release --target losa-llama --parallel "$(nproc)"; } \
    >build/demo/build.log 2>&1; then
  tail -n 50 build/demo/build.log >&2
  echo "demo: the build failed; all of its output is in build/demo/build.log" >&2
  exit 1
fi
exec build/venv/bin/python examples/llama/tools/demo.py --tool build/release/examples/llama/losa-llama \
  --model examples/data/tiny --train examples/data/tiny/train.txt --test examples/data/tiny/test.txt --out build/demo "$@"
