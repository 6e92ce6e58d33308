#!/usr/bin/env bash
# Checks of the headers as headers. Usage: tests/headers/run.sh [check...]; without arguments, all of them.
#   graph          the include graph is the one of docs/architecture.md, and every umbrella reaches its folder
#   alone          every header compiles alone, g++ and clang, without a warning of the common sets
#   inline         no function or variable in a header is non-inline
#   hosts          they compile after C headers in GNU mode, and use no name that C headers define as a macro
#   no_exceptions  core and gemm work under -fno-exceptions -fno-rtti
#   odr            two translation units that include everything link and run, also with other -m flags; no warning
#   fast_math      NaN and Inf are refused in a unit compiled with -ffast-math, by g++ and the newest clang that is here;
#                  no warning of the common sets in what is instantiated there, most of losa
#   time           compile time of losa/gemm.hpp and losa/losa.hpp
#   sizes          lines after preprocessing and seconds of every umbrella; what multiplies nothing reaches no kernel
#   newest         headers against the newest Eigen and xsimd that PyPI carries (network)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source_dir=$(cd "$here/../.." && pwd)
cd "$source_dir"
work=$source_dir/build/headers
mkdir -p "$work"

# The warnings that hosts commonly ask for, losa's headers being theirs to compile (not -isystem). Left out, as no common
# set has them and they speak of style or of what is meant: -Weffc++, -Wfloat-equal (exact comparisons with 0 and of equal
# scores), -Wswitch-default and -Wswitch-enum, -Wcast-align=strict and -Wundefined-reinterpret-cast (vectors in memory),
# -Wpadded, -Wweak-vtables, -Wctad-maybe-unsupported, -Wexit-time-destructors (thread_local), -Wnrvo, -Wunsafe-buffer-usage
# and the -W…-compat of older standards.
common="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wfloat-conversion -Wshadow -Wdouble-promotion
  -Wold-style-cast -Wextra-semi -Wzero-as-null-pointer-constant -Wcast-align -Wcast-qual -Wnon-virtual-dtor
  -Woverloaded-virtual -Wformat=2 -Wnull-dereference -Wundef -Wunused -Wunused-macros -Wunused-const-variable
  -Wimplicit-fallthrough -Wmissing-declarations -Wredundant-decls -Wsuggest-override -Wmismatched-tags -Winit-self
  -Wunreachable-code -Wvla -Wdate-time -Wdeprecated"
only_gcc="-Wuseless-cast -Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wctor-dtor-privacy -Wdeprecated-copy-dtor
  -Wsign-promo -Wstrict-null-sentinel -Wtrampolines -Wconditionally-supported -Warith-conversion -Wvolatile
  -Wcatch-value=3 -Wshift-overflow=2 -Wformat-signedness -Wredundant-tags -Wcomma-subscript -Walloca -Wpacked"
only_clang="-Wextra-semi-stmt -Wshadow-all -Wcomma -Wdocumentation -Wnewline-eof -Wrange-loop-analysis -Wloop-analysis
  -Wconditional-uninitialized -Wheader-hygiene -Wunreachable-code-aggressive -Wunused-template -Wunused-member-function
  -Wmissing-prototypes -Wmissing-variable-declarations -Winconsistent-missing-destructor-override -Wassign-enum
  -Wimplicit-int-conversion -Wshorten-64-to-32 -Wreserved-identifier -Wthread-safety"
# -Wno-deprecated-declarations: newer clangs report libstdc++ 12 to whoever calls std::stable_sort.
warnings_of() {  # warnings_of COMPILER
  case $1 in *clang*) echo $common $only_clang -Wno-deprecated-declarations ;; *) echo $common $only_gcc ;; esac
}
installed=$(pkg-config --cflags-only-I eigen3 xsimd | sed 's/-I/-isystem /g')
flags="-std=c++20 -I include"
headers=$(find include/losa -name '*.hpp' | sort)

fail() {
  echo "headers: $1" >&2
  exit 1
}

