// The copying thread: waits are for the oldest copy of their queue, whatever the other queue does.
#include "runtime/cpu/copy_thread.h"

#include <catch2/catch.hpp>
#include <stdexcept>
#include <vector>

using namespace longhaul;

TEST_CASE("copies of two queues are waited for in the order of their starts") {
  CopyThread thread;
  const std::size_t out = CopyThread::queue("out"), in = CopyThread::queue("in");
  CHECK(out != in);
  CHECK_THROWS_AS(CopyThread::queue("sideways"), std::logic_error);
  constexpr std::size_t size = 1 << 16;
  constexpr int rounds = 40;
  std::vector<std::vector<char>> from, there(rounds, std::vector<char>(size)), back = there;
  for (int i = 0; i < rounds; ++i) from.emplace_back(size, static_cast<char>(i + 1));
  const auto at = [](auto& list, int i) -> std::vector<char>& { return list[static_cast<std::size_t>(i)]; };
  // Out three ahead; back what has come.
  int waited = 0;
  for (int i = 0; i < rounds; ++i) {
    thread.start(out, at(there, i).data(), at(from, i).data(), size);
    if (i < 3) continue;
    thread.wait(out);
    CHECK(at(there, waited) == at(from, waited));
    thread.start(in, at(back, waited).data(), at(there, waited).data(), size);
    ++waited;
  }
  for (int i = 0; i < waited; ++i) {
    thread.wait(in);
    CHECK(at(back, i) == at(from, i));
  }
  CHECK_THROWS_AS(thread.wait(in), std::logic_error);
  for (; waited < rounds; ++waited) {
    thread.wait(out);
    CHECK(at(there, waited) == at(from, waited));
  }
  CHECK_THROWS_AS(thread.wait(out), std::logic_error);
}

TEST_CASE("more copies than there is room for, and copies that nobody waits for") {
  std::vector<char> from(1000, 7), to(1000 * 100);
  CopyThread thread;
  thread.reserve(20);
  for (std::size_t i = 0; i < 100; ++i) thread.start(i % 2, to.data() + i * 1000, from.data(), 1000);
  thread.settle();
  CHECK(to == std::vector<char>(1000 * 100, 7));
  CHECK_THROWS_AS(thread.wait(0), std::logic_error);
  thread.start(0, to.data(), from.data(), 0);
  thread.wait(0);
}
