# What happens where losa is there already: another dependency of the same project brought it, or found it installed.

# Sets `done` to TRUE where another losa is there and is taken instead of `folder`, and says so. It must not be
# older than what is asked for.
function(losa_already_there asked folder done)
  set(${done} FALSE PARENT_SCOPE)
  if(NOT TARGET losa::losa)
    if(TARGET losa)
      message(FATAL_ERROR "losa: this project has a target `losa` that is not this library; rename it")
    endif()
    return()
  endif()
  get_target_property(version losa::losa LOSA_VERSION)
  get_target_property(from losa::losa LOSA_FOLDER)
  if(NOT version)  # the first version did not tell
    set(version 0.1.0)
    set(from "another folder")
  endif()
  if(version VERSION_LESS "${asked}")
    message(FATAL_ERROR "losa: version ${version}, from ${from}, is there already, but ${asked} is asked for by ${folder}. "
                        "Add the newer one first, or update the older one")
  endif()
  if(NOT from STREQUAL folder)
    message(STATUS "losa: version ${version}, from ${from}, is there already and is taken; ${folder} is not used")
  endif()
  set(${done} TRUE PARENT_SCOPE)
endfunction()
