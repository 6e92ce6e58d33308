# Finds what losa stands on: a target the parent project has already, else an installed package, else (unless
# LOSA_FETCH=OFF, and never for an installed losa) a download whose hash is checked. Used by losa's own build and,
# installed beside it, by losaConfig.cmake.

# Fails when `version` (of the package called `name`) is below `floor`; a parent's target has no version to compare.
function(losa_require_version name version floor)
  if(version AND version VERSION_LESS floor)
    message(FATAL_ERROR "losa needs ${name} ${floor} or newer; version ${version} was found")
  endif()
endfunction()

# Downloads a header-only library and makes `target` of its headers, without its build system: no foreign targets, no
# foreign options, and the headers are SYSTEM. A parent that declared the same content under the same name has its way.
function(losa_fetch target name include_dir package urls sha256)
  message(STATUS "losa: ${target} is not installed, downloading it; to avoid that, install ${package}, "
                 "define the target ${target} before losa is added, or set LOSA_FETCH=OFF")
  include(FetchContent)
  FetchContent_Declare(${name} SYSTEM URL ${urls} URL_HASH SHA256=${sha256} DOWNLOAD_EXTRACT_TIMESTAMP TRUE
                       SOURCE_SUBDIR headers-only)
  FetchContent_MakeAvailable(${name})
  if(NOT TARGET ${target})
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${${name}_SOURCE_DIR}/${include_dir})
  endif()
endfunction()

# After this Eigen3::Eigen and Threads::Threads exist, `losa_xsimd` in the caller's scope names the target of xsimd, and
# nlohmann_json::nlohmann_json exists if it could be had. A missing Eigen or xsimd sets `losa_missing`, which is fatal
# in losa's own build.
function(losa_resolve_dependencies)
  cmake_parse_arguments(arg "" "FETCH" "" ${ARGN})
  set(missing "")

  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_package(Threads QUIET)
  if(NOT TARGET Threads::Threads)
    list(APPEND missing "a threads library")
  endif()

  # No version in the calls of find_package: no versioned form accepts both 3.4 and 5.0.
  if(NOT TARGET Eigen3::Eigen)
    find_package(Eigen3 QUIET NO_MODULE)
    losa_require_version(Eigen "${Eigen3_VERSION}" 3.4.0)
  endif()
  if(NOT TARGET Eigen3::Eigen AND arg_FETCH)  # 3.4.0
    losa_fetch(Eigen3::Eigen eigen . libeigen3-dev
      "https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz;https://github.com/eigen-mirror/eigen/archive/refs/tags/3.4.0.tar.gz"
      8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
  endif()
  if(NOT TARGET Eigen3::Eigen)
    list(APPEND missing "Eigen 3.4")
  endif()

  if(NOT TARGET xsimd AND NOT TARGET xsimd::xsimd)
    find_package(xsimd QUIET NO_MODULE)
    losa_require_version(xsimd "${xsimd_VERSION}" 8.1.0)
    # Debian 12's package links to a target that no package defines.
    if(TARGET xsimd AND NOT TARGET xtl)
      get_target_property(links xsimd INTERFACE_LINK_LIBRARIES)
      if(links)
        list(REMOVE_ITEM links xtl)
        set_target_properties(xsimd PROPERTIES INTERFACE_LINK_LIBRARIES "${links}")
      endif()
    endif()
  endif()
  if(NOT TARGET xsimd AND NOT TARGET xsimd::xsimd AND arg_FETCH)  # 14.1.0
    losa_fetch(xsimd xsimd include libxsimd-dev https://github.com/xtensor-stack/xsimd/archive/14.1.0.tar.gz
      8da77b66214e73565f6111ba494322c853552b7b40cff69779b42e2100eed16f)
  endif()
  if(TARGET xsimd)
    set(losa_xsimd xsimd PARENT_SCOPE)
  elseif(TARGET xsimd::xsimd)
    set(losa_xsimd xsimd::xsimd PARENT_SCOPE)
  else()
    list(APPEND missing "xsimd 8.1")
  endif()

  if(NOT TARGET nlohmann_json::nlohmann_json)
    find_package(nlohmann_json QUIET NO_MODULE)
  endif()
  if(NOT TARGET nlohmann_json::nlohmann_json AND arg_FETCH)  # 3.11.3
    losa_fetch(nlohmann_json::nlohmann_json json include nlohmann-json3-dev
      https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
      d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
  endif()
  if(NOT TARGET nlohmann_json::nlohmann_json)
    message(STATUS "losa: nlohmann-json was not found, so there is no losa::io; install nlohmann-json3-dev to have it")
  endif()

  list(JOIN missing ", " losa_missing)
  if(losa_missing AND DEFINED arg_FETCH)
    message(FATAL_ERROR "losa: not found: ${losa_missing}; install it, or set LOSA_FETCH=ON")
  endif()
  set(losa_missing "${losa_missing}" PARENT_SCOPE)
endfunction()
