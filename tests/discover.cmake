# Lists the test cases of a test executable for ctest: cmake -D EXECUTABLE= -D FOLDER= -D OUTPUT= -P discover.cmake
# EXECUTABLE is a list where an emulator with its arguments comes before the program.
# (doctest's own script stumbles over names with brackets and semicolons.)
execute_process(COMMAND ${EXECUTABLE} --list-test-cases --no-colors OUTPUT_VARIABLE listed COMMAND_ERROR_IS_FATAL ANY)
list(JOIN EXECUTABLE "]==] [==[" command)
# Where a character means something to CMake or to doctest's filter, ctest's name has another and the filter `?`.
string(REGEX REPLACE "[[;]" "\t" listed "${listed}")
string(REPLACE "]" "\t" listed "${listed}")
string(REPLACE "\n" ";" listed "${listed}")
set(script "")
foreach(name IN LISTS listed)
  if(name MATCHES "^\tdoctest\t|^=+$|^$")
    continue()
  endif()
  string(REGEX REPLACE "[\t,\\]" "?" filter "${name}")
  string(REPLACE "\t" "_" name "${name}")
  string(APPEND script "add_test([==[${FOLDER}: ${name}]==] [==[${command}]==] [==[--test-case=${filter}]==])\n"
         # A filter that matches nothing must not pass.
         "set_tests_properties([==[${FOLDER}: ${name}]==] PROPERTIES FAIL_REGULAR_EXPRESSION [==[test cases: *0 ]==])\n")
endforeach()
file(WRITE ${OUTPUT} "${script}")
