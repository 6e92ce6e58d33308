#!/usr/bin/env bash
# Builds and runs one small program for each way to consume losa. Argument: a build folder (default build/consumers).
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
here=$source_dir/tests/consumers
mkdir -p "${1:-$source_dir/build/consumers}"
work=$(cd "${1:-$source_dir/build/consumers}" && pwd)
rm -rf "${work:?}"/*
expected="losa $(sed -n 's/.*LOSA_VERSION_STRING "\(.*\)"/\1/p' "$source_dir/include/losa/version.hpp")"

quietly() {  # runs a command, and shows what it printed only when it fails
  "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; echo "consumers: failed: $*" >&2; exit 1; }
}
check() {  # check NAME PROGRAM
  [ "$("$2")" = "$expected" ] || { echo "consumers: $1 printed something else than '$expected'" >&2; exit 1; }
  echo "consumers: $1: $expected"
}
cmake_consumer() {  # cmake_consumer NAME FOLDER [cmake options]
  local name=$1 folder=$2
  shift 2
  quietly cmake -G Ninja -S "$here/$folder" -B "$work/$name" "$@"
  quietly cmake --build "$work/$name"
  check "$name" "$work/$name/consumer"
}

quietly cmake -G Ninja -S "$source_dir" -B "$work/install" -DLOSA_BUILD_TESTS=OFF -DLOSA_BUILD_BENCH=OFF -DLOSA_BUILD_EXAMPLES=OFF
quietly cmake --install "$work/install" --prefix "$work/prefix"
cmake_consumer find_package find_package -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_COMPILE_WARNING_AS_ERROR=ON
cmake_consumer add_subdirectory add_subdirectory -DLOSA_SOURCE="$source_dir" -DLOSA_FETCH=OFF

# An archive of the files as they are, such as a release would be.
tar -C "$source_dir" -czf "$work/losa.tar.gz" CMakeLists.txt LICENSE cmake include
cmake_consumer fetchcontent fetchcontent -DLOSA_ARCHIVE="$work/losa.tar.gz"

# The download of a missing dependency, but for the network: each package is hidden, and where its archive would be
# unpacked stands a folder of the layout that the archive has.
mkdir -p "$work/xsimd/include" "$work/json/include"
ln -s /usr/include/xsimd "$work/xsimd/include/"
ln -s /usr/include/nlohmann "$work/json/include/"
cmake_consumer fetched_dependencies add_subdirectory -DLOSA_SOURCE="$source_dir" \
  -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON -DCMAKE_DISABLE_FIND_PACKAGE_xsimd=ON -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON \
  -DFETCHCONTENT_SOURCE_DIR_LOSA_EIGEN="$(pkg-config --cflags-only-I eigen3 | sed 's/^-I//; s/ *$//')" \
  -DFETCHCONTENT_SOURCE_DIR_LOSA_XSIMD="$work/xsimd" -DFETCHCONTENT_SOURCE_DIR_LOSA_JSON="$work/json"
# LOSA_FETCH=OFF ends with a sentence that names what is missing.
if cmake -G Ninja -S "$here/add_subdirectory" -B "$work/no_fetch" -DLOSA_SOURCE="$source_dir" -DLOSA_FETCH=OFF \
  -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON >"$work/log" 2>&1 || ! grep -q 'losa: not found: Eigen' "$work/log"; then
  cat "$work/log" >&2
  echo "consumers: LOSA_FETCH=OFF without Eigen must fail and say so" >&2
  exit 1
fi

# Losa twice in one project: the first wins and the second says so; an older first one, or a stranger of that name, is an
# error. A newer copy is the same with another version in its header.
mkdir -p "$work/newer" "$work/older"
for age in newer older; do cp -r "$source_dir/CMakeLists.txt" "$source_dir/cmake" "$source_dir/include" "$source_dir/LICENSE" "$work/$age"; done
sed -i 's/\(LOSA_VERSION_STRING "\)[^"]*/\19.0.0/' "$work/newer/include/losa/version.hpp"
sed -i 's/\(LOSA_VERSION_STRING "\)[^"]*/\10.0.9/' "$work/older/include/losa/version.hpp"
twice() {  # twice NAME SENTENCE FIRST SECOND [cmake options]: configures; the second's sentence is printed
  local name=$1 sentence=$2 first=$3 second=$4
  shift 4
  local status=0
  cmake -G Ninja -S "$here/twice" -B "$work/twice_$name" -DFIRST="$first" -DSECOND="$second" \
    -DCMAKE_PREFIX_PATH="$work/prefix" "$@" >"$work/log" 2>&1 || status=1
  tr -s '\n ' ' ' <"$work/log" | grep -q "$sentence" || { cat "$work/log" >&2; echo "consumers: twice: $name must say '$sentence'" >&2; exit 1; }
  return $status
}
refused() {
  if twice "$@"; then echo "consumers: twice: $1 must fail" >&2; exit 1; fi
}
taken="is there already and is taken"
twice folders "$taken" "$source_dir" "$work/older"
quietly cmake --build "$work/twice_folders"
check twice "$work/twice_folders/consumer"
twice same "$taken" "$source_dir" "$source_dir"
twice installed_first "$taken" installed "$source_dir"
twice installed_second "$taken" "$source_dir" installed
twice installed_twice "Generating done" installed installed
twice fetched "$taken" fetched fetched -DLOSA_ARCHIVE="$work/losa.tar.gz"
twice late_io "$taken" "$source_dir" "$work/older" -DFIRST_WITHOUT_JSON=ON
refused older "version 0.0.9, from $work/older, is there already, but" "$work/older" "$source_dir"
refused newer "but 9.0.0 is asked for by the copy in $work/newer" installed "$work/newer"
refused stranger "has a target .losa. that is not this library" stranger "$source_dir"
refused stranger_io "has a target .losa_io. that is not this library" stranger_io "$source_dir"
refused stranger_alias "losa::losa that is there already is another library" stranger_alias "$source_dir"
refused stranger_alias_installed "losa::losa that is there already is another library" stranger_alias installed
twice stranger_installed "found losa ${expected#losa }" stranger installed
twice late_io_installed "$taken" "$source_dir" installed -DFIRST_WITHOUT_JSON=ON
twice other_version "found losa 9.0.0" "$work/newer" installed
twice optional "optional: 0: version 0.0.9, from $work/older, is there already, but 0.1 is asked for" "$work/older" optional
twice range "found losa ${expected#losa }" range installed
twice exact "found losa ${expected#losa }" exact installed
refused other_exact "version 9.0.0, from $work/newer, is there already, but 0.1.0 EXACT is asked for" "$work/newer" exact
refused other_range "version 9.0.0, from $work/newer, is there already, but one up to 0.2 is asked for" "$work/newer" range
twice other_wide_range "found losa 9.0.0" "$work/newer" wide_range
refused without_json "losa::io needs nlohmann-json" without_json installed

