// No order in which ranks and links happen to run can hang a program that keeps the three rules of docs/ir.md: all
// interleavings of small programs are searched, those of every schedule of three collectives among them. Of each fault
// that the rules are for, the search finds an interleaving that hangs or takes one tensor for another.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace {

// What a rank does, in order: hand a collective to a link, or wait for the oldest of a link that it has not waited for.
struct Instruction {
  bool starts = true;
  int link = 0;
  std::string group;  // of a start: its ranks
  std::string what;   // and what it is; members that issue two things at once take one for the other
};
using Program = std::vector<Instruction>;

std::vector<int> members(const std::string& group) {
  std::vector<int> list;
  for (const char c : group) list.push_back(c - '0');
  return list;
}

// Every state that ranks and links can be in, from the start on. A link carries out its collectives one after the
// other: one is over when it is at the head of the same link of all its members.
class Search {
 public:
  explicit Search(std::vector<Program> programs) : programs_(std::move(programs)) {
    const std::size_t ranks = programs_.size();
    posted_.resize(ranks);
    for (std::size_t r = 0; r < ranks; ++r)
      for (const Instruction& one : programs_[r])
        if (one.starts) posted_[r][one.link].push_back(one);
  }

  /// "" when all ranks come to their ends whatever happens first; else what an interleaving comes to.
  std::string run() {
    visit(State{std::vector<int>(programs_.size(), 0), std::vector<std::map<int, int>>(programs_.size())});
    return found_;
  }
  std::size_t states() const { return seen_.size(); }

 private:
  struct State {
    std::vector<int> at;                   // by rank: its next instruction
    std::vector<std::map<int, int>> over;  // by rank and link: how many collectives are over
    bool operator<(const State& other) const { return std::tie(at, over) < std::tie(other.at, other.over); }
  };
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }

  // How many starts, or waits, on the link are behind the rank.
  int count(const State& state, std::size_t rank, int link, bool starts) const {
    int n = 0;
    for (int i = 0; i < state.at[rank]; ++i) {
      const Instruction& one = programs_[rank][index(i)];
      n += one.link == link && one.starts == starts;
    }
    return n;
  }
  int over(const State& state, std::size_t rank, int link) const {
    const auto found = state.over[rank].find(link);
    return found == state.over[rank].end() ? 0 : found->second;
  }
  // What is at the head of the link; null: nothing.
  const Instruction* head(const State& state, std::size_t rank, int link) const {
    const int done = over(state, rank, link);
    return done < count(state, rank, link, true) ? &posted_[rank].at(link)[index(done)] : nullptr;
  }

  void visit(const State& first) {
    std::vector<State> open{first};
    seen_.insert(first);
    while (!open.empty() && found_.empty()) {
      const State state = open.back();
      open.pop_back();
      bool moves = false, ended = true;
      const auto go = [&](State next) {
        moves = true;
        if (seen_.insert(next).second) open.push_back(std::move(next));
      };
      for (std::size_t r = 0; r < programs_.size(); ++r) {
        if (state.at[r] == static_cast<int>(programs_[r].size())) {
          for (const auto& [link, all] : posted_[r])
            if (count(state, r, link, false) < static_cast<int>(all.size()))
              found_ = "rank " + std::to_string(r) + " ends without a wait";
          continue;
        }
        ended = false;
        const Instruction& one = programs_[r][index(state.at[r])];
        if (!one.starts && over(state, r, one.link) <= count(state, r, one.link, false)) continue;
        State next = state;
        ++next.at[r];
        go(std::move(next));
      }
      for (std::size_t r = 0; r < programs_.size(); ++r)
        for (const auto& [link, all] : posted_[r]) {
          const Instruction* one = head(state, r, link);
          if (!one || members(one->group).front() != static_cast<int>(r)) continue;
          bool here = true;
          for (const int member : members(one->group)) {
            const Instruction* theirs = head(state, index(member), link);
            here &= theirs && theirs->group == one->group;
            if (theirs && theirs->group == one->group && theirs->what != one->what)
              found_ = "ranks " + one->group + " take " + theirs->what + " for " + one->what;
          }
          if (!here || !found_.empty()) continue;
          State next = state;
          for (const int member : members(one->group)) ++next.over[index(member)][link];
          go(std::move(next));
        }
      if (!moves && !ended && found_.empty()) {
        found_ = "hangs:";
        for (const int at : state.at) found_ += " " + std::to_string(at);
      }
    }
  }

  std::vector<Program> programs_;
  std::vector<std::map<int, std::vector<Instruction>>> posted_;
  std::set<State> seen_;
  std::string found_;
};

// Of four ranks in two rows and two columns, those along an axis that hold this one.
std::string group_of(int axis, int rank) {
  static constexpr const char* rows[] = {"01", "01", "23", "23"};
  static constexpr const char* columns[] = {"02", "13", "02", "13"};
  return axis == 0 ? rows[rank] : axis == 1 ? columns[rank] : "0123";
}

