// Graphs: what streams are given while a thread captures is kept, and queued again by every launch. Work keeps its
// arguments by value, as hardware does; events are places within one launch; each other stream that was captured has
// one of the graph's own.
#include <algorithm>
#include <atomic>

#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::emulator {

struct Graph {
  struct Node {
    std::size_t stream;  // 0: the one that the graph is launched in
    std::function<Launch(const Replay&)> make;
  };
  std::vector<Node> nodes;  // as they were given
  std::size_t marks = 0;
  std::vector<Stream*> streams;
};

namespace {

using Counts = std::vector<std::size_t>;  // of work of each stream
struct Capture {
  long number;
  std::vector<Stream*> streams;      // the first is where it began
  std::vector<Counts> behind;        // what each is ordered behind, its own included
  std::vector<Counts> behind_marks;  // the same of what was recorded
  Graph graph;
  std::string failed;  // by what
};
thread_local std::unique_ptr<Capture> capture;
std::atomic<long> captures_begun = 0;

std::size_t place(const Stream* stream) {
  const auto found = std::find(capture->streams.begin(), capture->streams.end(), stream);
  return static_cast<std::size_t>(found - capture->streams.begin());
}
void join_counts(Counts& into, const Counts& from) {
  into.resize(std::max(into.size(), from.size()));
  for (std::size_t i = 0; i < from.size(); i++) into[i] = std::max(into[i], from[i]);
}
[[noreturn]] void refuse(const std::string& why) {
  if (capture->failed.empty()) capture->failed = why;
  throw Fault(why);
}
void add(std::size_t stream, std::function<Launch(const Replay&)> make) {
  if (!capture->failed.empty()) throw Fault("the graph that is captured has failed: " + capture->failed);
  capture->graph.nodes.push_back({stream, std::move(make)});
}
Launch host_launch(std::function<void()> work, std::function<bool()> ready = {}) {
  return {dim3(), 0, 0, std::move(work), true, std::move(ready)};
}

}  // namespace

bool captures(Stream* stream) {
  return capture && (!stream || place(stream) < capture->streams.size());
}
void refuse_in_capture(const char* call) {
  if (capture) refuse(std::string(call) + " while this thread captures a graph");
}

bool keep(Stream* stream, const std::function<Launch(const Replay&)>& make) {
  if (!captures(stream)) return false;
  if (!stream) refuse("work for the default stream while this thread captures a graph");
  const std::size_t at = place(stream);
  add(at, make);
  Counts& counts = capture->behind[at];
  counts.resize(std::max(counts.size(), at + 1));
  counts[at]++;
  return true;
}

bool keep_record(Stream* stream, std::shared_ptr<Mark>& mark) {
  if (!captures(stream)) return false;
  if (!stream) refuse("an event of the default stream while this thread captures a graph");
  const std::size_t at = place(stream), slot = capture->graph.marks;
  add(at, [slot](const Replay& replay) {
    const std::shared_ptr<Mark> here = replay.marks[slot];
    return host_launch([here] { *here = {.clock = publish_stream_clock(host_stream())}; });
  });
  capture->graph.marks++;
  capture->behind_marks.push_back(capture->behind[at]);
  mark = std::make_shared<Mark>(Mark{.reached = false, .capture = capture->number, .slot = slot});
  return true;
}

bool keep_wait(Stream* stream, const std::shared_ptr<Mark>& mark) {
  const bool inside = capture && mark->capture == capture->number;
  if (mark->capture && !inside) refuse_captured(*mark, "stream_wait");
  if (!inside) {
    if (captures(stream)) refuse("a wait for an event from outside the graph that is captured");
    return false;
  }
  if (!stream) refuse("a wait of the default stream while this thread captures a graph");
  const std::size_t at = place(stream), slot = mark->slot;
  if (at == capture->streams.size()) capture->streams.push_back(stream), capture->behind.emplace_back();
  add(at, [slot](const Replay& replay) {
    const std::shared_ptr<Mark> there = replay.marks[slot];
    return host_launch([there] { join_stream_clock(host_stream(), there->clock); }, [there] { return there->reached; });
  });
  join_counts(capture->behind[at], capture->behind_marks[slot]);
  return true;
}

void refuse_captured(const Mark& mark, const char* call) {
  if (mark.capture) throw Fault(std::string(call) + " of an event that was recorded into a graph");
}

void begin_graph(Stream* stream) {
  refuse_in_capture("graph_begin");
  if (!stream) throw Fault("the default stream cannot be captured");
  capture = std::make_unique<Capture>();
  capture->number = ++captures_begun;
  capture->streams = {stream};
  capture->behind.resize(1);
}

Graph* end_graph(Stream* stream) {
  if (!capture || capture->streams[0] != stream) throw Fault("this thread captures no graph that began in this stream");
  const std::unique_ptr<Capture> ended = std::move(capture);
  if (!ended->failed.empty()) throw Fault("the graph cannot be made: " + ended->failed);
  Counts& all = ended->behind[0];
  all.resize(ended->streams.size());
  for (std::size_t i = 1; i < ended->streams.size(); i++)
    if (i < ended->behind[i].size() && all[i] < ended->behind[i][i])
      throw Fault("the graph cannot be made: its first stream does not wait for all that another was given");
  for (std::size_t i = 1; i < ended->streams.size(); i++) ended->graph.streams.push_back(create_stream());
  return new Graph(std::move(ended->graph));
}

void launch_graph(const Graph& graph, Stream* stream) {
  refuse_in_capture("graph_launch");
  if (!stream) throw Fault("a graph is not launched in the default stream");
  Replay replay;
  for (std::size_t i = 0; i < graph.marks; i++) replay.marks.push_back(std::make_shared<Mark>(Mark{.reached = false}));
  for (const Graph::Node& node : graph.nodes)
    enqueue_made(node.stream == 0 ? stream : graph.streams[node.stream - 1], [&] { return node.make(replay); });
}

void destroy_graph(Graph* graph) {
  // What is queued there still and will be done keeps its stream.
  for (Stream* stream : graph->streams)
    if (stream->queue.empty()) destroy_stream(stream);
  delete graph;
}

}  // namespace longhaul::emulator
