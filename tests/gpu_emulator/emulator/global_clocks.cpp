// Vector clocks between streams: a stream stands for a rank, and its launches follow each other, so one clock a stream
// is enough. A release publishes all that its stream did before; an acquire that sees it orders all that follows. The
// clocks are those of one device, kept by the thread that runs it: between devices nothing is checked.
#include <algorithm>
#include <unordered_map>

#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::emulator {
namespace {

struct GlobalWord {
  std::uint16_t writer = 0;
  std::uint32_t write_clock = 0;
  SiteId write_site;
  std::vector<std::pair<std::uint32_t, SiteId>> reads;  // by stream
};
thread_local constinit int stream_count = 0;
thread_local constinit unsigned run_count = 0;
thread_local std::vector<Clock> stream_clocks;
thread_local std::unordered_map<std::uintptr_t, GlobalWord> words;
thread_local std::unordered_map<const void*, Clock> flags;

}  // namespace

void begin_stream_clocks(int count) {
  ++run_count;
  stream_count = count;
  words.clear(), flags.clear();
  stream_clocks.assign(count, Clock(count, 0));
  for (int i = 0; i < count; i++) stream_clocks[i][i] = 1;
}

void check_global_stream(const void* pointer, std::size_t bytes, bool write, Site site) {
  if (!stream_count || !options.race) return;
  const int stream = block->stream;
  const Clock& clock = stream_clocks[stream];
  const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(pointer) / 4;
  for (std::uintptr_t i = first; i < first + (bytes + 3) / 4; i++) {
    GlobalWord& word = words[i];
    if (word.write_clock > clock[word.writer])
      fail(site, "RACE %s in global memory with stream %d at %s", write ? "write after write" : "read after write",
           word.writer, name_of(word.write_site).c_str());
    if (write) {
      for (std::size_t other = 0; other < word.reads.size(); other++)
        if (word.reads[other].first > clock[other])
          fail(site, "RACE write after read in global memory with stream %zu at %s", other,
               name_of(word.reads[other].second).c_str());
      word.reads.clear();
      word.writer = static_cast<std::uint16_t>(stream), word.write_clock = clock[stream],
      word.write_site = intern(site);
    } else {
      word.reads.resize(stream_count);
      word.reads[stream] = {clock[stream], intern(site)};
    }
  }
}

void release_flag(const void* flag) {
  if (!stream_count) return;
  Clock& clock = stream_clocks[block->stream];
  Clock& published = flags[flag];
  published.resize(stream_count);
  join(published, clock);
  clock[block->stream]++;
}
void acquire_flag(const void* flag) {
  if (!stream_count) return;
  auto found = flags.find(flag);
  if (found != flags.end()) join(stream_clocks[block->stream], found->second);
}

StreamClock publish_stream_clock(int stream) {
  if (!stream_count) return {};
  const StreamClock published{stream_clocks[stream], run_count};
  stream_clocks[stream][stream]++;
  return published;
}
void join_stream_clock(int stream, const StreamClock& published) {
  // What an earlier run did is done.
  if (stream_count && published.run == run_count && !published.clock.empty())
    join(stream_clocks[stream], published.clock);
}

}  // namespace longhaul::emulator
