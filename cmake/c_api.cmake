# libagp_edge_c: the flat C interface (agp_edge.h) for C#, LabVIEW and PLC hosts; everything of ours
# is inside, and nothing but the functions of the header is exported.
option(AGP_EDGE_C_API "Build the C library libagp_edge_c" ${AGP_EDGE_C_API_DEFAULT})
if(NOT AGP_EDGE_C_API)
  return()
endif()

set(map "${PROJECT_SOURCE_DIR}/cpp/src/c_api/agp_edge_c.map")
add_library(agp_edge_c SHARED cpp/src/c_api/c_api.cpp)
add_library(agp_edge::agp_edge_c ALIAS agp_edge_c)
target_compile_definitions(agp_edge_c PRIVATE AGP_EDGE_VERSION="${PROJECT_VERSION}")
target_include_directories(agp_edge_c
  PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/cpp/include>
         $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(agp_edge_c PRIVATE agp_edge $<BUILD_INTERFACE:agp_edge_warnings>)
target_link_options(agp_edge_c PRIVATE "LINKER:--version-script=${map}" LINKER:--no-undefined-version)
# Before 1.0 a minor version may change the interface: the soname says so.
set_target_properties(agp_edge_c PROPERTIES
  VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
  CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON LINK_DEPENDS "${map}")
