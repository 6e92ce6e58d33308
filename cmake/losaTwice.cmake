# What happens where losa is there already: another dependency of the same project brought it, or found it installed. Used
# by losa's own build and, installed beside it, by losaConfig.cmake.

# Sets `done` to TRUE where another losa is there and is taken instead of `folder`, and says so. It must not be older than
# what is asked for: then, and where losa::losa is another library, `problem` is set to a sentence, else to nothing.
# `version` becomes that of the other losa. Further arguments, for find_package: EXACT, or MAX and an upper bound that is
# INCLUDE (allowed itself) or EXCLUDE.
function(losa_already_there asked folder done version problem)
  cmake_parse_arguments(PARSE_ARGV 5 bound "EXACT" "MAX;MAX_IS" "")
  set(${done} FALSE PARENT_SCOPE)
  set(${version} "" PARENT_SCOPE)
  set(${problem} "" PARENT_SCOPE)
  if(NOT TARGET losa::losa)
    return()
  endif()
  get_target_property(existing losa::losa LOSA_VERSION)
  get_target_property(from losa::losa LOSA_FOLDER)
  if(NOT existing)  # the first version did not tell, nor does a target that somebody made of the headers: they do
    get_target_property(includes losa::losa INTERFACE_INCLUDE_DIRECTORIES)
    foreach(include IN LISTS includes)
      string(REGEX REPLACE "^\\$<BUILD_INTERFACE:(.*)>$" "\\1" include "${include}")
      if(NOT existing AND EXISTS "${include}/losa/version.hpp")
        file(STRINGS "${include}/losa/version.hpp" line REGEX "define LOSA_VERSION_STRING")
        string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" existing "${line}")
        set(from "${include}")
      endif()
    endforeach()
  endif()
  set(sentence "")
  if(NOT existing)
    string(CONCAT sentence "the target losa::losa that is there already is another library (its include directories hold "
                           "no losa/version.hpp); rename it")
  elseif(bound_EXACT AND NOT existing VERSION_EQUAL "${asked}")
    string(CONCAT sentence "version ${existing}, from ${from}, is there already, but ${asked} EXACT is asked for by ${folder}")
  elseif(bound_MAX AND (existing VERSION_GREATER bound_MAX OR
                        (bound_MAX_IS STREQUAL "EXCLUDE" AND existing VERSION_EQUAL bound_MAX)))
    string(CONCAT sentence "version ${existing}, from ${from}, is there already, but one up to ${bound_MAX} is asked for by "
                           "${folder}")
  elseif(existing VERSION_LESS "${asked}")
    string(CONCAT sentence "version ${existing}, from ${from}, is there already, but ${asked} is asked for by ${folder}. "
                           "Add the newer one first, or update the older one")
  endif()
  if(sentence)
    set(${problem} "${sentence}" PARENT_SCOPE)
    return()
  endif()
  if(NOT from STREQUAL folder)
    message(STATUS "losa: version ${existing}, from ${from}, is there already and is taken; ${folder} is not used")
  endif()
  set(${version} ${existing} PARENT_SCOPE)
  set(${done} TRUE PARENT_SCOPE)
endfunction()

# Before losa's own targets are made: an error where the project has one of the same name.
function(losa_refuse_strangers folder)
  foreach(target losa losa_io losa::io)
    if(TARGET ${target})
      get_target_property(kind ${target} TYPE)
      get_target_property(from ${target} SOURCE_DIR)
      message(FATAL_ERROR "losa: this project has a target `${target}` that is not this library (${kind}, from ${from}), and "
                          "${folder} would make another; rename it, or install losa and use find_package(losa), which "
                          "makes losa::losa and losa::io alone")
    endif()
  endforeach()
endfunction()

# Makes losa::io of losa::losa where the losa that was first did without nlohmann-json.
function(losa_add_late_io)
  if(TARGET losa::io)
    return()
  endif()
  losa_find(losa_json nlohmann_json 3.11.0 nlohmann_json::nlohmann_json)
  if(losa_json)
    add_library(losa_io INTERFACE)
    add_library(losa::io ALIAS losa_io)
    target_link_libraries(losa_io INTERFACE losa::losa ${losa_json})
  endif()
endfunction()

# For losaConfig.cmake: the component `io`, and why it is not there.
macro(losa_tell_io)
  if(TARGET losa::io)
    set(losa_io_FOUND TRUE)
  elseif("io" IN_LIST losa_FIND_COMPONENTS)
    set(losa_NOT_FOUND_MESSAGE "losa::io needs nlohmann-json 3.11, which was not found")
  endif()
endmacro()
