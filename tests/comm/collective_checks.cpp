#include "collective_checks.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>

#include "allocation_count.h"
#include "base/error.h"
#include "comm/exchange.h"

namespace longhaul {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr DType floating_types[] = {DType::float64, DType::float32, DType::bfloat16};
constexpr std::uint8_t poison = 0xa5;
constexpr std::size_t guard = 64;

std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 33)) * 0xff51afd7ed558ccdu;
  value = (value ^ (value >> 33)) * 0xc4ceb9fe1a85ec53u;
  return value ^ (value >> 33);
}

/// Numbers of both signs over seven binary orders of magnitude, so that sums round. In every eighth place ranks 0 and 1
/// hold opposite large numbers, so that a sum which does not begin with both loses digits that even bfloat16 shows.
double number(int rank, std::size_t index, std::uint64_t salt) {
  if (index % 8 == 3 && rank < 2) return rank == 0 ? 0x1p20 : -0x1p20;
  const std::uint64_t word = mix(mix(index + (static_cast<std::uint64_t>(rank) << 40)) + salt);
  const double fraction = static_cast<double>(word >> 12) * 0x1p-52 - 0.5;
  return fraction * static_cast<double>(1u << (word & 7u));
}

template <typename Element>
Element element(int rank, std::size_t index, std::uint64_t salt) {
  return static_cast<Element>(static_cast<accumulate_t<Element>>(number(rank, index, salt)));
}

Bytes numbers(int rank, std::size_t count, DType type, std::uint64_t salt) {
  Bytes bytes(count * size_of(type));
  dispatch_floating(type, [&]<typename Element>(Element) {
    for (std::size_t i = 0; i < count; ++i) {
      const Element value = element<Element>(rank, i, salt);
      std::memcpy(bytes.data() + i * sizeof(Element), &value, sizeof(Element));
    }
  });
  return bytes;
}

/// The sum over ranks of elements [begin, begin + count), one element at a time, in the given order of ranks.
Bytes oracle_sum(const std::vector<int>& order, std::size_t begin, std::size_t count, DType type, std::uint64_t salt) {
  Bytes bytes(count * size_of(type));
  dispatch_floating(type, [&]<typename Element>(Element) {
    for (std::size_t i = 0; i < count; ++i) {
      auto sum = static_cast<accumulate_t<Element>>(element<Element>(order[0], begin + i, salt));
      for (std::size_t k = 1; k < order.size(); ++k)
        sum += static_cast<accumulate_t<Element>>(element<Element>(order[k], begin + i, salt));
      const Element value = static_cast<Element>(sum);
      std::memcpy(bytes.data() + i * sizeof(Element), &value, sizeof(Element));
    }
  });
  return bytes;
}

std::uint8_t byte(int from, int to, std::size_t index) {
  return static_cast<std::uint8_t>(mix(index + (static_cast<std::uint64_t>(from * 64 + to) << 32)));
}

/// A receive buffer between guards.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes) : bytes_(bytes), storage_(bytes + 2 * guard, poison) {}
  std::uint8_t* data() { return storage_.data() + guard; }
  void expect(const Bytes& expected, std::string_view what) const {
    if (expected.size() != bytes_) fail("{}: the test compares {} with {} bytes", what, bytes_, expected.size());
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      const bool inside = i >= guard && i < guard + bytes_;
      const std::uint8_t wanted = inside ? expected[i - guard] : poison;
      if (storage_[i] != wanted)
        fail("{}: byte {} of {} is {:02x}, not {:02x}", what, static_cast<std::ptrdiff_t>(i - guard), bytes_,
             storage_[i], wanted);
    }
  }

 private:
  std::size_t bytes_;
  Bytes storage_;
};

void expect_unchanged(const Bytes& now, const Bytes& before, std::string_view what) {
  if (now != before) fail("{} changed its input", what);
}

std::vector<int> rank_order(int size) {
  std::vector<int> order;
  for (int rank = 0; rank < size; ++rank) order.push_back(rank);
  return order;
}

