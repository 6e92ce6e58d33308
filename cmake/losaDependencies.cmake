# Finds what losa stands on: a target the parent project has already, else an installed package, else (in losa's own
# build, unless LOSA_FETCH=OFF) a download whose hash is checked. Used by losa's own build and, installed beside it, by
# losaConfig.cmake.

# Sets `out` to the first of the targets ARGN that exists, now or after find_package.
function(losa_find out package floor)
  set(${out} "" PARENT_SCOPE)
  foreach(target IN LISTS ARGN)
    if(TARGET ${target})
      set(${out} ${target} PARENT_SCOPE)
      return()
    endif()
  endforeach()
  # No version in the call: no versioned form accepts both Eigen 3.4 and 5.0.
  find_package(${package} QUIET NO_MODULE)
  if(${package}_VERSION AND ${package}_VERSION VERSION_LESS floor)
    message(FATAL_ERROR "losa needs ${package} ${floor} or newer; ${${package}_VERSION} was found in ${${package}_DIR}")
  endif()
  foreach(target IN LISTS ARGN)
    if(TARGET ${target})
      set(${out} ${target} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# Downloads a header-only library unless `out` names a target already, and makes the target losa::<name> of its headers.
# Its own build system is not run: no foreign targets, no foreign options. The headers are SYSTEM.
function(losa_fetch out name include_dir package sha256)
  if(${out})
    return()
  endif()
  message(STATUS "losa: ${name} was not found and is downloaded; to avoid that install ${package}, define its target "
                 "before losa is added, or set LOSA_FETCH=OFF")
  include(FetchContent)
  FetchContent_Declare(losa_${name} SYSTEM URL ${ARGN} URL_HASH SHA256=${sha256} DOWNLOAD_EXTRACT_TIMESTAMP TRUE
                       SOURCE_SUBDIR headers-only)
  FetchContent_MakeAvailable(losa_${name})
  add_library(losa::${name} INTERFACE IMPORTED GLOBAL)
  target_include_directories(losa::${name} INTERFACE ${losa_${name}_SOURCE_DIR}/${include_dir})
  set(${out} losa::${name} PARENT_SCOPE)
endfunction()

# Sets losa_eigen, losa_xsimd and losa_json to the names of the targets (losa_json to nothing where there is none),
# makes Threads::Threads, and sets losa_missing to what is needed and absent.
macro(losa_resolve_dependencies)
  find_package(Threads QUIET)
  losa_find(losa_eigen Eigen3 3.4.0 Eigen3::Eigen)
  losa_find(losa_xsimd xsimd 8.1.0 xsimd::xsimd xsimd)
  losa_find(losa_json nlohmann_json 3.11.0 nlohmann_json::nlohmann_json)

  # Debian 12's xsimd links to a target that no package defines.
  if(TARGET xsimd AND NOT TARGET xtl)
    get_target_property(losa_links xsimd INTERFACE_LINK_LIBRARIES)
    if("xtl" IN_LIST losa_links)
      list(REMOVE_ITEM losa_links xtl)
      set_target_properties(xsimd PROPERTIES INTERFACE_LINK_LIBRARIES "${losa_links}")
    endif()
  endif()

  if(LOSA_FETCH)  # Eigen 3.4.0, xsimd 14.1.0, nlohmann-json 3.11.3
    losa_fetch(losa_eigen eigen . libeigen3-dev 8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72
               https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
               https://github.com/eigen-mirror/eigen/archive/refs/tags/3.4.0.tar.gz)
    losa_fetch(losa_xsimd xsimd include libxsimd-dev 8da77b66214e73565f6111ba494322c853552b7b40cff69779b42e2100eed16f
               https://github.com/xtensor-stack/xsimd/archive/14.1.0.tar.gz)
    losa_fetch(losa_json json include nlohmann-json3-dev
               d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d
               https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz)
  endif()

  set(losa_missing "")
  if(NOT TARGET Threads::Threads)
    string(APPEND losa_missing " threads")
  endif()
  if(NOT losa_eigen)
    string(APPEND losa_missing " Eigen")
  endif()
  if(NOT losa_xsimd)
    string(APPEND losa_missing " xsimd")
  endif()
endmacro()
