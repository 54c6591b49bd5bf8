// Headers of the tests, read once for all of them where the build says so (CMakeLists.txt).