void check_moves(Communicator& communicator, std::size_t bytes) {
  const int rank = communicator.rank();
  const int size = communicator.size();
  const auto ranks = static_cast<std::size_t>(size);

  Bytes send;
  Bytes expected;
  for (int peer = 0; peer < size; ++peer)
    for (std::size_t i = 0; i < bytes; ++i) {
      send.push_back(byte(rank, peer, i));
      expected.push_back(byte(peer, rank, i));
    }
  const Bytes sent = send;
  Guarded exchanged(ranks * bytes);
  communicator.all_to_all(send.data(), exchanged.data(), bytes);
  exchanged.expect(expected, "all_to_all");
  expect_unchanged(send, sent, "all_to_all");

  expected.clear();
  for (int peer = 0; peer < size; ++peer)
    for (std::size_t i = 0; i < bytes; ++i) expected.push_back(byte(peer, 0, i));
  const Bytes own(expected.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(rank) * bytes),
                  expected.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(rank + 1) * bytes));
  Guarded gathered(ranks * bytes);
  communicator.all_gather(own.data(), gathered.data(), bytes);
  gathered.expect(expected, "all_gather");
  Guarded in_place(ranks * bytes);
  std::uint8_t* block = in_place.data() + static_cast<std::size_t>(rank) * bytes;
  std::copy(own.begin(), own.end(), block);
  communicator.all_gather(block, in_place.data(), bytes);
  in_place.expect(expected, "all_gather in place");

  for (int root = 0; root < size; ++root) {
    Bytes message;
    for (std::size_t i = 0; i < bytes; ++i) message.push_back(byte(root, 63, i));
    Guarded buffer(bytes);
    if (rank == root) std::copy(message.begin(), message.end(), buffer.data());
    communicator.broadcast(buffer.data(), bytes, root);
    buffer.expect(message, "broadcast");
  }

  // Every rotation, the identity included, with lengths that differ by the sender; then the reversal, where ranks send
  // to one another in pairs and a middle one to itself.
  const auto exchange = [&](int to, int from, std::string_view what) {
    const std::size_t receive_bytes = bytes + static_cast<std::size_t>(from);
    Bytes outgoing;
    Bytes incoming;
    for (std::size_t i = 0; i < bytes + static_cast<std::size_t>(rank); ++i) outgoing.push_back(byte(rank, to, i));
    for (std::size_t i = 0; i < receive_bytes; ++i) incoming.push_back(byte(from, rank, i));
    Guarded buffer(receive_bytes);
    communicator.send_receive(outgoing.data(), outgoing.size(), to, buffer.data(), receive_bytes, from);
    buffer.expect(incoming, what);
  };
  for (int shift = 0; shift < size; ++shift)
    exchange((rank + shift) % size, (rank + size - shift) % size, "send_receive, rotation");
  exchange(size - 1 - rank, size - 1 - rank, "send_receive, reversal");
}

/// A scratch buffer of exactly the promised size, with guards.
class Scratch {
 public:
  Scratch(int size, std::size_t count, DType type)
      : bytes_(Communicator::reduction_scratch_bytes(size, count, type)), storage_(bytes_ + 2 * guard, poison) {
    if (bytes_ % 64 != 0) fail("reduction_scratch_bytes gives {}, not a multiple of 64", bytes_);
  }
  void* data() { return storage_.data() + guard; }
  void expect_guards() const {
    for (std::size_t i = 0; i < guard; ++i)
      if (storage_[i] != poison || storage_[guard + bytes_ + i] != poison)
        fail("a reduction wrote outside its scratch of {} bytes", bytes_);
  }

 private:
  std::size_t bytes_;
  Bytes storage_;
};

void check_reductions(Communicator& communicator, std::size_t count, DType type) {
  const int rank = communicator.rank();
  const int size = communicator.size();
  const std::vector<int> order = rank_order(size);
  const std::size_t bytes = count * size_of(type);
  const std::uint64_t salt = count * 8 + static_cast<std::uint64_t>(type);
  {
    const std::string what = fmt::format("all_reduce of {} {}", count, name_of(type));
    const Bytes expected = oracle_sum(order, 0, count, type, salt);
    const Bytes send = numbers(rank, count, type, salt);
    const Bytes sent = send;
    Scratch scratch(size, count, type);
    Guarded receive(bytes);
    communicator.all_reduce(send.data(), receive.data(), count, type, scratch.data());
    receive.expect(expected, what);
    expect_unchanged(send, sent, what);
    Guarded in_place(bytes);
    std::copy(send.begin(), send.end(), in_place.data());
    communicator.all_reduce(in_place.data(), in_place.data(), count, type, scratch.data());
    in_place.expect(expected, what + " in place");
    scratch.expect_guards();
  }
  {
    const std::string what = fmt::format("reduce_scatter of {} {} a rank", count, name_of(type));
    const std::size_t all = count * static_cast<std::size_t>(size);
    const std::size_t begin = count * static_cast<std::size_t>(rank);
    const Bytes expected = oracle_sum(order, begin, count, type, salt);
    Bytes send = numbers(rank, all, type, salt);
    const Bytes sent = send;
    Scratch scratch(size, all, type);
    Guarded receive(bytes);
    communicator.reduce_scatter(send.data(), receive.data(), count, type, scratch.data());
    receive.expect(expected, what);
    expect_unchanged(send, sent, what);
    Bytes after = sent;
    std::copy(expected.begin(), expected.end(), after.begin() + static_cast<std::ptrdiff_t>(begin * size_of(type)));
    communicator.reduce_scatter(send.data(), send.data() + begin * size_of(type), count, type, scratch.data());
    if (send != after) fail("{} in place: wrong sum, or other blocks changed", what);
    scratch.expect_guards();
  }
}

}  // namespace