# What the table of docs/architecture.md lets a folder (or an umbrella, losa.hpp) of include/losa include.
allowed() {
  awk -F'|' -v name="\`$1\`" '{ gsub(/ /, "", $2) } $2 == name { print $3; found = 1 } END { exit !found }' docs/architecture.md ||
    case $1 in *.hpp) echo "${1%.hpp}" ;; *) echo "headers: docs/architecture.md has no row for $1" >&2; exit 1 ;; esac
}

check_graph() {
  local header folder included target edges=0
  for header in $headers; do
    folder=$(dirname "${header#include/losa/}")
    case $folder in
      .) folder=$(basename "$header") ;;
      gemm/target) [ "$header" != include/losa/gemm/target/portable_panels.hpp ] && folder=gemm || folder=${header#include/losa/} ;;
      *) folder=${folder%%/*} ;;
    esac
    # <losa/x/...> counts as x, <losa/x.hpp> as x too, <Eigen/...> as Eigen; a name without a folder is the standard's.
    for included in $(sed -nE 's/^ *# *include *[<"]([^>"]+)[>"].*/\1/p' "$header"); do
      case $included in
        losa/version.hpp | sys/*) continue ;;
        losa/*) target=${included#losa/}; target=${target%%/*}; target=${target%.hpp} ;;
        */*) target=${included%%/*} ;;
        *) continue ;;
      esac
      edges=$((edges + 1))
      [ "$target" = "${folder%%/*}" ] || grep -qwF -- "$target" <<<"$(allowed "$folder")" ||
        fail "$header includes <$included>; $folder may include:$(allowed "$folder")"
    done
  done
  # An umbrella reaches every header of its folder; OpenMP's stays apart, since it needs a flag, and so do
  # gemm/kernels.hpp, which is for one unit of a program, and gemm/plain.hpp, which costs 0.4 s and is an interface of its own.
  local umbrella reached
  for folder in include/losa/*/; do
    umbrella=losa/$(basename "$folder").hpp
    reached=$(g++ $flags $installed -M -include "$umbrella" -x c++ /dev/null)
    for header in "$folder"*.hpp; do
      case $header in */core/openmp.hpp | */gemm/kernels.hpp | */gemm/plain.hpp) continue ;; esac
      grep -qF "${header#include/}" <<<"$reached" || fail "$umbrella does not reach $header"
    done
  done
  echo "headers: include graph: $edges edges, all allowed"
}

compile_alone() {  # compile_alone COMPILER EXTRA_FLAGS HEADER
  local openmp=""
  [ "$3" = include/losa/core/openmp.hpp ] && openmp=-fopenmp
  $1 $flags $2 $(warnings_of $1) -Werror $openmp -fsyntax-only -include "${3#include/}" -x c++ /dev/null ||
    { echo "headers: $3 does not compile alone with $1 $2" >&2; return 1; }
}
export -f compile_alone warnings_of
export flags common only_gcc only_clang

check_alone() {
  local compiler
  for compiler in g++ clang++; do
    # clang has no OpenMP header of its own on Debian, so that one header is g++'s to check.
    printf '%s\n' $headers | { [ $compiler = g++ ] && cat || grep -v core/openmp; } |
      xargs -P "$(nproc)" -I{} bash -c 'compile_alone "$@"' _ $compiler "$installed" {} || fail "see above"
  done
  echo "headers: each of $(wc -w <<<"$headers") compiles alone, g++ and clang"
}

check_inline() {
  local strong
  printf '#include <losa/losa.hpp>\n#include <losa/io.hpp>\n#include <losa/published.hpp>\n#include <losa/gemm/plain.hpp>\n' >"$work/everything.cpp"
  g++ $flags $installed -c "$work/everything.cpp" -o "$work/everything.o"
  # An inline function or variable is weak (W, V, u); a strong one (T, D, B, R) or a static one (t, d, b) is ours to mend.
  strong=$(nm --defined-only --demangle "$work/everything.o" | grep -E ' [TDBRtdb] ' | grep losa || true)
  [ -z "$strong" ] || fail "not inline:"$'\n'"$strong"
  echo "headers: no function or variable is non-inline"
}

