// NCCL as the emulator has it, for ranks that are threads or processes of one host. They meet in memory that the maker
// of the id has opened; what a rank sends lies in memory of its own, which the others map. Nothing of it has a name in
// the file system or outlives its processes. As with NCCL nothing blocks: the making of a communicator is under way
// until all have come, and a collective waits in its stream's queue. Sums go around the ring, on purpose: whoever wants
// them in rank order must not take these. Nobody notices that a peer has died or stands still, as over NVLink.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "kernels/cuda/device.h"

namespace longhaul::cuda {
namespace {

constexpr std::int32_t kMostRanks = 1024;
enum class Kind : std::int32_t { exchange, all_gather, all_reduce, reduce_scatter };

/// Shared memory without a name: other processes of the user open it as a file of this process.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes) : file_(memfd_create("longhaul-nccl", MFD_CLOEXEC)) {
    require(file_ >= 0, std::string("memfd_create: ") + std::strerror(errno));
    grow(bytes);
  }
  /// Another rank's; fails when that process is gone.
  SharedMemory(std::int32_t process, std::int32_t file) {
    const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(file);
    file_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
    require(file_ >= 0, "no answer from process " + std::to_string(process) + ": " + std::strerror(errno));
    map_all();
  }
  ~SharedMemory() {
    if (data_) munmap(data_, bytes_);
    if (file_ >= 0) close(file_);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  std::int32_t file() const { return file_; }
  void grow(std::size_t bytes) {
    if (bytes <= bytes_) return;
    require(ftruncate(file_, static_cast<off_t>(bytes)) == 0, std::string("ftruncate: ") + std::strerror(errno));
    map_all();
  }
  /// All that there is by now.
  void map_all() {
    struct stat status {};
    require(fstat(file_, &status) == 0, "fstat failed");
    const auto bytes = static_cast<std::size_t>(status.st_size);
    if (bytes == bytes_) return;
    if (data_) munmap(data_, bytes_);
    data_ = nullptr, bytes_ = 0;
    if (bytes == 0) return;
    void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    require(mapped != MAP_FAILED, std::string("mmap: ") + std::strerror(errno));
    data_ = static_cast<char*>(mapped), bytes_ = bytes;
  }

 private:
  int file_ = -1;
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
};

struct Id {  // the 128 bytes
  char mark[8];
  std::int32_t process, file;
  std::uint64_t token;
};
struct alignas(64) Member {  // in the memory where ranks meet
  std::atomic<std::int32_t> here, process, file;
  std::atomic<std::uint64_t> posted, taken;  // operations, counted from 1
};
struct Meeting {
  std::uint64_t token;
  alignas(64) Member members[kMostRanks];
};
struct Message {  // at the head of what a rank sends
  std::uint64_t number;
  Kind kind;
  std::int32_t type;
  std::int64_t amount;
  struct Part {
    std::int64_t offset, bytes;
  } parts[];  // one a rank
};

struct Fault {
  std::string what;
  std::int32_t rank = -1;
  std::uint64_t number = 0;
};
std::mutex fault_lock;
Fault planned_fault;

// As NCCL keeps buffers of its own on the device: bytes that are counted, not used.
struct Buffers {
  static constexpr std::int64_t kBytes = 1 << 20;
  emulator::Device& of = emulator::device();
  Buffers() { of.given += kBytes; }
  ~Buffers() { of.given -= kBytes; }
  Buffers(const Buffers&) = delete;
};

struct Communicator {
  std::int32_t rank = 0, ranks = 0;
  Buffers buffers = {};
  std::unique_ptr<SharedMemory> meeting, own;
  std::vector<std::unique_ptr<SharedMemory>> peers;
  std::uint64_t issued = 0;
  bool complete = false, aborted = false;
  std::string error;
  std::set<Kind> connected;                                  // that have been used outside of a capture
  std::shared_ptr<int> in_graphs = std::make_shared<int>();  // held by what a graph keeps

