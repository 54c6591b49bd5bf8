# What `cmake --install` puts where: the program; the library with its header and CMake package; schemas, experiments and
# Slurm scripts; documentation; what shells complete; the manual page. Included by the top CMakeLists.txt.
include(CMakePackageConfigHelpers)

# Ops, passes and kernels register themselves: whoever links the archive takes all of it (longhaul::longhaul says so).
add_library(longhaul_archive STATIC $<TARGET_OBJECTS:longhaul_core>)
set_target_properties(longhaul_archive PROPERTIES OUTPUT_NAME longhaul ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
install(TARGETS longhaul RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS longhaul_archive ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/longhaul DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# The libraries that this build found and linked, for the package.
set(LONGHAUL_PACKAGE_LIBRARIES ${XXHASH_LIBRARY})
set(LONGHAUL_PACKAGE_MPI OFF)
if(LONGHAUL_MPI AND MPI_C_FOUND)
  set(LONGHAUL_PACKAGE_MPI ON)
endif()
foreach(name DNNL OPENBLAS PCRE2 UTF8PROC SENTENCEPIECE ZLIB ZSTD)
  if(${name}_INCLUDE AND ${name}_LIBRARY)
    list(APPEND LONGHAUL_PACKAGE_LIBRARIES ${${name}_LIBRARY})
  endif()
endforeach()
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/longhaul)
configure_package_config_file(scripts/longhaul-config.cmake.in ${CMAKE_BINARY_DIR}/longhaul-config.cmake
                              INSTALL_DESTINATION ${package} PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/longhaul-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/longhaul-config.cmake ${CMAKE_BINARY_DIR}/longhaul-config-version.cmake
        DESTINATION ${package})

install(FILES configs/experiment.schema.json configs/spec.schema.json configs/quickstart.yaml
        DESTINATION ${CMAKE_INSTALL_DATADIR}/longhaul)
install(DIRECTORY configs/models configs/clusters configs/slurm DESTINATION ${CMAKE_INSTALL_DATADIR}/longhaul)
install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DATADIR}/longhaul)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The program writes these itself, from its table of commands.
install(CODE "
  foreach(pair \"bash|${CMAKE_INSTALL_DATADIR}/bash-completion/completions|longhaul\"
               \"zsh|${CMAKE_INSTALL_DATADIR}/zsh/site-functions|_longhaul\" \"man|${CMAKE_INSTALL_MANDIR}/man1|longhaul.1\")
    string(REPLACE \"|\" \";\" pair \"\${pair}\")
    list(GET pair 0 kind)
    list(GET pair 1 folder)
    list(GET pair 2 name)
    execute_process(COMMAND \"${CMAKE_BINARY_DIR}/longhaul\" completion \${kind}
                    OUTPUT_FILE \"${CMAKE_BINARY_DIR}/\${name}.installed\" COMMAND_ERROR_IS_FATAL ANY)
    file(INSTALL FILES \"${CMAKE_BINARY_DIR}/\${name}.installed\" DESTINATION \"\${CMAKE_INSTALL_PREFIX}/\${folder}\"
         RENAME \${name})
  endforeach()")