# A host that includes C headers first: those that are here, and as macros the names that those of other systems define.
# In the second unit the headers of others come before the macros: they are not ours to mend.
hosts_with() {  # hosts_with COMPILER
  local python openmp=""
  python=$(python3-config --includes 2>/dev/null || true)
  [ "$1" = g++ ] && openmp=-fopenmp
  $1 -std=gnu++20 -I include $installed $python -w -fsyntax-only "$here/c_headers.cpp" ||
    fail "hosts: $1: losa does not compile after C headers"
  $1 $flags $installed $openmp -w -fsyntax-only "$work/hosts_$1.cpp" ||
    fail "hosts: $1: a header uses a name of tests/headers/c_macros.txt"
}

check_hosts() {
  local compiler job jobs=()
  for compiler in g++ clang++; do
    {
      sed -nE 's/^ *# *include *<([^>]+)>.*/\1/p' $headers | grep -v '^losa/' | sort -u |
        sed 's/.*/#if __has_include(<&>)\n#include <&>\n#endif/'
      sed 's/#.*//' "$here/c_macros.txt" | tr -s ' ' '\n' |
        sed -nE 's/^([A-Za-z_0-9]+)(.*)/#undef \1\n#define \1\2 ] [a macro of C headers] [/p'
      printf '%s\n' $headers | { [ $compiler = g++ ] && cat || grep -v core/openmp; } | sed 's|include/\(.*\)|#include <\1>|'
    } >"$work/hosts_$compiler.cpp"
  done
  hosts_with g++ & jobs+=($!)
  hosts_with clang++ & jobs+=($!)
  for job in "${jobs[@]}"; do wait "$job" || exit 1; done
  echo "headers: they compile after C headers in GNU mode and use no name that those define as a macro, g++ and clang"
}

check_no_exceptions() {
  local compiler
  for compiler in g++ clang++; do
    $compiler $flags $(warnings_of $compiler) -Werror -O1 -fno-exceptions -fno-rtti "$here/no_exceptions.cpp" -o "$work/no_exceptions" -pthread
    "$work/no_exceptions"
    "$work/no_exceptions" threads
  done
  echo "headers: core and gemm work without exceptions and RTTI, g++ and clang"
}

odr_with() (  # odr_with COMPILER, in a folder of its own
  mkdir -p "$work/odr_$1"
  cd "$work/odr_$1"
  compile=("$1" -std=c++20 -I "$source_dir/include" $installed $(warnings_of "$1") -Werror -O2)
  "${compile[@]}" -DENTRY=first -c "$here/odr.cpp" -o first.o
  for other in "" "-ffast-math" "-mavx2 -mfma" "-march=native"; do
    case $other in -m*)
      [ "$(uname -m)" = x86_64 ] && grep -qw avx2 /proc/cpuinfo || { echo "headers: odr: skipped $other, not this CPU"; continue; }
    esac
    "${compile[@]}" $other -DENTRY=second -c "$here/odr.cpp" -o second.o
    for order in "first second" "second first"; do
      $1 "$here/odr_main.cpp" $(printf "%s.o " $order) -o both -pthread
      ./both || fail "odr: $1, second with '$other', linked $order"
    done
  done
)

check_odr() {
  local job jobs=() failed=no
  odr_with g++ & jobs+=($!)
  odr_with clang++ & jobs+=($!)
  for job in "${jobs[@]}"; do wait "$job" || failed=yes; done
  [ $failed = no ] || fail "odr: see above"
  echo "headers: two units that include everything link and run, other -m flags and either order included"
}

newest_clang() {
  local found
  found=$(ls /usr/bin/clang++-[0-9]* 2>/dev/null | sort -V | tail -n 1)
  echo "${found:-clang++}"
}

