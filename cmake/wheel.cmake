# What goes into the Python wheel: the extension module, the program, and the shared libraries of both, so that the wheel runs where
# none of them is installed. Not those of the C and C++ run time, which every Linux has (PEP 599 and 600 say which).
install(TARGETS _core LIBRARY DESTINATION paritrace COMPONENT python)
install(TARGETS paritrace RUNTIME DESTINATION paritrace/bin COMPONENT python)
if(SKBUILD)
  set_target_properties(_core PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
  set_target_properties(paritrace PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
  # lands under the environment's prefix, where `man` and the shells look
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/share/ DESTINATION ${SKBUILD_DATA_DIR}/share COMPONENT python)
endif()

install(CODE [[
  file(GET_RUNTIME_DEPENDENCIES EXECUTABLES "$<TARGET_FILE:paritrace>" MODULES "$<TARGET_FILE:_core>"
       RESOLVED_DEPENDENCIES_VAR libraries UNRESOLVED_DEPENDENCIES_VAR absent
       PRE_EXCLUDE_REGEXES "^(libc|libm|libdl|libpthread|librt|libgcc_s|libstdc[+][+])[.]so" "^ld-linux" "^linux-vdso" "^lib[atu]san")
  if(absent)
    message(FATAL_ERROR "wheel: not found: ${absent}")
  endif()
  foreach(library IN LISTS libraries)
    get_filename_component(name "${library}" NAME)
    get_filename_component(file "${library}" REALPATH)  # a wheel has no symbolic links
    file(INSTALL DESTINATION "${CMAKE_INSTALL_PREFIX}/paritrace/lib" TYPE FILE RENAME "${name}" FILES "${file}")
    # Whoever hands a library on hands on its licence: Debian keeps it under the package's name.
    string(REGEX REPLACE "[.]so[.]([0-9]+).*" "\\1" package "${name}")
    string(REGEX REPLACE "^libz1$" "zlib1g" package "${package}")
    if(EXISTS "/usr/share/doc/${package}/copyright")
      file(INSTALL DESTINATION "${CMAKE_INSTALL_PREFIX}/paritrace/lib" TYPE FILE RENAME "LICENSE.${package}"
           FILES "/usr/share/doc/${package}/copyright")
    else()
      message(WARNING "wheel: no licence found for ${name}")
    endif()
  endforeach()
]] COMPONENT python)