# A host that installs and exports a library made with losa, which it builds and installs too.
quietly cmake -G Ninja -S "$here/exporting" -B "$work/exporting" -DLOSA_SOURCE="$source_dir" -DCMAKE_INSTALL_PREFIX="$work/host"
quietly cmake --install "$work/exporting"
quietly cmake -G Ninja -S "$here/exporting/user" -B "$work/exporting_user" -DCMAKE_PREFIX_PATH="$work/host"
quietly cmake --build "$work/exporting_user"
check exporting "$work/exporting_user/consumer"
twice headers "version 9.0.0, from $work/newer/include, $taken" "headers=$work/newer" "$source_dir"

# Plain -I: only the headers and the two libraries' own.
quietly g++ -std=c++20 -I "$source_dir/include" $(pkg-config --cflags eigen3) "$here/main.cpp" -o "$work/plain" -pthread
check plain "$work/plain"

# Two units, and the kernels in a third.
mkdir "$work/extern"
printf '#include <losa/gemm.hpp>\n#include <losa/gemm/kernels.hpp>\n' >"$work/extern/kernels.cpp"
printf '#include <losa/losa.hpp>\nconst char* fastest() { return losa::backends().front()->name; }\n' >"$work/extern/other.cpp"
quietly g++ -std=c++20 -DLOSA_EXTERN_KERNELS -I "$source_dir/include" $(pkg-config --cflags eigen3) "$here/main.cpp" \
  "$work/extern/other.cpp" "$work/extern/kernels.cpp" -o "$work/extern_kernels" -pthread
check extern_kernels "$work/extern_kernels"

export PKG_CONFIG_PATH=$work/prefix/share/pkgconfig
quietly g++ -std=c++20 $(pkg-config --cflags losa) "$here/main.cpp" -o "$work/pkg_config" $(pkg-config --libs losa)
check pkg-config "$work/pkg_config"
