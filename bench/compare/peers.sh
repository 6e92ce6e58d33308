#!/usr/bin/env bash
# Gets the dense libraries that bench/run.sh compares with, into build/bench; says in one line what it could not get.
# Silent and quick where everything is there already.
#
#   bench/compare/peers.sh                 everything
#   bench/compare/peers.sh --no-deepsparse
#   bench/compare/peers.sh --avx2             ggml for AVX2, whatever the processor has
#
# Debian packages only as root, else it says which are missing. JOBS (default 1) is for the build of ggml.
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/../.."

bench=$PWD/build/bench
venv=$bench/venv
llama_cpp_python=0.3.36
packages="libopenblas-dev libdnnl-dev libxsmm-dev libeigen3-dev"
wanted="debian venv mkl ggml deepsparse"
ggml=$bench/ggml
ggml_isa=(-DGGML_NATIVE=ON)

while [ $# -gt 0 ]; do
  case $1 in
    --no-deepsparse) wanted="debian venv mkl ggml" ;;
    --avx2)
      ggml=$bench/ggml-avx2
      ggml_isa=(-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON)
      ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$self"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
  shift
done

say() { echo "peers: $*"; }

# quietly LOG COMMAND...: its output goes to a file, the last line of it to the reader if it failed
quietly() {
  local log=$bench/log/$1
  shift
  "$@" >"$log" 2>&1 || { say "failed: $1 (see $log): $(tail -n 1 "$log")"; return 1; }
}

get_debian() {
  command -v dpkg-query >/dev/null || { say "no dpkg: takes of $packages what the system has"; return 0; }
  local package missing=""
  for package in $packages; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  [ "$(id -u)" = 0 ] || { say "left out, for want of root:$missing"; return 0; }
  say "installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  quietly apt.log apt-get update -qq || true
  for package in $missing; do
    quietly apt.log apt-get install -y -qq --no-install-recommends "$package" || say "left out: $package"
  done
}

# Python 3.11 if there is one, as DeepSparse knows no later one.
get_venv() {
  [ -x "$venv/bin/pip" ] && "$venv/bin/python" -c 'import matplotlib' 2>/dev/null && return 0
  local python=python3
  command -v python3.11 >/dev/null && python=python3.11
  say "making build/bench/venv with $("$python" --version)"
  quietly venv.log "$python" -m venv "$venv" || return 0
  quietly pip.log "$venv/bin/pip" install --disable-pip-version-check 'numpy<2' matplotlib || true
}

get_mkl() {
  compgen -G "$venv/lib/libmkl_rt.so*" >/dev/null && return 0
  [ -x "$venv/bin/pip" ] || { say "left out, for want of a venv: MKL"; return 0; }
  say "installing MKL"
  quietly mkl.log "$venv/bin/pip" install --disable-pip-version-check mkl mkl-include || say "left out: MKL"
}

get_ggml() {
  [ -e "$ggml/installed" ] && return 0
  [ -x "$venv/bin/pip" ] || { say "left out, for want of a venv: ggml"; return 0; }
  say "building ggml, from the source distribution of llama-cpp-python $llama_cpp_python"
  mkdir -p "$bench/ggml/source"
  compgen -G "$bench/ggml/*.tar.gz" >/dev/null ||
    quietly ggml-download.log "$venv/bin/pip" download --disable-pip-version-check --no-deps \
      --no-binary llama-cpp-python --dest "$bench/ggml" "llama-cpp-python==$llama_cpp_python" ||
    { say "left out: ggml"; return 0; }
  tar -xzf "$bench"/ggml/*.tar.gz -C "$bench/ggml/source" --strip-components=1 --wildcards '*/vendor/llama.cpp/ggml/*'
  touch "$bench/ggml/source/vendor/llama.cpp/ggml/ggml.pc.in"  # asked for by CMake, absent from the distribution
  # What llama.cpp itself sets: its small matrix products ("llamafile") and the repacked weights are on.
  quietly ggml-cmake.log cmake -S "$bench/ggml/source/vendor/llama.cpp/ggml" -B "$ggml/build" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$ggml/prefix" -DBUILD_SHARED_LIBS=OFF "${ggml_isa[@]}" \
    -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=ON -DGGML_CPU_REPACK=ON -DGGML_BUILD_TESTS=OFF -DGGML_BUILD_EXAMPLES=OFF &&
    quietly ggml-build.log cmake --build "$ggml/build" --parallel "${JOBS:-1}" &&
    quietly ggml-install.log cmake --install "$ggml/build" && touch "$ggml/installed" ||
    say "left out: ggml"
}

get_deepsparse() {
  [ -x "$venv/bin/pip" ] || { say "left out, for want of a venv: DeepSparse"; return 0; }
  "$venv/bin/python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("deepsparse"))' && return 0
  "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] > (3, 11))' ||
    { say "left out, for want of Python 3.11: DeepSparse"; return 0; }
  say "installing DeepSparse"
  quietly deepsparse.log "$venv/bin/pip" install --disable-pip-version-check deepsparse==1.8.0 onnx==1.14.1 \
    'protobuf<4' 'numpy<2' py-machineid || say "left out: DeepSparse"
}

mkdir -p "$bench/log"
for peer in $wanted; do "get_$peer"; done
