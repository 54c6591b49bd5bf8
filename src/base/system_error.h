// Errors of the system, apart from those of what a file holds.
#pragma once
#include <string>

#include "base/error.h"

namespace longhaul {

/// The system refused: a disk, a network, a limit of the machine. Says nothing about what a file holds, which may be
/// whole.
class SystemError : public Error {
 public:
  SystemError(const std::string& message, int code) : Error(message), code_(code) {}
  /// errno's value.
  int code() const { return code_; }

 private:
  int code_;
};

}  // namespace longhaul
