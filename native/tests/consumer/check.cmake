# Installs the build tree `build` below `work`, builds the consumer in `source` through
# find_package and through pkg-config, runs all of them: each must print `version` first.

set(prefix "${work}/prefix")
file(REMOVE_RECURSE "${work}")
file(MAKE_DIRECTORY "${work}")

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(run_consumer program)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env ${ARGN} "${program}"
    OUTPUT_VARIABLE output
    COMMAND_ERROR_IS_FATAL ANY
  )
  string(REGEX REPLACE "\n.*" "" first_line "${output}")
  if(NOT first_line STREQUAL version)
    message(FATAL_ERROR "${program} says version '${first_line}', this is '${version}'")
  endif()
endfunction()

run("${CMAKE_COMMAND}" --install "${build}" --prefix "${prefix}")

# Moved after installation: nothing in it may remember where it was.
file(RENAME "${prefix}" "${work}/moved")
set(prefix "${work}/moved")
file(GLOB_RECURSE pc_file "${prefix}/*/ipcheap.pc")
get_filename_component(pc_dir "${pc_file}" DIRECTORY)
get_filename_component(lib_dir "${pc_dir}" DIRECTORY)

run("${CMAKE_COMMAND}" -G "${generator}" -S "${source}" -B "${work}/cmake"
    "-DCMAKE_MAKE_PROGRAM=${make}" "-DCMAKE_C_COMPILER=${compiler}"
    "-DCMAKE_PREFIX_PATH=${prefix}"
)
run("${CMAKE_COMMAND}" --build "${work}/cmake")
run_consumer("${work}/cmake/consumer_shared")
run_consumer("${work}/cmake/consumer_static")

find_program(pkg_config NAMES pkg-config pkgconf)
if(NOT pkg_config)
  message(STATUS "no pkg-config here: that half is left out")
  return()
endif()

# Into `variable`: what pkg-config says to the given questions.
function(ask variable)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env "PKG_CONFIG_PATH=${pc_dir}" "${pkg_config}" ${ARGN}
            ipcheap
    OUTPUT_VARIABLE answer
    OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY
  )
  separate_arguments(answer UNIX_COMMAND "${answer}")
  set(${variable} ${answer} PARENT_SCOPE)
endfunction()

ask(flags --cflags --libs)
run("${compiler}" -o "${work}/pc_shared" "${source}/main.c" ${flags})
run_consumer("${work}/pc_shared" "LD_LIBRARY_PATH=${lib_dir}")

ask(flags --cflags --libs --static)
run("${compiler}" -o "${work}/pc_static" "${source}/main.c" -Wl,-Bstatic ${flags}
    -Wl,-Bdynamic
)
run_consumer("${work}/pc_static")