struct Move {
  int axis, link;
};
// Numbers are starts of moves, a number and 10 the wait for it.
Program program_of(const std::vector<int>& order, const std::vector<Move>& moves, int rank) {
  Program program;
  for (const int one : order) {
    const int move = one % 10;
    program.push_back({one < 10, moves[static_cast<std::size_t>(move)].link,
                       group_of(moves[static_cast<std::size_t>(move)].axis, rank), "c" + std::to_string(move)});
  }
  return program;
}
std::vector<Program> everywhere(const std::vector<int>& order, const std::vector<Move>& moves) {
  std::vector<Program> programs;
  for (int rank = 0; rank < 4; ++rank) programs.push_back(program_of(order, moves, rank));
  return programs;
}

// Whether an order keeps the rules: a start precedes its wait, starts are in order on each link, and so are waits.
bool legal(const std::vector<int>& order, const std::vector<Move>& moves) {
  const auto place = [&](int one) { return std::find(order.begin(), order.end(), one) - order.begin(); };
  const int count = static_cast<int>(moves.size());
  for (int i = 0; i < count; ++i) {
    if (place(i) > place(i + 10)) return false;
    for (int j = 0; j < i; ++j)
      if (moves[static_cast<std::size_t>(i)].link == moves[static_cast<std::size_t>(j)].link &&
          (place(j) > place(i) || place(j + 10) > place(i + 10)))
        return false;
  }
  return true;
}

const std::vector<int> pipelined{0, 1, 10, 2, 11, 12};
const std::vector<Move> mixed{{0, 0}, {2, 0}, {1, 0}};

}  // namespace

TEST_CASE("no interleaving of any legal schedule of three collectives hangs") {
  std::size_t schedules = 0, states = 0;
  for (int choice = 0; choice < 27 * 4; ++choice) {
    // The first on link 0, the others on 0 or 1, each over rows, columns or all.
    const std::vector<Move> moves{{choice % 3, 0}, {choice / 3 % 3, choice / 27 % 2}, {choice / 9 % 3, choice / 54}};
    std::vector<int> order{0, 1, 2, 10, 11, 12};
    do {
      if (!legal(order, moves)) continue;
      Search search(everywhere(order, moves));
      const std::string found = search.run();
      INFO(fmt::format("{} with {}", fmt::join(order, " "), choice));
      if (!found.empty()) FAIL_CHECK(found);
      ++schedules;
      states += search.states();
    } while (std::next_permutation(order.begin(), order.end()));
  }
  CHECK(schedules > 500);
  CHECK(states > 50 * schedules);
}

TEST_CASE("the search finds each fault that the rules are for") {
  CHECK(Search(everywhere(pipelined, mixed)).run() == "");
  const auto with = [](int rank, const std::vector<int>& order, const std::vector<Move>& moves) {
    std::vector<Program> programs = everywhere(pipelined, mixed);
    programs[static_cast<std::size_t>(rank)] = program_of(order, moves, rank);
    return Search(std::move(programs)).run();
  };
  SECTION("a start hoisted over another on one rank") {
    CHECK(with(1, {1, 0, 10, 2, 11, 12}, mixed).starts_with("hangs"));
    // Over the same ranks one is taken for the other.
    const std::vector<Move> same{{2, 0}, {2, 0}, {2, 0}};
    std::vector<Program> programs = everywhere(pipelined, same);
    programs[1] = program_of({1, 0, 10, 2, 11, 12}, same, 1);
    CHECK(Search(programs).run() == "ranks 0123 take c1 for c0");
  }
  SECTION("two groups in other orders on half of the ranks") {
    std::vector<Program> programs = everywhere({0, 10, 1, 11}, {{0, 0}, {1, 0}});
    for (const int rank : {0, 3})
      programs[static_cast<std::size_t>(rank)] = program_of({1, 11, 0, 10}, {{0, 0}, {1, 0}}, rank);
    CHECK(Search(programs).run().starts_with("hangs"));
  }
  SECTION("a wait before its start") {
    CHECK(with(2, {0, 10, 11, 1, 2, 12}, mixed).starts_with("hangs"));
    CHECK(Search(everywhere({10, 0}, {{0, 0}})).run().starts_with("hangs"));
  }
  SECTION("a wait that is missing") {
    CHECK(with(3, {0, 1, 10, 2, 11}, mixed) == "rank 3 ends without a wait");
  }
  SECTION("a rank with another count of tiles, each of which is gathered") {
    CHECK(!with(0, {0, 1, 10, 11}, mixed).empty());
    std::vector<Program> programs = everywhere({0, 10, 1, 11}, {{2, 0}, {2, 0}});
    programs[2] = program_of({0, 10}, {{2, 0}}, 2);
    CHECK(Search(programs).run().starts_with("hangs"));
  }
  SECTION("a link that is another on one rank") {
    CHECK(with(1, pipelined, {{0, 0}, {2, 1}, {1, 0}}).starts_with("hangs"));
  }
}
