// verify accepts what is right, refuses every planted fault, and --locate names the place.
#include "verify/verify.h"

#include <fmt/ranges.h>

#include <catch2/catch.hpp>
#include <mutex>

#include "base/error.h"
#include "comm/launch.h"
#include "run/setup.h"
#include "small_experiment.h"
#include "small_models.h"
#include "verify/faults.h"
#include "verify/locate.h"

using namespace longhaul;
using namespace longhaul::testing;

namespace {

VerificationReport verify_on(int ranks, const Experiment& experiment, const std::string& fault = "",
                             VerificationOptions options = {}, const std::vector<MeshAxis>& axes = {},
                             TokenOrder order = TokenOrder::contiguous, std::int64_t tile_rows = row_block) {
  VerificationReport report;
  options.fault = fault;
  run_threads(ranks, [&](Communicator& world) {
    RunSetup setup = prepare_run(experiment, world.size(), Hosts::one(world.size()));
    setup.request.options.placement.token_order = order;
    setup.request.options.schedule.tile_rows = tile_rows;
    if (!axes.empty()) setup.request.mesh = Mesh(axes);
    VerificationReport mine = verify_run(world, setup, options);
    if (world.rank() == 0) report = std::move(mine);
    return 0;
  });
  return report;
}

const std::vector<std::string> two_by_two = {"parallelism.data=2", "parallelism.sequence=2"};

std::vector<std::string> with(std::vector<std::string> list, const std::vector<std::string>& more) {
  list.insert(list.end(), more.begin(), more.end());
  return list;
}

}  // namespace

TEST_CASE("runs without a fault are verified", "[threads][numbers]") {
  for (const auto& spec : {small_llama(), small_gpt2()}) {
    const SmallExperiment small(spec);
    for (const std::string dtype : {"float64", "float32", "bfloat16"})
      for (const std::string stage : {"0", "1", "3"})
        for (const std::string batch : {"4", "12"}) {
          INFO(dtype << " zero " << stage << " batch " << batch);
          const VerificationReport report =
              verify_on(4, small.load(with(two_by_two, {"training.dtype=" + dtype, "parallelism.zero_stage=" + stage,
                                                        "training.global_batch_size=" + batch})));
          INFO(report.text());
          CHECK_FALSE(report.differs);
          CHECK(report.rows.size() > 10);
          CHECK(report.text().find("\nverified: ") != std::string::npos);
        }
  }
}

#ifdef LONGHAUL_WITH_OPENBLAS
TEST_CASE("verify multiplies matrices with the libraries that training would", "[threads]") {
  const SmallExperiment small(small_llama());
  const std::vector<std::string> keys = with(two_by_two, {"training.matmul=openblas"});
  const Experiment experiment = small.load(with(keys, {"training.dtype=float32"}));
  std::vector<std::string> libraries(4);
  run_threads(4, [&](Communicator& world) {
    const RunSetup setup = prepare_run(experiment, world.size(), Hosts::one(world.size()));
    LONGHAUL_CHECK(setup.target->libraries() == "{}", "{}", setup.target->libraries());
    const VerificationReport report = verify_run(world, setup, {});
    LONGHAUL_CHECK(!report.differs, "{}", report.text());
    libraries[static_cast<std::size_t>(world.rank())] = setup.target->libraries();
    return 0;
  });
  for (const std::string& text : libraries) {
    CHECK(text.find("openblas") != std::string::npos);
    CHECK(text.find("onednn") == std::string::npos);
    CHECK(text.find("reference") == std::string::npos);
  }
  CHECK_THROWS_WITH(verify_on(4, small.load(with(keys, {"training.dtype=bfloat16"}))),
                    Catch::Contains("training.matmul is openblas") && Catch::Contains("bfloat16"));
}
#endif

