// The engine: checks a case, then times it between bursts of the yardstick.
#include <malloc.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/bench/yardstick.h"
#include "kernels/cpu/isa.h"

namespace longhaul::cpu::bench {
namespace {

using longhaul::bench::Measurement;
using longhaul::bench::RunOptions;

struct Time {
  double wall, cpu;  // seconds; of the whole process
  static Time now() {
    timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return {std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(),
            static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec)};
  }
};

template <typename Call>
Time time(const Call& call) {
  const Time begin = Time::now();
  call();
  const Time end = Time::now();
  return {end.wall - begin.wall, end.cpu - begin.cpu};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void check_outputs(Case& c, Check& check, Side oracle) {
  c.call(oracle);
  for (const Case::Output& output : c.outputs()) {
    const Tensor& tensor = *output.tensor;
    check.compare(
        tensor.count, [&](std::int64_t i) { return tensor.narrow_at(i); },
        [&](std::int64_t i) { return tensor.wide_at(i); }, c.bound(tensor.type, output.tolerance));
  }
}

void time_case(Case& c, Side kernel, const RunOptions& options, Measurement& m) {
  const Yardstick yardstick(c.flops > 0 ? c.dtype : DType::float32, c.flops > 0, c.pool());
  const double work = c.flops > 0 ? c.flops : c.bytes;
  std::vector<const Peer*> peers;
  for (const Peer& peer : c.peers) peers.push_back(&peer);
  c.restore();
  c.call(kernel);
  for (const Peer* peer : peers) {
    c.restore();
    peer->call(kernel);
  }
  std::vector<double> seconds, shares, fractions;
  std::vector<std::vector<double>> ratios(peers.size());
  double spent = 0;
  for (int i = 0; options.repeat ? i < options.repeat : i < 5 || (spent < 0.5 && i < 200); ++i) {
    const double before = yardstick.measure();
    std::vector<Time> times(peers.size());
    Time own{};
    // Turn by turn, and who is first changes.
    for (std::size_t turn = 0; turn <= peers.size(); ++turn) {
      const std::size_t who = (turn + static_cast<std::size_t>(i)) % (peers.size() + 1);
      c.restore();
      if (who == peers.size())
        own = time([&] { c.call(kernel); });
      else
        times[who] = time([&] { peers[who]->call(kernel); });
    }
    const double best = std::max(before, yardstick.measure());
    // On one thread CPU time, as for the yardstick: a neighbour on the core lowers neither. On several, where waiting
    // counts, wall time.
    const auto seconds_of = [&](const Time& one) { return c.threads() == 1 ? one.cpu : one.wall; };
    seconds.push_back(seconds_of(own));
    shares.push_back(own.cpu / (own.wall * c.threads()));
    fractions.push_back(work / seconds.back() / best);
    for (std::size_t p = 0; p < peers.size(); ++p) ratios[p].push_back(seconds_of(times[p]) / seconds.back());
    spent += own.wall;
  }
  m.timed = true;
  m.minimum_ms = 1e3 * *std::min_element(seconds.begin(), seconds.end());
  m.median_ms = 1e3 * median(seconds);
  m.fraction = median(fractions);
  m.cpu_share = median(shares);
  m.flops = c.flops;
  m.bytes = c.bytes;
  for (std::size_t p = 0; p < peers.size(); ++p) m.ratios.emplace_back(peers[p]->library, median(ratios[p]));
}

class Cpu final : public longhaul::bench::Device {
 public:
  std::string description() override {
    std::string processor = "CPU";
    std::ifstream in("/proc/cpuinfo");
    for (std::string line; std::getline(in, line);)
      if (line.starts_with("model name")) {
        processor = line.substr(line.find(':') + 2);
        break;
      }
    return fmt::format(
        "{}, {}, vector loops {}; error: the worst output's max |a - b| / max |b| against float64 plain loops; of "
        "peak: "
        "of the FMA peak of the dtype, or of the triad's bandwidth, measured around every run, median",
        processor, usable_isa().name, vector_table().name);
  }
  std::vector<Op> ops() const override {
    std::vector<Op> list;
    for (const Entry& entry : entries()) list.push_back({entry.name, Shape(entry.defaults), {Shape()}});
    return list;
  }
  Measurement run(const std::string& op, const Shape& shape, const RunOptions& options) override {
    for (const Entry& entry : entries()) {
      if (op != entry.name) continue;
      Case c(shape);
      entry.set_up(c);
      return measure(c, options);
    }
    fail("no CPU kernel {}", op);
  }
};

}  // namespace

Measurement measure(Case& c, const RunOptions& options) {
  std::vector<Peer> wanted;
  for (const std::string& library : options.compare) {
    if (library != "onednn" && library != "openblas") fail("--compare is {}; allowed are onednn and openblas", library);
    for (const Peer& peer : c.peers)
      if (peer.library == library) wanted.push_back(peer);
  }
  c.peers = std::move(wanted);
  const Memory scratch(round_to_line(c.scratch_bytes));
  const Side kernel(false, c.pool(), scratch.data()), oracle(true, c.pool(), nullptr);
  if (c.prepare) c.prepare(c.pool());
  c.call(kernel);
  Check check;
  if (c.check)
    c.check(c, check);
  else
    check_outputs(c, check, oracle);
  Measurement m;
  m.kernel = c.kernel.empty() ? vector_table().name : c.kernel;
  m.error = check.error;
  m.bound = check.bound;
  if (!options.check_only) time_case(c, kernel, options, m);
  return m;
}

std::vector<Entry> entries() {
  std::vector<Entry> all;
  for (const auto family : {attention_entries, matmul_entries, norm_entries, activation_entries, elementwise_entries,
                            embedding_entries, loss_entries, optimizer_entries, exchange_entries})
    for (Entry& entry : family()) all.push_back(std::move(entry));
  return all;
}

std::unique_ptr<longhaul::bench::Device> make_device() {
  // Problems of a gigabyte follow each other: touching fresh pages would take longer than the kernels.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  return std::make_unique<Cpu>();
}

}  // namespace longhaul::cpu::bench
