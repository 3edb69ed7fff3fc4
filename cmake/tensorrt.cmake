# The TensorRT modules _trt10, _trt11 and _trtrtx: one source, compiled against the headers of each
# major that is found; nothing is linked, the library is opened at run time.
#
# Headers are looked for in AGP_EDGE_TENSORRT_HEADERS (a folder of folders, one per version),
# TENSORRT_ROOT, /usr/local/tensorrt and the system's include folders. Of one major the oldest are
# taken: a module works with the version of its headers and every newer one of that major.
option(AGP_EDGE_TENSORRT "Build the TensorRT modules whose headers are found" ON)
set(AGP_EDGE_TENSORRT_VERSION "" CACHE STRING
  "Only headers of this version, e.g. 10.3; it is then an error when they are missing")

set(AGP_EDGE_TENSORRT_HEADERS "" CACHE PATH
  "Folder that holds one folder of TensorRT headers per version; empty: the environment's")

# "10.3.0" from NvInferVersion.h in `folder`; empty where there is none.
function(agp_edge_tensorrt_version folder result)
  set(${result} "" PARENT_SCOPE)
  if(NOT EXISTS "${folder}/NvInferVersion.h" OR NOT EXISTS "${folder}/NvInferRuntime.h")
    return()
  endif()
  set(version "")
  foreach(part MAJOR MINOR PATCH)
    # Newer headers define NV_TENSORRT_MAJOR as TRT_MAJOR_ENTERPRISE, which is the number.
    file(STRINGS "${folder}/NvInferVersion.h" line
      REGEX "#define (NV_TENSORRT_${part}|TRT_${part}_ENTERPRISE) [0-9]+")
    if(NOT line MATCHES "(NV_TENSORRT_${part}|TRT_${part}_ENTERPRISE) ([0-9]+)")
      return()
    endif()
    list(APPEND version "${CMAKE_MATCH_2}")
  endforeach()
  list(JOIN version "." version)
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

# Sets AGP_EDGE_TENSORRT_<major>_INCLUDE and _VERSION for the majors found, and
# AGP_EDGE_TENSORRT_FOLDERS to every folder found.
function(agp_edge_find_tensorrt)
  set(headers "${PROJECT_SOURCE_DIR}/../shared/third_party/tensorrt")
  if(AGP_EDGE_TENSORRT_HEADERS)
    set(headers "${AGP_EDGE_TENSORRT_HEADERS}")
  elseif(DEFINED ENV{AGP_EDGE_TENSORRT_HEADERS})
    set(headers "$ENV{AGP_EDGE_TENSORRT_HEADERS}")
  endif()
  file(GLOB folders "${headers}/*/include")
  foreach(root "${TENSORRT_ROOT}" "$ENV{TENSORRT_ROOT}")
    if(root)
      list(APPEND folders "${root}/include")
    endif()
  endforeach()
  # The system's, and those of the root file systems that are compiled for.
  set(roots ${CMAKE_SYSROOT} ${CMAKE_FIND_ROOT_PATH})
  foreach(root IN LISTS roots ITEMS "")
    list(APPEND folders "${root}/usr/local/tensorrt/include"
         "${root}/usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu" "${root}/usr/include")
  endforeach()
  foreach(folder IN LISTS folders)
    agp_edge_tensorrt_version("${folder}" version)
    if(NOT version)
      continue()
    endif()
    if(AGP_EDGE_TENSORRT_VERSION AND NOT version MATCHES "^${AGP_EDGE_TENSORRT_VERSION}(\\.|$)")
      continue()
    endif()
    list(APPEND all "${folder}")
    string(REGEX MATCH "^[0-9]+" major "${version}")
    set(known "${found_${major}_version}")
    if(NOT known OR version VERSION_LESS known)
      set(found_${major}_version "${version}")
      set(AGP_EDGE_TENSORRT_${major}_VERSION "${version}" PARENT_SCOPE)
      set(AGP_EDGE_TENSORRT_${major}_INCLUDE "${folder}" PARENT_SCOPE)
    endif()
  endforeach()
  set(AGP_EDGE_TENSORRT_FOLDERS "${all}" PARENT_SCOPE)
