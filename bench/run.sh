#!/usr/bin/env bash
# Compares losa's sparse products with the fastest dense libraries, side by side in one process: gets the libraries that
# it can (bench/compare/peers.sh), builds bench/compare, runs it, and makes the tables.
#
#   bench/run.sh                     all shapes, tokens and sparsities; writes docs/benchmarks/<instruction set>/
#   bench/run.sh --quick             4096 × 4096 at 70 %: the targets, build/bench/quick.json (with --avx2
#                                    build/bench/avx2/quick.json); 1 if one is missed
#   bench/run.sh --threads 1         any option of losa_compare (see --help there) is passed on
#
#   --avx2            holds losa and every peer to AVX2, on a processor that has more
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
build=$bench/cmake results=$bench isa=() peers_options=()
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) sed -n '2,15s/^# \{0,1\}//p' "$self"; exit 0 ;;
    --quick) quick=yes ;;
    --avx2) build=$bench/cmake-avx2 results=$bench/avx2 isa=(-DLOSA_COMPARE_AVX2=ON) peers_options+=(--avx2) ;;
    --no-peers) peers=no ;;
    --no-deepsparse) deepsparse=no peers_options+=(--no-deepsparse) ;;
    --docs) docs=${2:?--docs needs a folder}; shift ;;
    *) options+=("$1") ;;
  esac
  shift
done

mkdir -p "$bench/log" "$results"
[ "$peers" = no ] || bench/compare/peers.sh ${peers_options[@]+"${peers_options[@]}"}

cmake -S bench/compare -B "$build" ${isa[@]+"${isa[@]}"} >"$bench/log/cmake.log" 2>&1 ||
  { tail -n 20 "$bench/log/cmake.log" >&2; exit 2; }
cmake --build "$build" --parallel "${JOBS:-1}" >"$bench/log/build.log" 2>&1 ||
  { tail -n 40 "$bench/log/build.log" >&2; exit 2; }

python=python3
[ -x "$bench/venv/bin/python" ] && python=$bench/venv/bin/python
with_deepsparse=()
if [ "$deepsparse" = yes ] &&
  "$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("deepsparse"))'; then
  with_deepsparse=(--deepsparse "$PWD/$python" --worker bench/compare/deepsparse_worker.py)
fi

compare() {
  "$build/losa_compare" "$@" ${options[@]+"${options[@]}"} 2> >(tee "$bench/log/compare.log" >&2)
}

stack=()
[ "$quick" = yes ] || stack=(--stack 8)
# A contender of losa that computes something wrong ends the run here.
compare --shapes 4096x4096 --sparsity 0.7 --tokens 1,8,64,512 --training --out "$results/quick_rows.json" \
  ${stack[@]+"${stack[@]}"} ${with_deepsparse[@]+"${with_deepsparse[@]}"}
if [ "$quick" = yes ]; then
  exec "$python" bench/compare/quick.py "$results/quick_rows.json" "$results/quick.json"
fi

# LLaMA-2-7B's projections, then SmolLM2-135M's.
compare --shapes 4096x4096,11008x4096,4096x11008,576x576,192x576,1536x576,576x1536 --tokens 1,8,64,512 \
  --sparsity 0.3,0.4,0.5,2:4,0.6,0.7,0.8,0.9 --training --out "$results/rows.json"
"$python" bench/compare/quick.py "$results/quick_rows.json" "$results/quick.json" || true
"$python" bench/compare/report.py "$results/quick_rows.json" "$results/rows.json" "$docs"
