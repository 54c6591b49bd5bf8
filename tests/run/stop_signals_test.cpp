// Handlers of signals that stop a run: on a stack of their own, and gone with the object.
#include "run/stop_signals.h"

#include <catch2/catch.hpp>
#include <csignal>

namespace longhaul {

TEST_CASE("signals that stop a run are handled on a stack of their own, and as before afterwards") {
  stack_t before{}, during{}, after{};
  REQUIRE(sigaltstack(nullptr, &before) == 0);
  {
    const StopSignals signals;
    REQUIRE(sigaltstack(nullptr, &during) == 0);
    CHECK((during.ss_flags & SS_DISABLE) == 0);
    CHECK(during.ss_size >= 64 << 10);  // a frame with the registers of AVX-512 takes 3 KiB
    CHECK(during.ss_sp != before.ss_sp);
    for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) {
      struct sigaction action {};
      REQUIRE(sigaction(signal, nullptr, &action) == 0);
      CHECK((action.sa_flags & SA_ONSTACK) != 0);
    }
    REQUIRE(std::raise(SIGUSR1) == 0);
    CHECK(stop_signal() == SIGUSR1);
  }
  REQUIRE(sigaltstack(nullptr, &after) == 0);
  CHECK(after.ss_sp == before.ss_sp);
  CHECK(after.ss_flags == before.ss_flags);
}

}  // namespace longhaul