endfunction()

# The module as target `name`, compiled against the headers in `include`.
function(agp_edge_compile_tensorrt_module name include)
  set(map "${PROJECT_SOURCE_DIR}/cpp/src/tensorrt/module.map")
  set(sources "${PROJECT_SOURCE_DIR}/cpp/src/tensorrt")
  add_library(${name} MODULE "${sources}/engine.cpp" "${sources}/module.cpp")
  target_compile_features(${name} PRIVATE cxx_std_17)
  target_include_directories(${name} SYSTEM PRIVATE "${include}" "${AGP_EDGE_CUDA_INCLUDE}")
  target_link_libraries(${name} PRIVATE agp_edge_warnings ${CMAKE_DL_LIBS})
  target_link_options(${name} PRIVATE "LINKER:--version-script=${map}")
  set_target_properties(${name} PROPERTIES PREFIX "" CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON LINK_DEPENDS "${map}")
endfunction()

function(agp_edge_tensorrt_module name major title)
  set(version "${AGP_EDGE_TENSORRT_${major}_VERSION}")
  if(NOT version)
    set(reason "no NvInferRuntime.h of TensorRT ${major} was found (-DAGP_EDGE_TENSORRT_HEADERS=FOLDER or -DTENSORRT_ROOT=FOLDER)")
  elseif(NOT AGP_EDGE_CUDA_INCLUDE)
    set(reason "cuda_runtime_api.h was not found (CUDA toolkit, or pip install nvidia-cuda-runtime, or -DAGP_EDGE_CUDA_INCLUDE=FOLDER)")
  endif()
  if(reason)
    message(STATUS "${title} module ${name}: left out, ${reason}")
    return()
  endif()
  message(STATUS "${title} module ${name}: built, headers ${version} in ${AGP_EDGE_TENSORRT_${major}_INCLUDE}")
  agp_edge_compile_tensorrt_module(${name} "${AGP_EDGE_TENSORRT_${major}_INCLUDE}")
  add_dependencies(agp_edge_tensorrt ${name})
  install(TARGETS ${name} LIBRARY DESTINATION agp_edge COMPONENT python)
  install(TARGETS ${name} LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/agp_edge" COMPONENT cpp)
endfunction()

add_custom_target(agp_edge_tensorrt)
if(AGP_EDGE_TENSORRT)
  agp_edge_find_tensorrt()
  if(AGP_EDGE_TENSORRT_VERSION AND NOT AGP_EDGE_TENSORRT_10_VERSION
     AND NOT AGP_EDGE_TENSORRT_11_VERSION)
    message(FATAL_ERROR
      "TensorRT ${AGP_EDGE_TENSORRT_VERSION} headers were asked for and not found: give "
      "-DAGP_EDGE_TENSORRT_HEADERS=FOLDER (one folder per version) or -DTENSORRT_ROOT=FOLDER.")
  endif()
  # Types only, so any version does: the toolkit's, then those of the PyPI wheels.
  agp_edge_python_package(nvidia AGP_EDGE_NVIDIA_PACKAGE)
  find_path(AGP_EDGE_CUDA_INCLUDE cuda_runtime_api.h
    HINTS "$ENV{CUDA_HOME}/include" /usr/local/cuda/include
          "${AGP_EDGE_NVIDIA_PACKAGE}/cu13/include"
          "${AGP_EDGE_NVIDIA_PACKAGE}/cuda_runtime/include"
    DOC "Folder that holds cuda_runtime_api.h, which TensorRT's headers include")
  agp_edge_tensorrt_module(_trt10 10 "TensorRT 10")
  agp_edge_tensorrt_module(_trt11 11 "TensorRT 11")
  # It shares TensorRT's interface: the 11 headers describe libtensorrt_rtx.so.1 too.
  agp_edge_tensorrt_module(_trtrtx 11 "TensorRT for RTX")
  if(TARGET _trtrtx)
    target_compile_definitions(_trtrtx PRIVATE AGP_EDGE_TENSORRT_RTX)
  endif()
else()
  message(STATUS "TensorRT modules: left out, AGP_EDGE_TENSORRT is OFF")
endif()