TEST_CASE("gradients in a coarser dtype than activations are verified", "[threads][numbers]") {
  const SmallExperiment small(small_llama());
  for (const std::string dtype : {"float32", "bfloat16"})
    for (const std::string accumulated : {"float32", "bfloat16"})
      for (const std::string reduced : {"float32", "bfloat16"})
        for (const std::string group : {"2", "auto"}) {
          INFO(dtype << " " << accumulated << " " << reduced << " groups of " << group);
          const VerificationReport report = verify_on(
              4, small.load(with(two_by_two, {"training.dtype=" + dtype, "training.gradient_dtype=" + accumulated,
                                              "training.gradient_reduce_dtype=" + reduced, "parallelism.zero_stage=2",
                                              "parallelism.shard_group=" + group, "training.global_batch_size=8"})));
          INFO(report.text());
          CHECK_FALSE(report.differs);
        }
  const Experiment coarse =
      small.load(with(two_by_two, {"training.dtype=float32", "training.gradient_reduce_dtype=bfloat16",
                                   "parallelism.zero_stage=2", "parallelism.shard_group=2"}));
  for (const std::string fault : {"groups_apart", "differentiate", "averaged_gradient"})
    CHECK(verify_on(4, coarse, fault).differs);
}

TEST_CASE("a sequence that is padded, and one rank alone, are verified", "[threads]") {
  const SmallExperiment small(small_llama());
  CHECK_FALSE(verify_on(4, small.load({"training.seq_len=15", "parallelism.sequence=4"})).differs);
  CHECK_FALSE(verify_on(1, small.load()).differs);
  CHECK_FALSE(verify_on(1, small.load({"training.dtype=float32"})).differs);
}

TEST_CASE("shard groups and kept parameters are verified, and searched", "[threads]") {
  const SmallExperiment small(small_gpt2());
  for (const std::string group : {"1", "2", "auto"})
    for (const std::string kept : {"backward", "step", "auto"}) {
      INFO(group << " " << kept);
      const Experiment experiment =
          small.load(with(two_by_two, {"parallelism.zero_stage=3", "parallelism.shard_group=" + group,
                                       "parallelism.keep_gathered=" + kept, "training.global_batch_size=12"}));
      const VerificationReport report = verify_on(4, experiment);
      INFO(report.text());
      CHECK_FALSE(report.differs);
      if (kept == "auto") continue;
      const VerificationReport wrong = verify_on(4, experiment, "differentiate", {.locate = true});
      REQUIRE(wrong.location.size() == 1);
      CHECK(wrong.location[0].find("pass differentiate ") != std::string::npos);
    }
}

TEST_CASE("memory decides what keep_gathered auto is, and what is refused") {
  const SmallExperiment small(small_llama());
  const std::vector<std::string> base = {"parallelism.data=2", "parallelism.sequence=2", "parallelism.zero_stage=3"};
  const auto chosen = [&](const std::vector<std::string>& more, std::int64_t memory) {
    Hosts hosts = Hosts::one(4);
    CHECK(hosts.memory > 1 << 20);
    hosts.memory = memory;
    return prepare_run(small.load(with(base, more)), 4, hosts);
  };
  const std::string several = "training.global_batch_size=12";
  RunSetup kept = chosen({several}, std::int64_t{1} << 30);
  CHECK(kept.request.options.schedule.keep_gathered == KeepGathered::step);
  const std::int64_t needed = compile_model(kept.request).arena_bytes;
  // To the byte, and said.
  CHECK(chosen({several}, needed).request.options.schedule.keep_gathered == KeepGathered::step);
  const RunSetup short_of_it = chosen({several}, needed - 1);
  CHECK(short_of_it.request.options.schedule.keep_gathered == KeepGathered::never);
  CHECK(std::any_of(short_of_it.decisions.begin(), short_of_it.decisions.end(), [](const std::string& text) {
    return text.starts_with("parallelism.keep_gathered auto: never") && text.find("device.memory") != std::string::npos;
  }));
  const std::int64_t less = compile_model(short_of_it.request).arena_bytes;
  CHECK(less < needed);
  CHECK(chosen({}, needed).request.options.schedule.keep_gathered == KeepGathered::never);  // one micro-batch
  CHECK(chosen({several, "parallelism.zero_stage=2"}, needed).request.options.schedule.keep_gathered ==
        KeepGathered::never);
  // The key decides before the host does, and refuses what is beyond it.
  const auto gib = [](std::int64_t bytes) {
    return fmt::format("device.memory={:.12f}", static_cast<double>(bytes) / (1 << 30));
  };
  const RunSetup between = chosen({several, gib((needed + less) / 2)}, std::int64_t{1} << 40);
  CHECK(between.request.options.schedule.keep_gathered == KeepGathered::never);
  CHECK_NOTHROW(compile_model(between.request));
  CHECK_THROWS_WITH(
      compile_model(
          chosen({several, "parallelism.keep_gathered=step", gib((needed + less) / 2)}, std::int64_t{1} << 40).request),
      Catch::Contains("device.memory leaves a rank") &&
          Catch::Contains(fmt::format("memory of a rank: {} bytes", needed)) && Catch::Contains("at the peak"));
}