# clang 17 was the first to believe of floats what -ffast-math promises.
fast_math_with() {  # fast_math_with NAME FLAGS COMPILER
  local log=$work/fast_math/$1.log
  $3 $flags $installed $(warnings_of $3) -ffast-math $2 -DLOSA_EXTERN_KERNELS -c "$here/fast_math.cpp" -o "$work/fast_math/$1.o" 2>"$log" ||
    { cat "$log" >&2; return 1; }
  if grep -E '(^|[ /])include/losa/[^ ]*: warning:' "$log"; then fail "fast_math: $3 warns of losa's headers"; fi
  g++ "$work/fast_math/$1.o" "$work/fast_math/kernels.o" -o "$work/fast_math/$1" -pthread || return 1
  mkdir -p "$work/fast_math/$1.files"
  (cd "$work/fast_math/$1.files" && "../$1") || fail "fast_math: $3 $2: see above"
}

check_fast_math() {
  local clang job jobs=()
  if grep -rnE '\b(isfinite|isnan|isinf|isnormal|fpclassify|infinity\(\)|quiet_NaN\(\))' include | grep -vE ':[0-9]+: *//'; then
    fail "fast_math: compilers fold these; ask with losa/core/finite.hpp"
  fi
  clang=$(newest_clang)
  mkdir -p "$work/fast_math"
  printf '#include <losa/gemm.hpp>\n#include <losa/gemm/kernels.hpp>\n' >"$work/fast_math/kernels.cpp"
  g++ $flags $installed -DLOSA_EXTERN_KERNELS -c "$work/fast_math/kernels.cpp" -o "$work/fast_math/kernels.o"
  fast_math_with clang "-O3 -DWITH_ADAPTATION" "$clang" & jobs+=($!)
  fast_math_with gcc -O2 g++ & jobs+=($!)
  for job in "${jobs[@]}"; do wait "$job" || exit 1; done
  echo "headers: NaN and Inf are refused under -ffast-math, g++ and $("$clang" --version | head -n 1)"
}

# One compilation's user time in seconds.
compile_seconds() {
  local TIMEFORMAT=%U
  { time g++ $flags $installed -O2 -c "$1" -o "$work/timed.o"; } 2>&1
}

# What is not losa's of a unit's headers: xsimd, Eigen and the standard ones.
foreign_headers() {
  g++ $flags $installed -M "$1" | tr ' ' '\n' | grep -o 'include/losa/.*\.hpp' | sort -u |
    xargs sed -nE 's/^ *# *include *<([^>]+)>.*/\1/p' | grep -v '^losa/' | sort -u | sed 's/.*/#include <&>/'
}

# Least of five rounds, so that a busy moment of the machine does not count. The limits hold where the headers that come
# from elsewhere take 1.4 and 3.1 s, and grow with them on a slower machine: one machine has taken 2.9 to 4.5 s for the
# latter within a day. What gemm.hpp adds is the least difference within one round, as a slow moment lasts for seconds.
check_time() {
  local unit round limits
  echo '#include <losa/gemm.hpp>' >"$work/gemm.cpp"
  echo '#include <losa/losa.hpp>' >"$work/all.cpp"
  for unit in gemm all; do foreign_headers "$work/$unit.cpp" >"$work/${unit}_foreign.cpp"; done
  if g++ $flags $installed -M "$work/gemm.cpp" | grep -E '/Eigen/|nlohmann'; then fail "losa/gemm.hpp includes Eigen or JSON"; fi
  local -A now=() least=()
  for round in 1 2 3 4 5; do
    for unit in gemm gemm_foreign all all_foreign; do now[$unit]=$(compile_seconds "$work/$unit.cpp"); done
    now[gemm_adds]=$(awk "BEGIN { print ${now[gemm]} - ${now[gemm_foreign]} }")
    for unit in "${!now[@]}"; do
      least[$unit]=$(printf '%s\n' "${now[$unit]}" "${least[$unit]:-99}" | sort -g | head -n 1)
    done
  done
  read -ra limits < <(awk "BEGIN { gemm = ${least[gemm_foreign]} / 1.4; all = ${least[all_foreign]} / 3.1
                                   print (gemm > 1 ? gemm : 1) * 1.0, (all > 1 ? all : 1) * 6.0 }")
  echo "headers: compile time at -O2: losa/gemm.hpp ${least[gemm]} s, ${least[gemm_adds]} s beyond what it includes (limit ${limits[0]} s)"
  echo "headers: compile time at -O2: losa/losa.hpp ${least[all]} s, of which others' headers ${least[all_foreign]} s (limit ${limits[1]} s)"
  awk "BEGIN { exit !(${least[gemm_adds]} <= ${limits[0]}) }" || fail "losa/gemm.hpp costs ${limits[0]} s or more beyond what it includes"
  awk "BEGIN { exit !(${least[all]} < ${limits[1]}) }" || fail "losa/losa.hpp takes ${limits[1]} s or more"
}

