// A GPU in one operating-system thread: every GPU thread is a fiber, several blocks are under way at a time, and
// streams take turns. Which fiber, block or stream goes on next, and when an asynchronous copy lands, comes from a
// seed. A process has several devices, each run by the thread that waits for it; devices share nothing but memory and
// the flags by which their ranks signal each other.
//
// Shared memory is a byte array reached through 32-bit addresses. Each of its 4-byte words has a shadow: who wrote and
// read it last, in vector-clock time, and whether a copy into it is under way. A read or write that is not ordered
// after what it depends on is reported as a race even when the schedule at hand happens to give the right result.
#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/gpu_emulator/emulator/types.h"

namespace longhaul::emulator {

/// A race, a deadlock, a wild address: anything that real hardware would answer with wrong results, a hang or a fault.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  unsigned seed = 0;         ///< 0: in order, copies land at once; otherwise a random schedule
  bool race = true;          ///< the detector; off leaves only what a wrong order does to results
  int resident = 1;          ///< blocks of a launch that are under way at a time
  bool reverse = false;      ///< blocks start from last to first: a block must never wait for one launched after it
  int planted_fault = 0;     ///< the defect that GPU_FAULT(n) plants in a kernel; 0: none
  int patience_ms = 60'000;  ///< how long a device waits for the signal of another
  int wave = 32;             ///< lanes that share a program counter: 32, or 64 in lock step (waves.cpp)
  int shared_kb = 227;       ///< KiB of shared memory that a block may have: an H100's
};
/// Work done by this thread since its last reset, for the tests' own sanity and for documentation.
struct Statistics {
  long mma = 0, wgmma = 0, ldmatrix = 0, ldmatrix_extra_waves = 0, copies = 0, copied_bytes = 0, barriers = 0;
};
extern Options options;  // of the process; set before anything is queued
extern thread_local constinit Statistics statistics;

/// Where a kernel calls a primitive: the default argument is evaluated at the caller.
#if defined(__cpp_lib_source_location)
using Site = std::source_location;
#else  // clang 14 with libstdc++ 12
class Site {
 public:
  static constexpr Site current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE(),
                                unsigned column = __builtin_COLUMN()) {
    Site site;
    site.file_ = file, site.line_ = line, site.column_ = column;
    return site;
  }
  constexpr const char* file_name() const { return file_; }
  constexpr unsigned line() const { return line_; }
  constexpr unsigned column() const { return column_; }

 private:
  const char* file_ = "";
  unsigned line_ = 0, column_ = 0;
};
#endif
#define EMULATOR_SITE ::longhaul::emulator::Site site = ::longhaul::emulator::Site::current()

constexpr std::uint32_t kSharedBase = 1024;  // shared addresses start here, so that 0 is never valid
constexpr int kAsyncProxies = 32;            // pseudo threads for the async proxy, one a mbarrier
constexpr int kRegisterFile = 65536;         // registers of a multiprocessor

using Clock = std::vector<std::uint32_t>;

