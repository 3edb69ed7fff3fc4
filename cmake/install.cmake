# Component `cpp`: libraries, headers and agp_edgeConfig.cmake, so that find_package(agp_edge) gives
# agp_edge::agp_edge and, for C, agp_edge::agp_edge_c. Component `python` (cpp/bindings): the extension, for the wheel.
include(CMakePackageConfigHelpers)

set(AGP_EDGE_CONFIG_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/agp_edge")
install(TARGETS agp_edge EXPORT agp_edgeTargets COMPONENT cpp
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(TARGET agp_edge_c)
  install(TARGETS agp_edge_c EXPORT agp_edgeTargets COMPONENT cpp
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(FILES cpp/include/agp_edge.h DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT cpp)
endif()
install(DIRECTORY cpp/include/agp_edge DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT cpp)
install(EXPORT agp_edgeTargets NAMESPACE agp_edge:: DESTINATION "${AGP_EDGE_CONFIG_DIR}"
  COMPONENT cpp)
configure_package_config_file(cmake/agp_edgeConfig.cmake.in
  "${PROJECT_BINARY_DIR}/agp_edgeConfig.cmake" INSTALL_DESTINATION "${AGP_EDGE_CONFIG_DIR}")
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/agp_edgeConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/agp_edgeConfig.cmake"
              "${PROJECT_BINARY_DIR}/agp_edgeConfigVersion.cmake"
  DESTINATION "${AGP_EDGE_CONFIG_DIR}" COMPONENT cpp)
