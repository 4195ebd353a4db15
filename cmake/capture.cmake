# The library that engines link, shared and static, and what `cmake --install . --component capture` puts beside it: headers,
# the CMake package and the pkg-config file. docs/capture.md shows their use.
include(CMakePackageConfigHelpers)

file(GLOB CAPTURE_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/capture/*.cc)
add_library(paritrace_capture_objects OBJECT ${CAPTURE_SOURCES})
target_link_libraries(paritrace_capture_objects PUBLIC paritrace_store)
target_compile_definitions(paritrace_capture_objects PRIVATE PARITRACE_VERSION="${PROJECT_VERSION}")
target_precompile_headers(paritrace_capture_objects REUSE_FROM paritrace_store)

foreach(kind capture capture_static)
  if(kind STREQUAL "capture")
    add_library(paritrace_${kind} SHARED)
  else()
    add_library(paritrace_${kind} STATIC)
  endif()
  target_sources(paritrace_${kind} PRIVATE $<TARGET_OBJECTS:paritrace_capture_objects> $<TARGET_OBJECTS:paritrace_store>)
  target_link_libraries(paritrace_${kind} PRIVATE fmt::fmt PkgConfig::XXHASH Threads::Threads)
  target_include_directories(paritrace_${kind} INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
  set_target_properties(paritrace_${kind} PROPERTIES OUTPUT_NAME paritrace EXPORT_NAME ${kind} LINKER_LANGUAGE CXX)
endforeach()
set_target_properties(paritrace_capture PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
                      LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/capture.map)
target_link_options(paritrace_capture PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/capture.map -Wl,--no-undefined)

set(CAPTURE_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/paritrace)
install(TARGETS paritrace_capture paritrace_capture_static EXPORT paritraceTargets COMPONENT capture
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/paritrace DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT capture)
install(EXPORT paritraceTargets NAMESPACE paritrace:: DESTINATION ${CAPTURE_CMAKE_DIR} COMPONENT capture)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/paritraceConfig.cmake.in ${PROJECT_BINARY_DIR}/paritraceConfig.cmake
                              INSTALL_DESTINATION ${CAPTURE_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/paritraceConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/paritraceConfig.cmake ${PROJECT_BINARY_DIR}/paritraceConfigVersion.cmake
        DESTINATION ${CAPTURE_CMAKE_DIR} COMPONENT capture)
configure_file(${PROJECT_SOURCE_DIR}/cmake/paritrace.pc.in ${PROJECT_BINARY_DIR}/paritrace.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/paritrace.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT capture)
