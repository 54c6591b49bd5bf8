// The thread of a link: tasks in order, waits by ticket, the first failure reaches whoever waits, nothing after it
// runs.
#include "runtime/cpu/communication_thread.h"

#include <catch2/catch.hpp>
#include <stdexcept>
#include <vector>

using namespace longhaul;

namespace {

struct Note {
  std::vector<int>* list;
  int number;
  bool fails = false;
};
void write(void* of) {
  const Note& note = *static_cast<Note*>(of);
  if (note.fails) throw std::runtime_error("number " + std::to_string(note.number));
  note.list->push_back(note.number);
}

}  // namespace

TEST_CASE("a link carries out what it is given in order, beside the caller") {
  std::vector<int> list;
  std::vector<Note> notes;
  for (int i = 0; i < 100; ++i) notes.push_back({&list, i});
  CommunicationThread thread(0, 1);
  std::vector<std::uint64_t> tickets;
  for (Note& note : notes) tickets.push_back(thread.start({write, &note}));  // more than there is room for
  thread.wait(tickets[10]);
  thread.wait(tickets[99]);
  REQUIRE(list.size() == 100);
  for (int i = 0; i < 100; ++i) CHECK(list[static_cast<std::size_t>(i)] == i);
  thread.wait(tickets[10]);  // again
  CHECK_THROWS_AS(thread.wait(tickets[99] + 1), std::logic_error);
  CHECK_THROWS_AS(thread.wait(0), std::logic_error);
}

TEST_CASE("what fails on a link is thrown where it is waited for, and nothing after it is carried out") {
  std::vector<int> list;
  std::vector<Note> notes{{&list, 0}, {&list, 1, true}, {&list, 2}, {&list, 3, true}};
  CommunicationThread thread(0, 1);
  const auto first = thread.start({write, &notes[0]});
  thread.wait(first);
  const auto second = thread.start({write, &notes[1]});
  const auto third = thread.start({write, &notes[2]});
  thread.start({write, &notes[3]});
  CHECK_THROWS_WITH(thread.wait(third), "number 1");
  CHECK_THROWS_WITH(thread.wait(second), "number 1");
  CHECK_THROWS_WITH(thread.wait_for_all(), "number 1");
  CHECK(list == std::vector<int>{0});
  thread.settle();  // a new step
  thread.wait(thread.start({write, &notes[2]}));
  CHECK(list == std::vector<int>{0, 2});
}

TEST_CASE("a link that goes finishes what it was given") {
  std::vector<int> list;
  std::vector<Note> notes;
  for (int i = 0; i < 10; ++i) notes.push_back({&list, i});
  {
    CommunicationThread thread(0, 1);
    for (Note& note : notes) thread.start({write, &note});
  }
  CHECK(list.size() == 10);
}