struct SiteId {  // an interned Site: index of the file, line
  std::uint16_t file = 0, line = 0;
};
struct SharedWord {  // shadow of 4 bytes of shared memory
  struct Read {
    std::uint32_t clock;
    std::uint16_t thread;
    SiteId site;
    std::uint32_t epoch;
  };
  std::uint32_t write_clock = 0;
  std::uint32_t write_epoch = 0xffffffffu;  // full-block barriers that the writer had passed
  std::uint16_t writer = 0;
  SiteId write_site;
  std::uint8_t initialised = 0, pending = 0, reads = 0;
  Read read[8];
};
/// What a lane of a wave in lock step is about to do, when its wave goes on with it.
enum class Stop : std::uint8_t {
  none,      // it is under way
  memory,    // the beginning of the kernel, loads and stores, of whichever lanes come to them
  exchange,  // shuffles and votes among the lanes that are active
  sync,      // warp_sync among them
  spin,      // a loop until something outside the wave has happened: the wave is in it until all its lanes are out
  barrier    // of the block: counts waves, not lanes
};
struct Fiber {
  void* stack_pointer = nullptr;
  int id = 0;
  bool done = false;
  std::uint32_t epoch = 0;           // full-block barriers passed
  const long* generation = nullptr;  // blocked while *generation == awaited
  long awaited = 0;
  std::function<bool()> ready;  // blocked on something other than a generation
  bool outside = false;         // which another device may bring about
  const char* reason = "";
  Site site;
  Clock clock;
  std::uint32_t proxy_fence = 0;                   // own writes before this clock are visible to the async proxy
  std::vector<std::vector<int>> copy_groups;       // committed cp.async groups, oldest first
  std::vector<int> open_copies;                    // not yet committed
  std::vector<std::function<void()>> bulk_stores;  // not yet waited for
  // In lock step (waves.cpp).
  Stop stop = Stop::none;
  Site caller;                      // of the primitive that `site` is part of, where it is made of others
  bool composed = false;            // whether there is one
  bool begun = false;               // whether the lane has stopped in it before
  Site last_place;                  // where it stopped last
  int loops = 0;                    // how often the wave has gone back to an earlier line
  int part = 0;                     // exchanges in it so far
  alignas(16) char offered[2][16];  // what other lanes may read of this one, by turns: one may be a step ahead
  int offer = 0;
};
struct Barrier {
  int count = 0, expected = 0;
  long generation = 0;
  Clock arriving, done;
};
struct WarpCollective {
  int count = 0, kind = 0;
  Site site;
  long generation = 0;
  void* argument[32];
  int registers = 0;  // a thread, as setmaxnreg left it
};
struct Wave {                // 64 lanes with one program counter
  std::uint64_t active = 0;  // the lanes that it goes on with
  const char* offered[64];   // what each of them gives the others
  Clock joined[2];           // of the active lanes of each half
};
struct MemoryBarrier {  // an mbarrier
  int count = 0, pending = 0, bytes = 0, proxy = 0, init_thread = 0;
  std::uint32_t init_clock = 0, init_epoch = 0;
  bool fenced = false;  // fence.mbarrier_init has followed the init
  long generation = 0;
  Clock arriving, done;
};
struct Copy {  // a cp.async, bulk or tensor copy under way
  std::uint32_t destination;
  std::vector<char> data;
  bool landed;
  MemoryBarrier* barrier;
};
struct Accumulator {  // registers that wgmma owns until it is waited for
  float* registers[128];
  int count = 0, left = 0;
  std::vector<float> values;
};
struct WarpGroupOperation {
  std::function<void()> run;
  Accumulator* accumulator;
};
struct WarpGroup {
  int count = 0, kind = 0;
  Site site;
  long generation = 0;
  void* argument[128];
  bool fenced = false;
  std::vector<WarpGroupOperation> open;
  std::vector<std::vector<WarpGroupOperation>> groups;
  std::vector<std::unique_ptr<Accumulator>> accumulators;
};
struct Block {
  std::vector<Fiber> fibers;
  std::vector<char*> stacks;
  void* scheduler = nullptr;
  int current = 0, threads = 0, left = 0, warp = 0, stream = 0;
  dim3 index, grid;
  std::vector<char> shared;
  std::vector<SharedWord> shadow;
  std::vector<Barrier> barriers, warp_barriers;
  std::vector<WarpCollective> warps;
  std::vector<WarpGroup> warp_groups;
  bool lock_step = false;  // lanes go by waves of 64
  std::vector<Wave> waves;
  std::map<std::uint32_t, MemoryBarrier> memory_barriers;
  std::vector<Copy> copies;
  std::size_t copies_in_flight = 0;
  int free_registers = 0;  // given back by setmaxnreg.dec
  std::mt19937 random;
  const std::function<void()>* body = nullptr;
  std::string fault;
};
extern thread_local constinit Block* block;  // the one that this thread runs now

inline Fiber& self() {
  return block->fibers[block->current];
}
/// Gives the turn back to the scheduler.
void yield();
/// Lets a fiber go on until it blocks, stops or ends. For the scheduler.
void resume(Fiber& fiber);
/// Ends the launch with a Fault that names block and thread.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(Site site, const char* format, ...);
/// Blocks the fiber until *generation differs from `awaited`, or until `ready` says so.
void wait_generation(const long* generation, long awaited, const char* reason, Site site);
void wait_ready(std::function<bool()> ready, const char* reason, Site site, bool outside = false);
/// Records the Fault that fail() ends the launch with, of the thread `block->current`.
__attribute__((format(printf, 2, 3))) void report(Site site, const char* format, ...);
/// Sets a flag that ranks on other devices may wait for, after all that this thread has written.
void signal_flag(std::uint32_t* flag, std::uint32_t value);
/// Between devices: waits until `ready` or until nothing can make it so, because every other device of the process
/// waits too or the patience is at its end. Returns ready().
bool wait_for_devices(const std::function<bool()>& ready);
void join(Clock& into, const Clock& from);
SiteId intern(Site site);
std::string name_of(SiteId site);