TEST_CASE("rings and zigzag order are verified, and searched", "[threads]") {
  const SmallExperiment small(small_llama());
  const Experiment experiment = small.load({"parallelism.data=1", "parallelism.sequence=4"});
  for (const TokenOrder order : {TokenOrder::contiguous, TokenOrder::zigzag}) {
    const std::vector<MeshAxis> axes = {{"dp", 1}, {"ring", 2}, {"ulysses", 2}};
    const VerificationReport right = verify_on(4, experiment, "", {}, axes, order);
    INFO(right.text());
    CHECK_FALSE(right.differs);
    const VerificationReport wrong = verify_on(4, experiment, "lower_reshards", {.locate = true}, axes, order);
    INFO(wrong.text());
    CHECK(wrong.differs);
    REQUIRE(wrong.location.size() == 1);
    CHECK(wrong.location[0].find("= slice(") != std::string::npos);
  }
}

TEST_CASE("every split that an experiment can ask for is verified, packed documents or not", "[threads]") {
  const SmallExperiment small(small_llama());
  std::vector<std::string> names;
  for (const int size : {7, 12, 3, 10, 9, 14, 6, 11, 1, 13, 8, 5}) {  // every sample has ends inside
    names.push_back((small.folder() / fmt::format("document{}.txt", size)).string());
    std::string text;
    for (int i = 0; i < size; ++i) text += static_cast<char>('a' + (i * i + 5 * size) % 26);
    std::ofstream(names.back()) << text;
  }
  const std::vector<std::string> base = {fmt::format("data.files=[{}]", fmt::join(names, ", ")), "training.seq_len=15"};
  const auto loss = [](const VerificationReport& report) {
    for (const auto& row : report.rows)
      if (row.name == "loss") return row.norm;
    return 0.0;
  };
  for (const std::string split : {"4", "{ring: 4}", "{gather_kv: 4}", "{ulysses: 2, ring: 2}",
                                  "{ulysses: 2, gather_kv: 2}", "{ring: 2}", "auto"}) {
    std::vector<double> losses;
    for (const std::string packing : {"none", "{mode: documents}"}) {
      INFO(split << " " << packing);
      const VerificationReport report =
          verify_on(4, small.load(with(base, {"parallelism.sequence=" + split, "data.packing=" + packing,
                                              "parallelism.zero_stage=" + std::string(split == "4" ? "2" : "3")})));
      INFO(report.text());
      CHECK_FALSE(report.differs);
      losses.push_back(loss(report));
    }
    CHECK(std::abs(losses[0] - losses[1]) > 1e-3 * losses[0]);  // documents that do not see each other are another task
  }
  // Windows by themselves, of other head counts.
  TransformerSpec mixed = small_llama();
  mixed.layers = {{1, small_layer(6, 2, 8, 16)}, {1, small_layer(4, 2, 4, 16)}};
  mixed.layers[0].layer.attention.window = 4;
  const SmallExperiment windows(mixed);
  for (const auto& [split, window] : {std::pair<std::string, std::string>{"4", "{gather_kv: 4}"},
                                      {"{ulysses: 2, ring: 2}", "{ring: 4}"},
                                      {"{ring: 4}", "{gather_kv: 4}"},
                                      {"auto", "{ring: 4}"}}) {
    INFO(split << " " << window);
    const VerificationReport report =
        verify_on(4, windows.load(with(base, {"parallelism.sequence=" + split, "parallelism.window_layers=" + window,
                                              "data.packing.mode=documents"})));
    INFO(report.text());
    CHECK_FALSE(report.differs);
  }
  // The order of the buffers is not that of the sequence: locating must know it.
  const Experiment ring = small.load(with(base, {"parallelism.sequence={ring: 4}", "data.packing.mode=documents"}));
  const VerificationReport differentiated = verify_on(4, ring, "differentiate", {.locate = true});
  REQUIRE(differentiated.location.size() == 1);
  CHECK(differentiated.location[0].find("pass differentiate ") != std::string::npos);
  const VerificationReport shifted = verify_on(4, ring, "wrong_boundary_mask", {.locate = true});
  REQUIRE(shifted.location.size() == 1);
  CHECK(shifted.location[0].find("input key_start") != std::string::npos);
}

