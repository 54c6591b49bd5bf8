// What plan says: its memory is that of a compiled run, its alternatives are runs of their own, its longest sequence is
// the last that fits.
#include <catch2/catch.hpp>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "base/error.h"
#include "planner/plan_report.h"
#include "planner/timeline_svg.h"
#include "run/activation_choice.h"
#include "tests/cost/simple_profile.h"
#include "tests/train/small_experiment.h"
#include "tests/train/small_models.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Matchers::Contains;

namespace {

struct Place {
  Place() : small(small_llama()) {
    std::ofstream(small.folder() / "machine.json") << test::simple_profile_text;
    std::ofstream(small.folder() / "small.json") << small_memory();
  }
  // The same machine with little memory.
  static std::string small_memory(std::int64_t bytes = 4'000'000) {
    std::string text = test::simple_profile_text;
    const std::string part = "\"device_bytes\": 1e9";
    return text.replace(text.find(part), part.size(), "\"device_bytes\": " + std::to_string(bytes));
  }
  Experiment load(std::vector<std::string> more = {}) const {
    std::vector<std::string> overrides = {"training.dtype=bfloat16", "training.micro_batch_size=1",
                                          "training.seq_len=512",
                                          "device.profile=" + (small.folder() / "machine.json").string()};
    overrides.insert(overrides.end(), more.begin(), more.end());
    return small.load(overrides);
  }
  PlannedRun plan(const std::vector<std::string>& more = {}, int ranks = 2) const {
    const Experiment experiment = load(more);
    return plan_run(experiment, load_model(experiment.model.config), ranks, Hosts::target(ranks));
  }
  SmallExperiment small;
};

std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a plan is the compiled run, and its time the sum of its programs as often as they run") {
  const Place place;
  const PlannedRun run = place.plan({"training.global_batch_size=3"});
  CHECK(run.model.arena_bytes == compile_model(run.setup.request).arena_bytes);
  REQUIRE(run.time);
  CHECK(run.tokens == 3 * 512);
  const auto seconds = [&](ProgramKind kind) {
    return program_cost(*run.setup.costs, run.model.program(kind).graph).total();
  };
  CHECK(run.time->total() == Approx(3 * seconds(ProgramKind::count) + seconds(ProgramKind::accumulate_first) +
                                    seconds(ProgramKind::accumulate_middle) + seconds(ProgramKind::accumulate_last) +
                                    seconds(ProgramKind::update)));
  CHECK(run.speed() == Approx(1536 / run.time->total()));
  CHECK(run.utilisation() > 0);
  CHECK(run.utilisation() < 1);
  CHECK(host_bytes(run) == 0);
  CHECK(host_bytes(place.plan({"checkpoint.asynchronous=true"})) > 0);
  const PlannedRun unknown = place.plan({"device.profile=null"});
  CHECK_FALSE(unknown.time);
  CHECK(unknown.speed() == 0);
}