void check_collectives(Communicator& communicator, bool large) {
  for (const std::size_t bytes : {0, 1, 2, 7, 64, 1027}) check_moves(communicator, bytes);
  for (const DType type : floating_types) {
    for (const std::size_t count : {0, 1, 2, 3, 5, 31, 1025, 4099}) check_reductions(communicator, count, type);
    // Three pieces of a chunk, the last of an odd length.
    if (large)
      check_reductions(
          communicator,
          static_cast<std::size_t>(communicator.size()) * (2 * (std::size_t{1} << 20) / size_of(type)) + 13, type);
  }
  communicator.barrier();
}

void check_mesh_groups(Communicator& communicator) {
  const int rank = communicator.rank();
  const int row = rank / 2;
  const int column = rank % 2;
  const auto rows = communicator.group({2 * row, 2 * row + 1});
  // Members out of order: the new ranks follow the list.
  const auto columns = communicator.group({column + 2, column});
  const auto again = communicator.group({2 * row, 2 * row + 1});
  const auto alone = communicator.group({rank});
  if (rows->size() != 2 || rows->rank() != column) fail("row group: rank {} of {}", rows->rank(), rows->size());
  if (columns->size() != 2 || columns->rank() != 1 - row)
    fail("column group: rank {} of {}", columns->rank(), columns->size());
  for (Communicator* group : {rows.get(), columns.get(), again.get(), alone.get()}) check_collectives(*group, false);

  // Who is in which group, seen through world ranks.
  std::int32_t members[2] = {-1, -1};
  const std::int32_t me = rank;
  columns->all_gather(&me, members, sizeof(me));
  if (members[0] != column + 2 || members[1] != column) fail("column group holds {} and {}", members[0], members[1]);

  // A group of a group, over all four ranks reversed and then its first two.
  const auto reversed = communicator.group({3, 2, 1, 0});
  check_collectives(*reversed, false);
  if (reversed->rank() < 2) {
    const auto half = reversed->group({0, 1});
    check_collectives(*half, false);
    std::int32_t pair[2] = {-1, -1};
    half->all_gather(&me, pair, sizeof(me));
    if (pair[0] != 3 || pair[1] != 2) fail("a group of a group holds {} and {}", pair[0], pair[1]);
  }

  // Each counts on itself.
  const auto before = communicator.traffic()[Collective::all_gather];
  rows->reset_traffic();
  std::int32_t gathered[2];
  rows->all_gather(&me, gathered, sizeof(me));
  const auto after = communicator.traffic()[Collective::all_gather];
  if (after.calls != before.calls || after.bytes_sent != before.bytes_sent)
    fail("a group's call was counted on its parent");
  if (rows->traffic()[Collective::all_gather].calls != 1 || rows->traffic()[Collective::all_gather].bytes_sent != 4)
    fail("a group does not count its own call");
}

void check_traffic(Communicator& communicator) {
  const auto n = static_cast<std::int64_t>(communicator.size());
  const int rank = communicator.rank();
  const int size = communicator.size();
  std::vector<double> send(64, 1.0);
  std::vector<double> receive(64);
  std::vector<std::uint8_t> scratch(Communicator::reduction_scratch_bytes(size, 64, DType::float64));
  communicator.reset_traffic();
  const std::size_t allocations = allocation_count();
  communicator.all_to_all(send.data(), receive.data(), 24);
  communicator.all_gather(send.data(), receive.data(), 40);
  communicator.all_gather(send.data(), receive.data(), 8);
  communicator.reduce_scatter(send.data(), receive.data(), 5, DType::float32, scratch.data());
  communicator.all_reduce(send.data(), receive.data(), 7, DType::bfloat16, scratch.data());
  communicator.all_reduce(send.data(), receive.data(), 9, DType::float64, scratch.data());
  communicator.broadcast(send.data(), 56, size - 1);
  const auto sent = static_cast<std::size_t>(8 * (rank + 1));
  const int from = (rank + size - 1) % size;
  communicator.send_receive(send.data(), sent, (rank + 1) % size, receive.data(),
                            static_cast<std::size_t>(8 * (from + 1)), from);
  communicator.barrier();
  if (allocation_count() != allocations) fail("data calls allocate {} times", allocation_count() - allocations);

  const auto expect = [&](Collective kind, std::int64_t calls, std::int64_t bytes) {
    const auto row = communicator.traffic()[kind];
    if (row.calls != calls || row.bytes_sent != bytes)
      fail("{}: counted {} calls and {} bytes, not {} and {}", name_of(kind), row.calls, row.bytes_sent, calls, bytes);
  };
  expect(Collective::all_to_all, 1, (n - 1) * 24);
  expect(Collective::all_gather, 2, (n - 1) * 48);
  expect(Collective::reduce_scatter, 1, (n - 1) * 5 * 4);
  expect(Collective::all_reduce, 2, 2 * (n - 1) * ((7 + n - 1) / n * 2 + (9 + n - 1) / n * 8));
  expect(Collective::broadcast, 1, rank == size - 1 ? (n - 1) * 56 : 0);
  expect(Collective::send_receive, 1, n == 1 ? 0 : 8 * (rank + 1));
  communicator.reset_traffic();
  for (const auto& row : communicator.traffic().rows)
    if (row.calls != 0 || row.bytes_sent != 0) fail("reset_traffic leaves counts");
}

