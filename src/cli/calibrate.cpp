// longhaul calibrate
#include <cstdio>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "cli/command.h"
#include "planner/calibrate.h"

namespace longhaul::cli {
namespace {

struct Arguments {
  int ranks = 0;
  std::string transport = "auto";
  std::int64_t threads = 0;  // 0: the rank's share of the cores
  std::string device = "cpu";
  std::filesystem::path output;
  bool small = false;
};

void write_profile(const MachineProfile& profile, const std::filesystem::path& file) {
  std::ofstream stream(file);
  stream << profile_text(profile);
  stream.close();
  if (!stream) fail("cannot write {}", file.string());
}

void print_summary(const MachineProfile& profile) {
  std::printf("%s\n", profile.about.c_str());
  for (const auto& [type, product] : profile.products)
    std::printf("  products in %-9s %8.1f GFLOP/s at the peak, %.1f%% of it in the largest\n",
                std::string(name_of(type)).c_str(), product.peak * 1e-9,
                100 * product.efficiency.points().back().second);
  for (const auto& [type, rate] : profile.attention)
    std::printf("  attention in %-8s %8.1f GFLOP/s forward, %.1f backward, head_dim 128\n",
                std::string(name_of(type)).c_str(), rate.forward.at(128) * 1e-9, rate.backward.at(128) * 1e-9);
  std::printf("  memory            %11.2f GB/s, an instruction %.2f us\n", profile.bandwidth * 1e-9,
              profile.launch * 1e6);
  const auto link = [](const char* name, const LinkProfile& one) {
    std::printf("  %-17s %11.2f GB/s, %.2f where sums are made, latency %.2f us\n", name, one.bandwidth * 1e-9,
                one.reducing * 1e-9, one.latency * 1e6);
  };
  link("links of a host", profile.host);
  if (profile.network) link("network", *profile.network);
}

}  // namespace

std::function<int()> add_calibrate(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("--ranks", arguments->ranks,
                 "measure with N ranks at once, threads of this process or what --transport says")
      ->check(CLI::Range(1, 4096));
  add_transport_argument(app, arguments->transport);
  app.add_option("--threads", arguments->threads, "threads of a rank (default: its share of the cores)")
      ->check(CLI::Range(1, 4096));
  app.add_option("--device", arguments->device, "cpu or cuda (default cpu)")->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("-o,--output", arguments->output, "the profile, a JSON file")->required();
  app.add_flag("--small", arguments->small, "tiny sizes, in a second: a profile of the right form and of no use")
      ->group("");
  return [arguments] {
    Experiment experiment;
    experiment.device.type = arguments->device == "cuda" ? DeviceType::cuda : DeviceType::cpu;
    return run_ranks(arguments->ranks, arguments->transport, experiment.device.type, [&](Communicator& world) {
      Experiment mine = experiment;
      if (arguments->threads) mine.training.threads = arguments->threads;
      const MachineProfile profile = calibrate(world, mine, {.small = arguments->small});
      if (world.rank() != 0) return 0;
      write_profile(profile, arguments->output);
      print_summary(profile);
      std::printf("written: %s\n", arguments->output.string().c_str());
      return 0;
    });
  };
}

}  // namespace longhaul::cli
