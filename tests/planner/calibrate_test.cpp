// A measured profile has the right form: it is read again, predicts a run, and knows its links.
#include <catch2/catch.hpp>

#include "comm/launch.h"
#include "planner/calibrate.h"
#include "planner/measure.h"
#include "run/target.h"

using namespace longhaul;

TEST_CASE("calibrating gives every rank the same profile, which is read as it was written", "[threads]") {
  std::vector<std::string> texts(2);
  run_threads(2, [&](Communicator& world) {
    Experiment experiment;
    experiment.training.threads = 1;
    texts[static_cast<std::size_t>(world.rank())] = profile_text(calibrate(world, experiment, {.small = true}));
    return 0;
  });
  CHECK(texts[0] == texts[1]);
  const MachineProfile profile = parse_profile(texts[0], "measured.json");
  CHECK(profile_text(profile) == texts[0]);
  CHECK(profile.ranks_per_host == 2);
  CHECK_FALSE(profile.network);
  for (const DType type : {DType::float32, DType::bfloat16}) {
    REQUIRE(profile.products.contains(type));
    CHECK(profile.products.at(type).efficiency.points().size() >= 2);
    CHECK(profile.attention.at(type).forward.at(128) > 0);
  }
  CHECK(profile.host.latency > 0);
  CHECK(profile.host.bandwidth > 0);
  CHECK(profile.launch > 0);
  for (const char* op : {"rms_norm", "adamw", "rope"}) {
    INFO(op);
    CHECK(profile.op_bandwidth.contains(op));
  }
}

TEST_CASE("one rank alone has no links to measure") {
  run_threads(1, [&](Communicator& world) {
    Experiment experiment;
    experiment.training.threads = 1;
    const MachineProfile profile = calibrate(world, experiment, {.dtypes = {DType::float32}, .small = true});
    CHECK(profile.host.bandwidth == profile.bandwidth);
    CHECK(profile.host.source.find("not measured") == 0);
    CHECK(profile.products.size() == 1);
    return 0;
  });
}