TEST_CASE("packing of data without document ends is refused", "[threads]") {
  const SmallExperiment small(small_llama());
  std::vector<std::int32_t> file(256 + 200, 1);
  file[0] = 20240801;
  file[1] = 7;
  file[2] = 200;
  std::ofstream(small.folder() / "tokens.bin", std::ios::binary)
      .write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size() * 4));
  const std::vector<std::string> keys = {"data.format=llmc", "data.files=" + (small.folder() / "tokens.bin").string()};
  CHECK_FALSE(verify_on(1, small.load(keys)).differs);
  CHECK_THROWS_WITH(verify_on(1, small.load(with(keys, {"data.packing.mode=documents"}))),
                    Catch::Contains("data.packing") && Catch::Contains("where documents end"));
}

TEST_CASE("every planted fault is refused, and --locate names its place", "[threads][numbers]") {
  TransformerSpec spec = small_llama();
  spec.layers = {{2, small_layer(4, 1, 8, 24)}};  // one KV head, which two ranks share
  TransformerSpec reaching = small_llama();
  reaching.layers[0].layer.attention.window = 5;
  const SmallExperiment small(spec), window(reaching);
  std::vector<std::string> documents;
  for (const int size : {7, 12, 3, 10, 9, 14, 6, 11, 5, 13, 8, 5}) {
    documents.push_back((small.folder() / fmt::format("document{}.txt", documents.size())).string());
    std::ofstream(documents.back()) << std::string(static_cast<std::size_t>(size), 'a');
  }
  // What the location must say; a fault of the ranks' communication is an op, one of the graph's meaning is its pass.
  const std::map<std::string, std::string> expected = {
      {"shard_state", "= all_reduce("},
      {"lower_reshards", "= slice("},
      {"schedule", "pass schedule"},
      {"plan_memory", "the memory plan or the executor"},
      {"host_buffer", "the memory plan or the executor"},
      {"averaged_gradient", "pass lower_reshards"},
      {"norm_of_own_shard", "update: op #"},
      {"groups_apart", "= slice("},
      {"kv_gradient", "pass partition"},
      {"lost_accumulation", "pass partition"},
      {"momentum", "pass optimizer"},
      {"unclipped", "pass optimizer"},
      {"muon_rows", "pass optimizer"},
      {"rounded_moments", "pass assign_precision"},
      {"exchanged_moments", "pass assign_precision"},
      {"adamw_gradient", "pass partition"},
      {"muon_update", "pass partition"},
      {"dropped_boundary_label", "input labels"},
      {"wrong_boundary_mask", "input key_start"},
      {"counted_padding", "input labels"},
      {"document_boundary", "input key_start"},
  };
  // What a fault needs to have a place.
  const std::map<std::string, std::vector<std::string>> keys = {
      {"momentum", {"optimizer.name=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true"}},
      {"unclipped", {"training.max_norm=1e-3"}},
      {"exchanged_moments", {"training.dtype=bfloat16", "optimizer.state_dtype=bfloat16", "parallelism.zero_stage=1"}},
      {"adamw_gradient", {"parallelism.zero_stage=2"}},
      {"muon_rows", {"optimizer.name=muon"}},
      {"muon_update", {"optimizer.name=muon", "parallelism.zero_stage=2"}},
      {"expand_ring", {"parallelism.data=2", "parallelism.sequence={ring: 2}"}},
      {"expand_window", {"parallelism.data=2", "parallelism.sequence={ring: 2}"}},
      {"recompute", {"activation_memory.mode=recompute"}},
      {"offload", {"activation_memory.mode=keep", "activation_memory.offload=on"}},
      {"host_buffer", {"activation_memory.mode=keep", "activation_memory.offload=on"}},
      {"overlap", {"parallelism.zero_stage=3", "parallelism.keep_gathered=backward", "parallelism.overlap=on"}},
      {"tile_mlp", {"activation_memory.mode=recompute", "training.micro_batch_size=1"}},
      {"chunk_heads", {"activation_memory.mode=recompute"}},
      {"keep_gathered",
       {"parallelism.zero_stage=3", "parallelism.keep_gathered=step", "training.global_batch_size=12"}},
      {"groups_apart", {"parallelism.zero_stage=2", "parallelism.shard_group=2"}},
      {"lost_accumulation", {"parallelism.zero_stage=2", "training.global_batch_size=12"}},
      {"counted_padding", {"training.seq_len=15"}},
      {"document_boundary",
       {fmt::format("data.files=[{}]", fmt::join(documents, ", ")), "data.packing.mode=documents"}},
  };
  for (const Fault& fault : faults()) {
    const std::string name(fault.name);
    INFO(name);
    const auto more = keys.find(name);
    const std::vector<std::string> own = more == keys.end() ? two_by_two : with(two_by_two, more->second);
    const Experiment experiment = (name == "expand_window" ? window : small).load(own);
    const auto verified = [&](const std::string& planted, const VerificationOptions& options) {
      return verify_on(4, experiment, planted, options, {}, TokenOrder::contiguous, name == "tile_mlp" ? 2 : row_block);
    };
    const VerificationReport report = verified(name, {.locate = true});
    INFO(report.text());
    CHECK(report.differs);
    const auto known = expected.find(name);
    const std::string place = known == expected.end() ? "pass " + name + " " : known->second;
    REQUIRE(report.location.size() == 1);
    CHECK(report.location[0].find(place) != std::string::npos);
    CHECK_FALSE(verified("", {}).differs);
  }
}