// ---- waves of 64 lanes in lock step (waves.cpp)
/// Comes back when the wave of the running lane goes on with what the lane has come to.
void stop_at(Stop stop, Site site);
inline void in_step(Stop stop, Site site) {
  if (block->lock_step) stop_at(stop, site);
}
inline Wave& wave() {
  return block->waves[block->current / 64];
}
/// Offers 16 bytes or less to the other lanes of the wave, and comes back when they offer theirs.
void offer(const void* value, std::size_t bytes, Site site);
/// What the lane `source` of the wave has offered; one that is not active is a Fault.
const char* offered_by(int source, const char* what, Site site);
/// A bit for each active lane that has offered a bool that is true.
std::uint64_t votes_of_wave();
/// warp_sync: what the active lanes of this one's half did is before what it does next.
void join_active_lanes();
/// What waves of 64 have not is a Fault.
inline void only_warps(const char* what, Site site) {
  if (block->lock_step) fail(site, "%s is not to be had on waves of 64 lanes", what);
}
/// Takes the next step of a wave; false when it has none.
bool wave_step(int wave, int first_lane);
/// Whether a wave that waited for another device can go on.
bool wave_signalled(const Block& of);
/// The place that shadows remember: what a primitive is made of is none of the kernel's.
inline Site in_kernel(Site site) {
  return self().composed ? self().caller : site;
}
/// Names the primitive, made of others, that a lane is in.
class Composed {
 public:
  explicit Composed(Site site) : fiber_(self()) {
    fiber_.caller = site, fiber_.composed = true, fiber_.part = 0, fiber_.begun = false;
  }
  ~Composed() { fiber_.composed = false; }
  Composed(const Composed&) = delete;
  Composed& operator=(const Composed&) = delete;

 private:
  Fiber& fiber_;
};

// ---- shared memory (memory.cpp)
/// Host address of `bytes` bytes at shared address `address`; out of bounds or misaligned is a Fault.
char* shared_at(std::uint32_t address, int bytes, const char* what, Site site);
void check_read(std::uint32_t address, int bytes, int thread, Site site, const char* what);
void check_write(std::uint32_t address, int bytes, int thread, Site site, const char* what, bool asynchronous = false);
/// A read by the async proxy: what ordinary stores wrote must have been fenced by its writer.
void check_async_read(std::uint32_t address, int bytes, int thread, Site site, const char* what);
void start_copy(std::uint32_t destination, std::vector<char> data, MemoryBarrier* barrier, Site site);
void land(int copy);
/// Lets some (or all) copies of the running block land; false when none did.
bool land_some(bool all);
void complete_phase(MemoryBarrier& barrier);
void wait_copies(int newest_left);

// ---- global memory (memory.cpp): every buffer that a kernel may touch is registered, so a wild address is named and
// not followed.
void register_global(void* begin, std::size_t bytes);
void unregister_global(void* begin);
void check_global(const void* pointer, std::size_t bytes, const char* what, Site site);
/// Whether some registered buffer holds all of it.
bool is_global(const void* pointer, std::size_t bytes);
/// Between streams, global words have clocks too: an access must be ordered by signals after the write it depends on.
void check_global_stream(const void* pointer, std::size_t bytes, bool write, Site site);
void release_flag(const void* flag);
void acquire_flag(const void* flag);

// ---- barriers and collectives (core.cpp)
void arrive(Barrier& barrier, int expected, bool wait, const char* what, Site site);

/// Lanes of a warp or warpgroup meet; the last to arrive does the work for all, given every lane's argument.
template <typename Meeting, typename Argument, typename Work>
void meet(Meeting& meeting, int lanes, int lane, int kind, Site site, Argument* argument, const char* what, Work work) {
  only_warps(what, site);
  if (meeting.count && (meeting.kind != kind || meeting.site.line() != site.line()))
    fail(site, "%s while other lanes of the warp are at %s:%d: divergent collective", what, meeting.site.file_name(),
         static_cast<int>(meeting.site.line()));
  meeting.kind = kind, meeting.site = site;
  meeting.argument[lane] = argument;
  const long generation = meeting.generation;
  if (++meeting.count == lanes) {
    work(reinterpret_cast<Argument**>(meeting.argument));
    meeting.count = 0;
    meeting.generation++;
  } else {
    wait_generation(&meeting.generation, generation, what, site);
  }
}
template <typename Argument, typename Work>
void warp_meet(int kind, Site site, Argument* argument, const char* what, Work work) {
  meet(block->warps[block->current / 32], 32, block->current % 32, kind, site, argument, what, work);
}