# Headers that include no product must not pull in the kernels of all targets.
without_products="adapter/concept adapter/dropout adapter/gradients adapter/merge adapter/optimizer adapter/resize
  gemm/packed_matrix gemm/quantized_matrix gemm/list_matrix gemm/pack gemm/operation gemm/formats gemm/backend
  calibrate mask allocate core io"

check_sizes() {
  local header lines seconds unit
  printf 'headers: %-22s %9s %9s\n' umbrella lines "seconds at -O2"
  for header in core calibrate mask allocate gemm gemm/plain adapter adapt published io losa; do
    unit=$work/size.cpp
    echo "#include <losa/$header.hpp>" >"$unit"
    lines=$(g++ $flags $installed -E -P "$unit" | wc -l)
    seconds=$(compile_seconds "$unit")
    [[ $seconds =~ ^[0-9.]+$ ]] || fail "losa/$header.hpp does not compile: $seconds"
    printf 'headers: %-22s %9s %9s\n' "losa/$header.hpp" "$lines" "$seconds"
  done
  for header in $without_products; do
    ! g++ $flags $installed -M -include "losa/$header.hpp" -x c++ /dev/null | grep -q 'gemm/\(bitmask\|list\)/' ||
      fail "losa/$header.hpp includes kernels"
  done
  echo "headers: what multiplies nothing includes no kernel"
}

# Packages on PyPI that carry the headers of xsimd 14.1 and of Eigen 5.0.1.
carriers="pythran==0.19.0 pgm-build-deps==2026.10.26.92"

check_newest() {
  local newest=$work/newest eigen xsimd header users="" versions
  if [ "$(cat "$newest/complete" 2>/dev/null)" != "$carriers" ]; then
    rm -rf "$newest"
    build/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$newest" $carriers
    echo "$carriers" >"$newest/complete"
  fi
  eigen=$newest/pgm_build_deps/eigen/include/eigen3
  xsimd=$newest/pythran
  for header in $headers; do  # those that include Eigen or xsimd, directly or not
    [ "$header" = include/losa/core/openmp.hpp ] && continue
    if g++ $flags $installed -M -include "${header#include/}" -x c++ /dev/null | grep -qE '/Eigen/|/xsimd/'; then users="$users $header"; fi
  done
  versions=$(printf '#include <Eigen/Core>\n#include <xsimd/xsimd.hpp>\n"Eigen" EIGEN_VERSION_STRING "xsimd" XSIMD_VERSION_MAJOR.XSIMD_VERSION_MINOR.XSIMD_VERSION_PATCH' |
    g++ -std=c++20 -isystem "$eigen" -isystem "$xsimd" -E -P -x c++ - | tail -n 1 | tr -d '"')
  printf '%s\n' $users | xargs -P "$(nproc)" -I{} bash -c 'compile_alone "$@"' _ g++ "-isystem $eigen -isystem $xsimd" {} || fail "see above"
  echo "headers: $(wc -w <<<"$users") headers compile with $versions"
}

[ $# -gt 0 ] || set -- graph alone inline hosts no_exceptions odr fast_math time newest
for check in "$@"; do "check_$check"; done
