// Shared libraries that are opened when first used.
#pragma once
#include <dlfcn.h>

#include <initializer_list>

#include "kernels/cuda/launch.h"

namespace longhaul::cuda {

/// A shared library by the first of its names that can be opened; throws what the loader says about the last.
inline void* open_library(std::initializer_list<const char*> names) {
  std::string reason;
  for (const char* name : names) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    reason = dlerror();
  }
  throw CallError("cannot open " + reason);
}
template <typename Function>
Function symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  require(found, std::string("a library lacks ") + name + ": it is another version than the one this was built with");
  return reinterpret_cast<Function>(found);
}

}  // namespace longhaul::cuda