// ---- launches and streams (scheduler.cpp)
struct Launch {
  dim3 grid;
  int threads = 0;
  std::size_t shared_bytes = 0;
  std::function<void()> body;
  bool host = false;  // the body is the host's, not a thread's
  /// Of the host's: whether it can be done now; empty: it can. Asked again and again.
  std::function<bool()> ready = {};
};
struct Device;
struct Run;  // what is under way of what was queued
/// A queue of launches, run in order; a device's streams are run together, interleaved at random.
struct Stream {
  Device* device = nullptr;
  std::vector<Launch> queue;
};
struct Device {
  std::recursive_mutex lock;
  std::vector<std::unique_ptr<Stream>> streams;
  std::shared_ptr<Run> run;
  int threads = 0;                      // that have selected it
  std::atomic<std::int64_t> given = 0;  // bytes of its memory
};
constexpr int kDevices = 64;
/// This thread's device, the first unless it has selected another.
Device& device();
void select_device(int index);

/// Runs at once (stream == nullptr, everything queued before it first), or queues.
void launch(Stream* stream, Launch work);
/// The same for what the host does in a stream's order: copies, fills, products of the library. `work` throws Fault. It
/// is not begun, and nothing after it in its stream is, before `ready` (empty: it is) says so.
void enqueue(Stream* stream, std::function<void()> work, std::function<bool()> ready = {});
/// What a stream did so far, for others to be ordered behind it: events. Called by what was enqueued, with the number
/// that host_stream() has then.
struct StreamClock {
  Clock clock;
  unsigned run = 0;
};
/// Where a stream has come to, for an event; what is queued holds on to the place that it will mark.
struct Mark {
  bool reached = true;
  StreamClock clock = {};
  std::chrono::steady_clock::time_point time = std::chrono::steady_clock::now();
  long capture = 0;      // not 0: a place in what that capture keeps,
  std::size_t slot = 0;  // of this number
};
StreamClock publish_stream_clock(int stream);
void join_stream_clock(int stream, const StreamClock& published);
int host_stream();
/// The same of what is made anew each time: now, or by every launch of the graph that keeps it.
void enqueue_made(Stream* stream, const std::function<Launch()>& make);
Stream* create_stream();
void destroy_stream(Stream* stream);
/// Runs everything queued in any stream of this thread's device. Throws Fault.
void synchronize();
/// Runs what of it needs nothing of another rank; returns whether that was all. For the thread that runs the device.
bool go_on();
/// Forgets what is queued on this thread's device, after a Fault.
void discard_queues();

/// The algorithm that the library of products prefers from now on: "ORDER=0" or "ORDER=1".
void prefer_matmul(const char* text);

// ---- graphs (graphs.cpp): what streams are given while this thread captures
/// One launch of a graph: what its events mark.
struct Replay {
  std::vector<std::shared_ptr<Mark>> marks;
};
/// Keeps work that a stream of the capture is given; false when there is none of this stream. Throws Fault for what a
/// capture does not allow.
bool keep(Stream* stream, const std::function<Launch(const Replay&)>& make);
bool captures(Stream* stream);
/// Throws Fault when this thread captures: `call` is not allowed then, and the graph cannot be made any more.
void refuse_in_capture(const char* call);
/// Records an event, or waits for one, in a stream of the capture; false when neither is in it.
bool keep_record(Stream* stream, std::shared_ptr<Mark>& mark);
bool keep_wait(Stream* stream, const std::shared_ptr<Mark>& mark);
/// Throws Fault for what a capture has recorded, which only its graph reaches.
void refuse_captured(const Mark& mark, const char* call);
struct Graph;
void begin_graph(Stream* stream);
/// Ends the capture in any case.
Graph* end_graph(Stream* stream);
void launch_graph(const Graph& graph, Stream* stream);
void destroy_graph(Graph* graph);

}  // namespace longhaul::emulator