TEST_CASE(
    "a profile gives the memory that a rank may take, device.memory goes before it, and prices what is made again") {
  const Place place;
  const std::string small = "device.profile=" + (place.small.folder() / "small.json").string();
  CHECK(place.plan().setup.request.memory_limit == 1'000'000'000);
  CHECK(place.plan({"device.memory=0.5"}).setup.request.memory_limit == 1 << 29);
  const PlannedRun run = place.plan({small, "training.seq_len=4096"});
  CHECK(run.model.arena_bytes <= 4'000'000);
  REQUIRE(run.setup.activations);
  CHECK(run.setup.activations->bytes(0) > 4'000'000);
  CHECK_THAT(refusal([&] {
               place.plan({small, "training.seq_len=131072"});
             }),
             Contains("device.profile leaves a rank ") && Contains("device.memory to "));
  CHECK_THAT(refusal([&] {
               place.plan({small, "training.seq_len=131072", "activation_memory.mode=keep"});
             }),
             Contains("device.memory (auto: that of device.profile) allows 4000000"));
  // Prices are seconds: those of a layer sum up to those of its ops.
  CompileRequest request = run.setup.request;
  request.options.schedule.recompute_steps.clear();
  request.options.schedule.seconds = [](const Graph&, const Op& op) { return op.is("einsum") ? 1.0 : 0.0; };
  const std::vector<RecomputeMenu> menus = activation_menus(request);
  REQUIRE(menus.size() >= 2);
  CHECK(menus[0].price == 21);  // seven projections, forward, and two gradients of each
  for (const RecomputeStep& step : menus[0].steps) CHECK(step.price == std::floor(step.price));
  CHECK(std::count_if(menus[0].steps.begin(), menus[0].steps.end(), [](const auto& one) { return one.dear; }) > 0);
}

TEST_CASE("more memory never takes longer, less never less, and what does not fit says what would") {
  const Place place;
  const std::string small = "device.profile=" + (place.small.folder() / "small.json").string();
  const PlannedRun run = place.plan({small, "training.seq_len=4096"});
  double before = 1e30;
  std::int64_t bytes_before = 0;
  int kinds = 0;
  for (std::int64_t limit = 1'000'000; limit < 12'000'000; limit += 550'000) {
    const Outlook one = outlook(run, limit);
    CHECK(one.limit == limit);
    if (!one.bytes) {
      CHECK(bytes_before == 0);
      CHECK_THAT(one.activations, Contains("nothing fits: with all made again that can be it takes "));
      continue;
    }
    CHECK(*one.bytes <= limit);
    CHECK(*one.bytes >= bytes_before);
    REQUIRE(one.seconds);
    CHECK(*one.seconds <= before * (1 + 1e-12));
    kinds += *one.seconds != before;
    before = *one.seconds;
    bytes_before = *one.bytes;
  }
  CHECK(kinds > 3);
  CHECK(outlook(run, 4'000'000).seconds == run.time->total());
}

TEST_CASE("other ways are runs of their own, the best first, and those that cannot be say why") {
  const Place place;
  const PlannedRun run = place.plan({}, 4);
  const std::vector<OtherRun> others = other_runs(run);
  const auto find = [&](const std::string& name) {
    const auto found = std::find_if(others.begin(), others.end(), [&](const auto& one) { return one.name == name; });
    INFO(name);
    REQUIRE(found != others.end());
    return *found;
  };
  const OtherRun sharded = find("parallelism.zero_stage=3");
  CHECK(sharded.bytes == place.plan({"parallelism.zero_stage=3"}, 4).model.arena_bytes);
  CHECK(*sharded.seconds_per_token == Approx(1 / place.plan({"parallelism.zero_stage=3"}, 4).speed()));
  CHECK(find("parallelism.sequence={ring: 4}").bytes ==
        place.plan({"parallelism.sequence={ring: 4}"}, 4).model.arena_bytes);
  for (std::size_t i = 1; i < others.size(); ++i)
    if (others[i].seconds_per_token && others[i].verdict.starts_with("fits"))
      CHECK(*others[i].seconds_per_token >= *others[i - 1].seconds_per_token);
  // Keys that are given stay.
  const PlannedRun pinned = place.plan({"parallelism.zero_stage=1", "parallelism.sequence={ulysses: 4}"}, 4);
  CHECK(other_runs(pinned).empty());
  // Nothing fits but this: three quarters of what keeping all takes, in a plan of many.
  const std::string small = "device.profile=" + (place.small.folder() / "small.json").string();
  const auto tight = other_runs(place.plan({small, "training.seq_len=8192"}, 4));
  CHECK(std::any_of(tight.begin(), tight.end(), [](const auto& one) {
    return one.verdict.starts_with("does not fit: ") || one.verdict.starts_with("refused: ");
  }));
}

TEST_CASE("the longest sequence is the last that fits") {
  const Place place;
  const std::string small = "device.profile=" + (place.small.folder() / "small.json").string();
  const Experiment experiment = place.load({small});
  const LoadedModel model = load_model(experiment.model.config);
  for (const LayerPolicy policy :
       {LayerPolicy::chosen, LayerPolicy::keep, LayerPolicy::all_but_attention, LayerPolicy::nothing}) {
    const LongestSequence longest = longest_sequence(experiment, model, 2, Hosts::target(2), policy);
    INFO(static_cast<int>(policy) << ": " << longest.stopped_by);
    REQUIRE(longest.tokens > 0);
    CHECK(longest.step == 1024);
    CHECK(longest.tokens % 1024 == 0);
    CHECK(longest.bytes <= longest.limit);
    CHECK(longest.compilations < 30);
    const auto bytes = [&](std::int64_t tokens) {
      Experiment one = experiment;
      one.training.seq_len = tokens;
      RunSetup setup = place_run(one, model, 2, Hosts::target(2));
      const bool fits = apply_policy(setup, policy);
      setup.request.memory_limit = 0;
      return std::pair(fits, compile_model(setup.request).arena_bytes);
    };
    CHECK(bytes(longest.tokens).first);
    CHECK(bytes(longest.tokens).second <= longest.limit);
    CHECK(bytes(longest.tokens + 1024).second > longest.limit);
    CHECK_THAT(longest.stopped_by, Contains(std::to_string(longest.tokens + 1024) + " tokens would take ") &&
                                       Contains("more than there are; accumulate_only at instruction "));
  }
  CHECK_THAT(refusal([&] { longest_sequence(place.load({"device.profile=null"}), model, 2, Hosts::target(2)); }),
             Contains("nothing says how much there is: give device.memory in GiB, or device.profile (or --cluster)"));
}

TEST_CASE("compared runs stand beside the plan, and a rule that cannot be says so") {
  const Place place;
  const std::string small = "device.profile=" + (place.small.folder() / "small.json").string();
  const Experiment experiment = place.load({small, "training.seq_len=2048"});
  const auto rows = compare_runs(experiment, load_model(experiment.model.config), 2, Hosts::target(2));
  REQUIRE(rows.size() == 6);
  const auto& keep = rows[2];
  const auto& again = rows[3];
  const auto& autosp = rows[4];
  const auto& ours = rows[5];
  CHECK(keep.name == "Ulysses, keeping all");
  CHECK(*keep.bytes > *autosp.bytes);
  CHECK(*autosp.bytes >= *again.bytes);
  CHECK(ours.fits);
  CHECK(ours.longest >= again.longest);
  CHECK(again.longest >= autosp.longest);
  CHECK(autosp.longest > keep.longest);
  CHECK(*rows[0].bytes > *keep.bytes);  // a whole sequence on each rank
  // Four heads do not divide over eight ranks.
  const auto eight = compare_runs(experiment, load_model(experiment.model.config), 8, Hosts::target(8));
  CHECK_THAT(eight[2].refusal, Contains("query heads"));
}

TEST_CASE("the timeline's peak is the plan's, and its picture is one of well-formed elements") {
  const Place place;
  const PlannedRun run = place.plan({"parallelism.zero_stage=2"});
  const MemoryTimeline timeline = memory_timeline(run.model);
  const MemoryPeak peak = memory_peak(run.model);
  CHECK(timeline.peak_bytes + peak.gaps == run.model.arena_bytes);
  CHECK(timeline.live[timeline.peak] == peak.bytes);
  REQUIRE(timeline.programs.size() == 3);
  CHECK(timeline.programs[1].name == "accumulate_only");
  CHECK(timeline.programs[1].backward > timeline.programs[1].begin);
  CHECK(timeline.programs[1].backward < timeline.programs[1].end);
  CHECK(timeline.live.size() == timeline.programs.back().end);
  const std::string svg = timeline_svg(timeline, "a <b> & \"c\"", run.setup.request.memory_limit);
  CHECK(svg.starts_with("<svg "));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK_THAT(svg, Contains("a &lt;b&gt; &amp; &quot;c&quot;") && Contains("peak: ") && Contains("saved activations") &&
                      Contains("accumulate_only") && Contains("backward") && Contains("that a rank may take"));
  CHECK_THAT(svg, !Contains("nan") && !Contains("inf"));
  // As many ends as beginnings.
  std::size_t opened = 0, closed = 0, alone = 0;
  for (std::size_t at = 0; (at = svg.find('<', at)) != std::string::npos; ++at) {
    if (svg[at + 1] == '/') {
      ++closed;
    } else {
      ++opened;
      alone += svg[svg.find('>', at) - 1] == '/';
    }
  }
  CHECK(opened == closed + alone);
}

TEST_CASE("the report as text says what is exact, what is predicted, and what limits; as JSON the same numbers") {
  const Place place;
  const std::string small = "device.profile=" + (place.small.folder() / "small.json").string();
  const Experiment experiment = place.load({small, "training.seq_len=4096"});
  const LoadedModel model = load_model(experiment.model.config);
  PlanReport report{"my.yaml", plan_run(experiment, model, 2, Hosts::target(2)), {}, {}, {}, {}};
  report.outlooks = outlooks_beside(report.run);
  report.others = other_runs(report.run);
  report.longest = longest_sequence(experiment, model, 2, Hosts::target(2));
  const std::string text = plan_text(report);
  CHECK_THAT(text, Contains("plan of my.yaml for 2 ranks, 2 on a host: 4096 tokens a sequence") &&
                       Contains(fmt::format("memory of a rank, exact: {} bytes", report.run.model.arena_bytes)) &&
                       Contains("predicted by round and not measured") && Contains("what limits it") &&
                       Contains("10 GB more (10004000000 bytes)") && Contains("longest sequence that fits: ") &&
                       Contains("parallelism.zero_stage=3"));
  const auto json = nlohmann::json::parse(plan_json(report));
  CHECK(json["memory"]["bytes"] == report.run.model.arena_bytes);
  CHECK(json["memory"]["limit"] == 4'000'000);
  std::int64_t sum = json["memory"]["gaps"];
  for (const auto& [name, bytes] : json["memory"]["categories"].items()) sum += bytes.get<std::int64_t>();
  CHECK(sum == report.run.model.arena_bytes);
  CHECK(json["predicted"]["seconds"].get<double>() == report.run.time->total());
  CHECK(json["other_limits"].size() == 1);  // less than 10 GB are no limit
  CHECK(json["others"].size() == report.others.size());
  CHECK(json["longest_sequence"]["tokens"] == report.longest->tokens);
  CHECK(json["activations"]["plan"].get<std::size_t>() > 0);
  // Nothing known of the machine: said so, and null.
  const Experiment bare = place.load({"device.profile=null"});
  const PlanReport unknown{"my.yaml", plan_run(bare, model, 2, Hosts::target(2)), {}, {}, {}, {}};
  CHECK_THAT(plan_text(unknown), Contains("time: not predicted"));
  CHECK(nlohmann::json::parse(plan_json(unknown))["predicted"].is_null());
  CHECK(nlohmann::json::parse(plan_json(unknown))["memory"]["limit"].is_null());
}

TEST_CASE("planning 80 layers on 64 ranks at a million tokens takes less than two seconds, overlap one more",
          "[.timing]") {
  const std::string source = environment("LONGHAUL_SOURCE");
  for (const auto& [overlap, seconds] : {std::pair{"off", 2}, {"auto", 3}}) {
    INFO("parallelism.overlap " << overlap);
    const Experiment experiment =
        load_experiment(source + "/configs/plan.yaml",
                        {"model.config=" + source + "/configs/models/llama-3.1-70b.json", "training.seq_len=1048576",
                         "parallelism.zero_stage=3", "device.profile=" + source + "/configs/clusters/h100-80gb.json",
                         std::string("parallelism.overlap=") + overlap});
    const std::clock_t begin = std::clock();  // CPU time: what a neighbour cannot take away
    const PlannedRun run = plan_run(experiment, load_model(experiment.model.config), 64, Hosts::target(8));
    CHECK(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC < seconds);
    CHECK(run.model.arena_bytes <= 80'000'000'000);
    CHECK(run.setup.activations->plans() > 500);
  }
}
