# The CUDA kernels: cpp/src/*/*_cuda.cu, compiled by nvcc to one file of machine code for every
# architecture, and carried in the library as bytes. No CUDA library is linked: the driver loads them.
#
# AGP_EDGE_CUDA_ARCHITECTURES   "all" (default): every one that nvcc knows from 7.5 on, and the newest
#                               as PTX for those to come; or a list, 87;90. An editable install takes
#                               the oldest, whose PTX every GPU's driver can compile, for speed. The
#                               environment's variable of that name changes the default.
option(AGP_EDGE_CUDA "Build the CUDA kernels where nvcc is found" ON)
if(DEFINED ENV{AGP_EDGE_CUDA_ARCHITECTURES})
  set(AGP_EDGE_CUDA_ARCHITECTURES_DEFAULT "$ENV{AGP_EDGE_CUDA_ARCHITECTURES}")
elseif("${SKBUILD_STATE}" STREQUAL "editable")
  set(AGP_EDGE_CUDA_ARCHITECTURES_DEFAULT "75")
else()
  set(AGP_EDGE_CUDA_ARCHITECTURES_DEFAULT "all")
endif()
set(AGP_EDGE_CUDA_ARCHITECTURES "${AGP_EDGE_CUDA_ARCHITECTURES_DEFAULT}" CACHE STRING
  "all, or numbers like 87;90")

# Custom target `cuda`: only the kernels, for the preset of that name.
add_custom_target(cuda)
set(AGP_EDGE_HAS_CUDA OFF)
if(NOT AGP_EDGE_CUDA)
  message(STATUS "CUDA kernels: left out, AGP_EDGE_CUDA is OFF")
  return()
endif()
find_program(AGP_EDGE_NVCC nvcc
  HINTS "$ENV{CUDA_HOME}/bin" /usr/local/cuda/bin
  DOC "NVIDIA's CUDA compiler")
if(NOT AGP_EDGE_NVCC)
  message(STATUS
    "CUDA kernels: left out, nvcc was not found (CUDA toolkit 12 or 13, or -DAGP_EDGE_NVCC=FILE); frames are prepared on the CPU")
  return()
endif()

execute_process(COMMAND "${AGP_EDGE_NVCC}" --version OUTPUT_VARIABLE version ERROR_QUIET)
execute_process(COMMAND "${AGP_EDGE_NVCC}" --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
if(NOT version MATCHES "release ([0-9]+)\\.([0-9]+)")
  message(STATUS "CUDA kernels: left out, ${AGP_EDGE_NVCC} does not run")
  return()
endif()
set(AGP_EDGE_CUDA_VERSION "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}")
math(EXPR AGP_EDGE_CUDA_NUMBER "${CMAKE_MATCH_1} * 1000 + ${CMAKE_MATCH_2} * 10")

set(architectures "${AGP_EDGE_CUDA_ARCHITECTURES}")
if(architectures STREQUAL "all")
  string(REGEX MATCHALL "compute_[0-9]+" known "${known}")
  list(TRANSFORM known REPLACE "compute_" "")
  list(SORT known COMPARE NATURAL)
  list(REMOVE_DUPLICATES known)
  set(architectures "")
  foreach(architecture IN LISTS known)
    if(architecture GREATER_EQUAL 75)
      list(APPEND architectures "${architecture}")
    endif()
  endforeach()
endif()
set(flags "")
foreach(architecture IN LISTS architectures)
  list(APPEND flags "-gencode=arch=compute_${architecture},code=sm_${architecture}")
  set(newest "${architecture}")
endforeach()
list(APPEND flags "-gencode=arch=compute_${newest},code=compute_${newest}")
if(AGP_EDGE_CUDA_VERSION VERSION_GREATER_EQUAL 13.0)
  # A quarter of the size; drivers older than this toolkit's do not load its code anyway.
  list(APPEND flags --compress-mode=size)
endif()
if(AGP_EDGE_WERROR)
  list(APPEND flags -Werror all-warnings)
endif()

set(AGP_EDGE_CUDA_FILES "")
foreach(stage IN ITEMS preprocess postprocess)
  set(file "${PROJECT_BINARY_DIR}/${stage}.fatbin")
  file(GLOB headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/cpp/src/*/*_kernel.hpp")
  add_custom_command(
    OUTPUT "${file}"
    COMMAND "${AGP_EDGE_NVCC}" -std=c++17 -fatbin ${flags} "-I${PROJECT_SOURCE_DIR}/cpp/src"
            "${PROJECT_SOURCE_DIR}/cpp/src/${stage}/${stage}_cuda.cu" -o "${file}"
    DEPENDS "cpp/src/${stage}/${stage}_cuda.cu" ${headers} cpp/src/cuda/host_device.hpp cpp/src/frame/nv12.hpp
    COMMENT "nvcc ${stage}_cuda.cu for SM ${architectures}"
    VERBATIM)
  list(APPEND AGP_EDGE_CUDA_FILES "${file}")
endforeach()
add_custom_target(agp_edge_cuda_files DEPENDS ${AGP_EDGE_CUDA_FILES})
add_dependencies(cuda agp_edge_cuda_files)
set(AGP_EDGE_HAS_CUDA ON)
list(JOIN architectures " " architectures)
message(STATUS
  "CUDA kernels: built with nvcc ${AGP_EDGE_CUDA_VERSION} for SM ${architectures}")
