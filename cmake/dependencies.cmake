# Finds what the library is compiled against: threads, nlohmann-json, OpenVINO's C headers.
# Each header-only package is looked for where the user says, then in the Python environment (PyPI
# ships both), then in the system.
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

if(SKBUILD OR AGP_EDGE_PYTHON)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
else()
  find_package(Python 3.10 QUIET COMPONENTS Interpreter)
endif()

# Folder of an installed Python package, found without importing it; empty where there is none.
function(agp_edge_python_package name result)
  set(folder "")
  if(Python_Interpreter_FOUND)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c
        "import importlib.util as u; s = u.find_spec('${name}'); print(next(iter(s.submodule_search_locations), '') if s and s.submodule_search_locations else '')"
      OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(${result} "${folder}" PARENT_SCOPE)
endfunction()

# A wheel's isolated build leaves cached folders behind that are gone at the next one.
foreach(folder IN ITEMS NLOHMANN_JSON_INCLUDE OPENVINO_C_INCLUDE)
  if(${folder} AND NOT EXISTS "${${folder}}")
    unset(${folder} CACHE)
  endif()
endforeach()

# nlohmann-json: private, its headers never appear in ours.
agp_edge_python_package(nlohmann_json AGP_EDGE_JSON_PACKAGE)
find_path(NLOHMANN_JSON_INCLUDE nlohmann/json.hpp
  HINTS "${AGP_EDGE_JSON_PACKAGE}/include"
  DOC "Folder that holds nlohmann/json.hpp")
if(NOT NLOHMANN_JSON_INCLUDE)
  message(FATAL_ERROR
    "nlohmann/json.hpp was not found: pip install nlohmann-json, or apt-get install "
    "nlohmann-json3-dev, or give -DNLOHMANN_JSON_INCLUDE=FOLDER.")
endif()
add_library(agp_edge_json INTERFACE)
target_include_directories(agp_edge_json SYSTEM INTERFACE "${NLOHMANN_JSON_INCLUDE}")

# OpenVINO: headers of its C interface; the library itself is opened at run time.
set(AGP_EDGE_HAS_OPENVINO OFF)
if(AGP_EDGE_OPENVINO)
  agp_edge_python_package(openvino AGP_EDGE_OPENVINO_PACKAGE)
  find_path(OPENVINO_C_INCLUDE openvino/c/openvino.h
    HINTS "${OpenVINO_DIR}/../include" "${OpenVINO_DIR}/../../include"
          "$ENV{OpenVINO_DIR}/../include" "${AGP_EDGE_OPENVINO_PACKAGE}/include"
    DOC "Folder that holds openvino/c/openvino.h")
  if(OPENVINO_C_INCLUDE)
    set(AGP_EDGE_HAS_OPENVINO ON)
    add_library(agp_edge_openvino INTERFACE)
    target_include_directories(agp_edge_openvino SYSTEM INTERFACE "${OPENVINO_C_INCLUDE}")
    message(STATUS "OpenVINO engine: built, headers in ${OPENVINO_C_INCLUDE}")
  else()
    message(STATUS
      "OpenVINO engine: left out, openvino/c/openvino.h was not found (pip install openvino, or give -DOPENVINO_C_INCLUDE=FOLDER)")
  endif()
else()
  message(STATUS "OpenVINO engine: left out, AGP_EDGE_OPENVINO is OFF")
endif()