TEST_CASE("there is a fault for every pass", "[threads]") {
  for (const Pass& pass : pipeline()) {
    INFO(pass.name);
    CHECK(std::any_of(faults().begin(), faults().end(), [&](const Fault& fault) { return fault.name == pass.name; }));
  }
  CHECK_THROWS_WITH(find_fault("no_such_fault"),
                    Catch::Contains("no_such_fault") && Catch::Contains("averaged_gradient"));
}

TEST_CASE("faults are refused in low precision too", "[threads]") {
  const SmallExperiment small(small_llama());
  for (const std::string name : {"differentiate", "lower_reshards", "averaged_gradient", "dropped_boundary_label",
                                 "wrong_boundary_mask", "norm_of_own_shard"}) {
    INFO(name);
    CHECK(verify_on(4, small.load(with(two_by_two, {"training.dtype=float32"})), name).differs);
  }
}

TEST_CASE("a reference run that would take hours is refused") {
  const SmallExperiment small(small_llama());
  std::ofstream(small.folder() / "text.txt") << std::string(300000, 'x');
  const Experiment experiment = small.load({"training.seq_len=64", "training.global_batch_size=4000000"});
  CHECK_THROWS_WITH(verify_on(1, experiment), Catch::Contains("--force") && Catch::Contains("global_batch_size"));
}

TEST_CASE("gather_value lays parts together", "[threads]") {
  Graph graph;
  graph.mesh = Mesh({{"a", 2}, {"b", 2}});
  const ValueId split = graph.add_value("split", {4, 3}, DType::float64);
  graph[split].layout.dimensions = {{{0}, 1}, {{1}, 0}};  // rotated rows; the second chunk of columns is padded
  const ValueId sum = graph.add_value("sum", {2}, DType::float64);
  graph[sum].layout.partial = 1;  // over a; copies over b
  run_threads(4, [&](Communicator& world) {
    const int a = world.rank() / 2, b = world.rank() % 2;
    HostTensor part(TensorType{{2, 2}, DType::float64});
    for (std::int64_t i = 0; i < 4; ++i) {
      const std::int64_t row = (a == 1 ? 0 : 2) + i / 2, column = 2 * b + i % 2;
      part.set(i, column < 3 ? static_cast<double>(row * 3 + column) : 99);
    }
    bool differ = false;
    const auto whole = gather_value(world, graph, split, part, differ);
    std::vector<double> wanted(12);
    for (std::size_t i = 0; i < 12; ++i) wanted[i] = static_cast<double>(i);
    // Catch2's assertions are not for several threads.
    if (whole != wanted || differ) fail("split: wrong");
    HostTensor addend(TensorType{{2}, DType::float64});
    addend.set(0, a + 1);
    addend.set(1, b);
    const auto total = gather_value(world, graph, sum, addend, differ);
    if (total[0] != 3 || !differ) fail("sum: {} {}", total[0], differ);
    return 0;
  });
}