void check_exchange(Communicator& communicator) {
  const int rank = communicator.rank(), size = communicator.size();
  // Rank r's text has r · length characters, all bytes among them; that of rank 0 is empty.
  const auto text_of = [](int of, std::size_t length) {
    std::string text(static_cast<std::size_t>(of) * length, '\0');
    for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(mix(i + static_cast<std::size_t>(of)));
    return text;
  };
  for (const std::size_t length : {0u, 1u, 511u, 512u, 4096u, 100000u}) {
    const auto texts = gather_texts(communicator, text_of(rank, length));
    if (texts.size() != static_cast<std::size_t>(size)) fail("{} texts of {} ranks", texts.size(), size);
    for (int of = 0; of < size; ++of) {
      const std::string wanted = text_of(of, length);
      if (texts[static_cast<std::size_t>(of)] != wanted) fail("gather_texts: rank {}'s of {} bytes", of, wanted.size());
      if (broadcast_text(communicator, text_of(rank, length), of) != wanted)
        fail("broadcast_text: rank {}'s of {} bytes", of, wanted.size());
    }
    std::string longest(static_cast<std::size_t>(size) * length, ' ');
    for (std::size_t i = 0; i < longest.size(); ++i) longest[i] = static_cast<char>('a' + i % 26);
    std::string told;
    try {
      phase(communicator, [&] {
        if (rank == size - 1) fail("{}", "too long: " + longest);
      });
    } catch (const Error& error) {
      told = error.what();
    }
    if (told != fmt::format("rank {}: too long: {}", size - 1, longest))
      fail("phase: a message of {} bytes came as one of {}", longest.size(), told.size());
  }
  const auto squares = all_gather(communicator, rank * rank);
  const auto pairs = all_gather(communicator, std::vector<double>{0.5 * rank, -1.0});
  for (int of = 0; of < size; ++of) {
    const auto place = static_cast<std::size_t>(of);
    if (squares[place] != of * of || pairs[2 * place] != 0.5 * of || pairs[2 * place + 1] != -1.0)
      fail("all_gather: the values of rank {}", of);
    if (broadcast(communicator, rank == of, of) != true) fail("broadcast of rank {}", of);
  }
  if (!all_gather(communicator, std::vector<char>()).empty()) fail("all_gather makes something of nothing");
}

std::vector<std::uint8_t> reduction_bits(Communicator& communicator) {
  const int size = communicator.size();
  Bytes bits;
  for (const DType type : floating_types)
    for (const std::size_t count : {std::size_t{1}, std::size_t{4099}, (std::size_t{1} << 20) / size_of(type) + 3}) {
      const Bytes send = numbers(communicator.rank(), count * static_cast<std::size_t>(size), type, 99);
      Bytes sum(count * static_cast<std::size_t>(size) * size_of(type));
      Scratch scratch(size, count * static_cast<std::size_t>(size), type);
      communicator.all_reduce(send.data(), sum.data(), count * static_cast<std::size_t>(size), type, scratch.data());
      bits.insert(bits.end(), sum.begin(), sum.end());
      communicator.reduce_scatter(send.data(), sum.data(), count, type, scratch.data());
      bits.insert(bits.end(), sum.begin(), sum.begin() + static_cast<std::ptrdiff_t>(count * size_of(type)));
      // With more than two ranks a sum in another order differs somewhere, or the comparison would show nothing.
      if (size > 2 && count == 4099) {
        std::vector<int> reversed = rank_order(size);
        std::reverse(reversed.begin(), reversed.end());
        if (oracle_sum(reversed, 0, count, type, 99) == oracle_sum(rank_order(size), 0, count, type, 99))
          fail("the sums of {} {} do not depend on their order", count, name_of(type));
      }
    }
  return bits;
}

}  // namespace longhaul
