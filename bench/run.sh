#!/usr/bin/env bash
# Compares losa's sparse products with the fastest dense libraries, side by side in one process: gets the libraries that
# it can (bench/compare/peers.sh), builds bench/compare, runs it, and makes the tables.
#
#   bench/run.sh                     all shapes, tokens and sparsities; writes docs/benchmarks/<instruction set>/
#   bench/run.sh --quick             4096 × 4096 at 70 %: the targets, build/bench/quick.json; 1 if one is missed
#   bench/run.sh --threads 1         any option of losa_compare (see --help there) is passed on
#
#   --no-peers        takes the libraries that are there and installs nothing
#   --no-deepsparse   without DeepSparse, which takes half of the quick run's time
#   --docs FOLDER     where the full run writes (docs/benchmarks)
#
# Everything made on the way lies in build/bench. JOBS (default 1) is for the builds. The machine should be idle.
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/.."

bench=build/bench
quick=no peers=yes deepsparse=yes docs=docs/benchmarks
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) sed -n '2,14s/^# \{0,1\}//p' "$self"; exit 0 ;;
    --quick) quick=yes ;;
    --no-peers) peers=no ;;
    --no-deepsparse) deepsparse=no ;;
    --docs) docs=${2:?--docs needs a folder}; shift ;;
    *) options+=("$1") ;;
  esac
  shift
done

mkdir -p "$bench/log"
if [ "$peers" = yes ]; then
  if [ "$deepsparse" = yes ]; then bench/compare/peers.sh; else bench/compare/peers.sh --no-deepsparse; fi
fi

cmake -S bench/compare -B "$bench/cmake" >"$bench/log/cmake.log" 2>&1 ||
  { tail -n 20 "$bench/log/cmake.log" >&2; exit 2; }
cmake --build "$bench/cmake" --parallel "${JOBS:-1}" >"$bench/log/build.log" 2>&1 ||
  { tail -n 40 "$bench/log/build.log" >&2; exit 2; }

python=python3
[ -x "$bench/venv/bin/python" ] && python=$bench/venv/bin/python
with_deepsparse=()
if [ "$deepsparse" = yes ] &&
  "$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("deepsparse"))'; then
  with_deepsparse=(--deepsparse "$PWD/$python" --worker bench/compare/deepsparse_worker.py)
fi

compare() {
  "$bench/cmake/losa_compare" "$@" ${options[@]+"${options[@]}"} 2> >(tee "$bench/log/compare.log" >&2)
}

stack=()
[ "$quick" = yes ] || stack=(--stack 8)
# A contender of losa that computes something wrong ends the run here.
compare --shapes 4096x4096 --sparsity 0.7 --tokens 1,8,64,512 --training --out "$bench/quick_rows.json" \
  ${stack[@]+"${stack[@]}"} ${with_deepsparse[@]+"${with_deepsparse[@]}"}
if [ "$quick" = yes ]; then
  exec "$python" bench/compare/quick.py "$bench/quick_rows.json" "$bench/quick.json"
fi

# LLaMA-2-7B's projections, then SmolLM2-135M's.
compare --shapes 4096x4096,11008x4096,4096x11008,576x576,192x576,1536x576,576x1536 --tokens 1,8,64,512 \
  --sparsity 0.3,0.4,0.5,2:4,0.6,0.7,0.8,0.9 --training --out "$bench/rows.json"
"$python" bench/compare/quick.py "$bench/quick_rows.json" "$bench/quick.json" || true
"$python" bench/compare/report.py "$bench/quick_rows.json" "$bench/rows.json" "$docs"