  Meeting& place() const { return *reinterpret_cast<Meeting*>(meeting->data()); }
  Member& member(std::int32_t of) const { return place().members[of]; }
  bool befalls(const char* what, std::uint64_t number) const {
    const std::lock_guard guard(fault_lock);
    return planned_fault.what == what && planned_fault.rank == rank && planned_fault.number == number;
  }
  const Message& message(std::int32_t of) {
    auto& memory = peers[static_cast<std::size_t>(of)];
    if (!memory) memory = std::make_unique<SharedMemory>(member(of).process, member(of).file);
    memory->map_all();
    return *reinterpret_cast<const Message*>(memory->data());
  }
};
using Shared = std::shared_ptr<Communicator>;
Communicator& of(void* communicator) {
  return **static_cast<Shared*>(communicator);
}

struct Piece {
  const void* data = nullptr;
  std::int64_t bytes = 0;
};
/// One collective of one rank: what it sends to each, and what is done with the messages of all.
struct Operation {
  Kind kind;
  Type type = Type::float32;
  std::int64_t amount = 0;
  std::vector<Piece> sends;  // one a rank
  std::function<void(Communicator&)> take = {};
};

void post(Communicator& group, const Operation& operation, std::uint64_t number) {
  std::size_t bytes = sizeof(Message) + operation.sends.size() * sizeof(Message::Part);
  for (const Piece& piece : operation.sends) bytes += static_cast<std::size_t>(piece.bytes);
  group.own->grow(bytes);
  Message& message = *reinterpret_cast<Message*>(group.own->data());
  message.number = number, message.kind = operation.kind;
  message.type = static_cast<std::int32_t>(operation.type), message.amount = operation.amount;
  std::int64_t offset = static_cast<std::int64_t>(sizeof(Message) + operation.sends.size() * sizeof(Message::Part));
  for (std::size_t i = 0; i < operation.sends.size(); i++) {
    const Piece& piece = operation.sends[i];
    message.parts[i] = {offset, piece.bytes};
    if (piece.bytes) std::memcpy(group.own->data() + offset, piece.data, static_cast<std::size_t>(piece.bytes));
    offset += piece.bytes;
  }
  group.member(group.rank).posted.store(number, std::memory_order_release);
}

bool all_reached(const Communicator& group, std::atomic<std::uint64_t> Member::*count, std::uint64_t number) {
  for (std::int32_t rank = 0; rank < group.ranks; rank++)
    if ((group.member(rank).*count).load(std::memory_order_acquire) < number) return false;
  return true;
}

void issue(void* communicator, Operation operation, Stream stream) {
  const Shared group = *static_cast<Shared*>(communicator);
  require(group->complete && group->error.empty() && !group->aborted, "NCCL: the communicator is not ready");
  for (const Piece& piece : operation.sends)
    require(piece.bytes == 0 || emulator::is_global(piece.data, static_cast<std::size_t>(piece.bytes)),
            "NCCL: what is sent lies outside every registered buffer");
  // NCCL connects ranks when they first need it, which a capture does not allow.
  if (!emulator::captures(native(stream)))
    group->connected.insert(operation.kind);
  else if (!group->connected.contains(operation.kind))
    emulator::refuse_in_capture("NCCL: the first operation of its kind");
  const auto kept = std::make_shared<const Operation>(std::move(operation));
  emulator::enqueue_made(native(stream), [group, kept, held = group->in_graphs] {  // by every launch of a graph anew
    const std::uint64_t number = ++group->issued;
    const auto posted = std::make_shared<bool>(false);
    const auto ready = [group, kept, posted, number] {
      if (group->aborted) return true;
      if (group->befalls("silent", number)) return false;
      if (group->befalls("error", number)) group->error = "remote process exited or there was a network error";
      if (!group->error.empty()) return false;
      if (!*posted) {
        if (!all_reached(*group, &Member::taken, number - 1)) return false;
        post(*group, *kept, number);
        *posted = true;
      }
      return all_reached(*group, &Member::posted, number);
    };
    const auto body = [group, kept, number] {
      if (group->aborted) return;
      for (std::int32_t rank = 0; rank < group->ranks; rank++) {
        const Message& message = group->message(rank);
        if (message.number != number || message.kind != kept->kind || message.amount != kept->amount ||
            message.type != static_cast<std::int32_t>(kept->type))
          throw emulator::Fault("NCCL: ranks " + std::to_string(rank) + " and " + std::to_string(group->rank) +
                                " issue different operations, number " + std::to_string(number));
      }
      kept->take(*group);
      group->member(group->rank).taken.store(number, std::memory_order_release);
    };
    return emulator::Launch{dim3(), 0, 0, body, true, ready};
  });
}

const char* sent(Communicator& group, std::int32_t from, std::int32_t to, std::int64_t* bytes = nullptr) {
  const Message& message = group.message(from);
  if (bytes) *bytes = message.parts[to].bytes;
  return reinterpret_cast<const char*>(&message) + message.parts[to].offset;
}

template <typename T>
void ring_sum(std::vector<const char*> inputs, std::int64_t first, std::int64_t count, std::int32_t begin, void* to) {
  const auto ranks = static_cast<std::int32_t>(inputs.size());
  for (std::int64_t i = 0; i < count; i++) {
    const auto value = [&](std::int32_t rank) {
      T x;
      std::memcpy(&x,
                  inputs[static_cast<std::size_t>(rank % ranks)] + (first + i) * static_cast<std::int64_t>(sizeof x),
                  sizeof x);
      return x;
    };
    T sum = value(begin);
    for (std::int32_t k = 1; k < ranks; k++) sum = T(sum + value(begin + k));  // rounded at every hop
    std::memcpy(static_cast<char*>(to) + i * static_cast<std::int64_t>(sizeof sum), &sum, sizeof sum);
  }
}
std::int64_t bytes_of(Type type) {
  return type == Type::bfloat16 ? 2 : type == Type::float32 ? 4 : 8;
}
// The chunk that ends its way around the ring at `owner`.
void sum_chunk(Communicator& group, Type type, std::int64_t first, std::int64_t count, std::int32_t owner, void* to) {
  std::vector<const char*> inputs;
  for (std::int32_t rank = 0; rank < group.ranks; rank++) inputs.push_back(sent(group, rank, 0));
  (type == Type::bfloat16  ? ring_sum<gpu::bfloat16>
   : type == Type::float32 ? ring_sum<float>
                           : ring_sum<double>)(std::move(inputs), first, count, (owner + 1) % group.ranks, to);
}

// ---- the calls

void nccl_version(std::int32_t* version) {
  *version = 22809;
}
void nccl_unique_id(char* id) {
  auto* const meeting = new SharedMemory(sizeof(Meeting));  // lives as long as the process: ids are few
  Id made{{'e', 'm', 'u', 'l', 'a', 't', 'e', 'd'}, getpid(), meeting->file(), 0};
  std::random_device random;
  made.token = (std::uint64_t{random()} << 32) ^ random();
  reinterpret_cast<Meeting*>(meeting->data())->token = made.token;
  std::memset(id, 0, 128);
  std::memcpy(id, &made, sizeof made);
}
void nccl_begin(const char* id, std::int32_t rank, std::int32_t ranks, void** communicator) {
  emulator::refuse_in_capture("nccl_begin");
  require(ranks >= 1 && ranks <= kMostRanks && rank >= 0 && rank < ranks, "NCCL: no such rank");
  auto group = std::make_shared<Communicator>();
  group->rank = rank, group->ranks = ranks;
  group->peers.resize(static_cast<std::size_t>(ranks));
  Id from;
  std::memcpy(&from, id, sizeof from);
  // What cannot be reached is known later, as of a connection that is refused.
  try {
    group->meeting = std::make_unique<SharedMemory>(from.process, from.file);
    if (group->meeting->bytes() < sizeof(Meeting) || group->place().token != from.token)
      throw CallError("process " + std::to_string(from.process) + " knows nothing of this id");
    group->own = std::make_unique<SharedMemory>(sizeof(Message));
    Member& me = group->member(rank);
    me.process = getpid(), me.file = group->own->file();
    if (group->befalls("error", 0)) group->error = "unhandled system error";
    if (!group->befalls("silent", 0) && me.here.exchange(1) != 0)
      group->error = "rank " + std::to_string(rank) + " has come twice";
  } catch (const std::exception& error) {
    group->error = std::string("connection refused: ") + error.what();
  }
  *communicator = new Shared(std::move(group));
}
void nccl_state(void* communicator, std::int32_t* in_progress) {
  Communicator& group = of(communicator);
  *in_progress = 0;
  if (!group.error.empty()) throw CallError("NCCL: " + group.error);
  if (group.complete) return;
  for (std::int32_t rank = 0; rank < group.ranks; rank++)
    if (!group.member(rank).here) *in_progress = 1;
  group.complete = !*in_progress;
}
void nccl_destroy(void* communicator) {
  // As NCCL does, until no graph has calls of it.
  const Shared group = *static_cast<Shared*>(communicator);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(emulator::options.patience_ms);
  while (group->in_graphs.use_count() > 1) {
    require(std::chrono::steady_clock::now() < deadline, "NCCL: a graph that is not given back has calls of it");
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  delete static_cast<Shared*>(communicator);
}
void nccl_abort(void* communicator) {
  of(communicator).aborted = true;
  nccl_destroy(communicator);
}
void nccl_finalize(void*) {}

void nccl_exchange(void* communicator, const NcclTransfer* transfers, std::int32_t count, Stream stream) {
  Communicator& group = of(communicator);
  Operation operation{.kind = Kind::exchange, .sends = std::vector<Piece>(static_cast<std::size_t>(group.ranks))};
  std::vector<NcclTransfer> all(transfers, transfers + count);
  for (const NcclTransfer& one : all) {
    require(one.peer >= 0 && one.peer < group.ranks && one.peer != group.rank, "NCCL: no such peer");
    operation.sends[static_cast<std::size_t>(one.peer)] = {one.send, one.send_bytes};
  }
  operation.take = [all](Communicator& here) {
    for (const NcclTransfer& one : all) {
      std::int64_t bytes = 0;
      const char* const data = sent(here, one.peer, here.rank, &bytes);
      if (bytes != one.receive_bytes)
        throw emulator::Fault("NCCL: rank " + std::to_string(here.rank) + " waits for " +
                              std::to_string(one.receive_bytes) + " bytes from rank " + std::to_string(one.peer) +
                              ", which sends " + std::to_string(bytes));
      if (bytes) std::memcpy(one.receive, data, static_cast<std::size_t>(bytes));
    }
  };
  issue(communicator, std::move(operation), stream);
}
void nccl_all_gather(void* communicator, const void* send, void* receive, std::int64_t bytes_per_rank, Stream stream) {
  Operation operation{.kind = Kind::all_gather,
                      .amount = bytes_per_rank,
                      .sends = std::vector<Piece>(static_cast<std::size_t>(of(communicator).ranks))};
  operation.sends[0] = {send, bytes_per_rank};
  operation.take = [=](Communicator& here) {
    for (std::int32_t rank = 0; rank < here.ranks; rank++)
      std::memcpy(static_cast<char*>(receive) + rank * bytes_per_rank, sent(here, rank, 0),
                  static_cast<std::size_t>(bytes_per_rank));
  };
  issue(communicator, std::move(operation), stream);
}
void reduce(void* communicator, Kind kind, const void* send, std::int64_t count, Type type,
            std::function<void(Communicator&)> take, Stream stream) {
  Operation operation{.kind = kind,
                      .type = type,
                      .amount = count,
                      .sends = std::vector<Piece>(static_cast<std::size_t>(of(communicator).ranks)),
                      .take = std::move(take)};
  operation.sends[0] = {send, count * bytes_of(type)};
  issue(communicator, std::move(operation), stream);
}
void nccl_all_reduce(void* communicator, const void* send, void* receive, std::int64_t count, Type type,
                     Stream stream) {
  const auto take = [=](Communicator& here) {
    const std::int64_t chunk = divide_up<std::int64_t>(count, here.ranks);
    for (std::int32_t owner = 0; owner < here.ranks; owner++) {
      const std::int64_t first = std::min(owner * chunk, count), end = std::min(first + chunk, count);
      sum_chunk(here, type, first, end - first, owner, static_cast<char*>(receive) + first * bytes_of(type));
    }
  };
  reduce(communicator, Kind::all_reduce, send, count, type, take, stream);
}
void nccl_reduce_scatter(void* communicator, const void* send, void* receive, std::int64_t count_per_rank, Type type,
                         Stream stream) {
  const auto take = [=](Communicator& here) {
    sum_chunk(here, type, here.rank * count_per_rank, count_per_rank, here.rank, receive);
  };
  reduce(communicator, Kind::reduce_scatter, send, count_per_rank * of(communicator).ranks, type, take, stream);
}

int prefer_matmul(const char* value) {
  return Guarded<emulator::prefer_matmul>::call(value);
}
int configure(const char* key, const char* value) {
  if (std::string(key) == "matmul") return prefer_matmul(value);
  if (std::string(key) == "wave") {
    const std::string lanes = value;
    if (lanes != "32" && lanes != "64") return report("the emulator has waves of 32 and of 64 lanes");
    emulator::options.wave = lanes == "64" ? 64 : 32;
    emulator::options.shared_kb = lanes == "64" ? 64 : emulator::Options().shared_kb;
    return 0;
  }
  if (std::string(key) != "nccl_fault") return report("the emulator has no such setting");
  const std::lock_guard guard(fault_lock);
  planned_fault = {};
  if (!*value) return 0;
  char what[16] = "";
  long rank = 0, number = 0;
  if (std::sscanf(value, "%15s %ld %ld", what, &rank, &number) != 3) return report("a fault is WHAT RANK NUMBER");
  planned_fault = {what, static_cast<std::int32_t>(rank), static_cast<std::uint64_t>(number)};
  return 0;
}

}  // namespace

void device::add_nccl(Api& api) {
  api.nccl_version = Guarded<nccl_version>::call;
  api.nccl_unique_id = Guarded<nccl_unique_id>::call;
  api.nccl_begin = Guarded<nccl_begin>::call;
  api.nccl_state = Guarded<nccl_state>::call;
  api.nccl_abort = Guarded<nccl_abort>::call;
  api.nccl_finalize = Guarded<nccl_finalize>::call;
  api.nccl_destroy = Guarded<nccl_destroy>::call;
  api.nccl_exchange = Guarded<nccl_exchange>::call;
  api.nccl_all_gather = Guarded<nccl_all_gather>::call;
  api.nccl_all_reduce = Guarded<nccl_all_reduce>::call;
  api.nccl_reduce_scatter = Guarded<nccl_reduce_scatter>::call;
  api.configure = configure;
}

}  // namespace longhaul::cuda
