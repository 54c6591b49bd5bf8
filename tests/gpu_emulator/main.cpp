// The kernel tests on the emulator, on waves of so many lanes: --wave 64.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include "tests/gpu_emulator/emulator/core.h"

int main(int count, char** arguments) {
  Catch::Session session;
  using Catch::clara::Opt;
  session.cli(session.cli() | Opt(longhaul::emulator::options.wave, "32|64")["--wave"]("lanes in lock step"));
  const int wrong = session.applyCommandLine(count, arguments);
  return wrong ? wrong : session.run();
}
