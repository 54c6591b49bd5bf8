// Whatever decides numbers and differs between two ranks is refused by name, on whichever rank it is.
#include "run/agreement.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "../train/small_experiment.h"
#include "../train/small_models.h"
#include "base/error.h"
#include "base/host.h"
#include "comm/launch.h"
#include "tests/cost/simple_profile.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Matchers::Contains;

namespace {

// What two ranks end with when each does its own part; "" when they agree.
std::string outcome(const std::function<void(Communicator&)>& body, int ranks = 2) {
  try {
    run_threads(ranks, [&](Communicator& world) {
      body(world);
      return 0;
    });
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Another value for every key that is no path. A new key must be added here, and is thereby shown to be compared.
const std::map<std::string, std::string> other_values = {
    {"model.init_seed", "1"},
    {"model.rope", "{type: linear, factor: 2}"},
    {"model.max_position_embeddings", "4096"},
    {"model.vocab_size", "300"},
    {"data.format", "jsonl"},
    {"data.tokenizer", "bytes"},
    {"data.chat_format", "gemma"},
    {"data.train_on", "last"},
    {"data.eos_token", "3"},
    {"data.mask_prompt", "true"},
    {"data.packing", "{mode: documents}"},
    {"data.sources", ""},  // beside data.files refused: a test of its own
    {"data.token_bytes", "4"},
    {"training.seq_len", "8"},
    {"training.micro_batch_size", "1"},
    {"training.global_batch_size", "8"},
    {"training.steps", "3"},
    {"training.max_norm", "0.5"},
    {"training.seed", "7"},
    {"training.dtype", "float32"},
    {"training.gradient_dtype", "float64"},
    {"training.gradient_reduce_dtype", "float64"},
    {"training.threads", "2"},
    {"training.matmul", "openblas"},
    {"training.deterministic", "false"},
    {"training.time_limit", "5"},
    {"training.max_bad_steps", "2"},
    {"training.outlier_sigmas", "3.5"},
    {"training.frozen", "[\"head.*\"]"},
    {"optimizer.name", "sgd"},
    {"optimizer.momentum", "0.5"},
    {"optimizer.nesterov", "true"},
    {"optimizer.state_dtype", "bfloat16"},
    {"optimizer.lr", "2e-2"},
    {"optimizer.betas", "[0.8, 0.9]"},
    {"optimizer.eps", "1e-7"},
    {"optimizer.weight_decay", "0.2"},
    {"optimizer.weight_decay_exclude", "[]"},
    {"lr_scheduler.warmup_steps", "1"},
    {"lr_scheduler.decay_type", "linear"},
    {"lr_scheduler.decay_ratio", "0.5"},
    {"lr_scheduler.min_lr_factor", "0.1"},
    {"parallelism.data", "2"},
    {"parallelism.sequence", "2"},
    {"parallelism.window_layers", "{gather_kv: 2}"},
    {"parallelism.token_order", "zigzag"},
    {"parallelism.zero_stage", "2"},
    {"parallelism.shard_group", "2"},
    {"parallelism.keep_gathered", "step"},
    {"parallelism.bucket_size", "1"},
    {"parallelism.overlap", "on"},
    {"activation_memory.mode", "recompute"},
    {"activation_memory.budget", "1e12"},
    {"activation_memory.offload", "on"},
    {"checkpoint.interval", "7"},
    {"checkpoint.minutes", "3"},
    {"checkpoint.keep_latest_k", "3"},
    {"checkpoint.asynchronous", "true"},
    {"checkpoint.max_failures", "5"},
    {"checkpoint.resume", "off"},
    {"checkpoint.verify_replicas", "2"},
    {"checkpoint.verify_steps", "2"},
    {"metrics.log_freq", "3"},
    {"metrics.tensorboard", "true"},
    {"sample.prompts", "[\"once\"]"},
    {"sample.interval", "3"},
    {"sample.max_tokens", "7"},
    {"sample.temperature", "0.5"},
    {"sample.top_p", "0.5"},
    {"sample.seed", "5"},
    {"export.interval", "3"},
    {"export.keep_latest_k", "3"},
    {"export.dtype", "bfloat16"},
    {"export.max_shard_size", "4096"},
    {"validation.freq", "3"},
    {"validation.steps", "3"},
    {"validation.at_start", "true"},
    {"validation.sets", ""},  // as printed it has paths, as compared none: below
    {"distributed.timeout", "17"},
    {"distributed.different_cpus", "true"},
    {"device.type", "cuda"},
    {"device.collectives", "staged"},
    {"device.timeout", "7"},
    {"device.graphs", "true"},
    {"device.memory", "3"},
    {"device.host_memory", "3"},
};

}  // namespace

TEST_CASE("every key that is no path is compared, and a rank that has another value is refused by its name") {
  const SmallExperiment small(small_llama());
  const Experiment base = small.load();
  CHECK(outcome([&](Communicator& world) { check_facts(world, given_facts(base)); }, 3) == "");
  for (const auto& [key, value] : values_without_paths(base)) {
    if (key == "job.name") continue;
    INFO(key);
    REQUIRE(other_values.contains(key));
    const std::string other = other_values.at(key);
    if (other.empty()) continue;
    std::vector<std::string> overrides = {key + "=" + other}, common;
    if (key == "data.mask_prompt" || key == "data.chat_format" || key == "data.train_on")
      common = {"data.format=jsonl"};  // elsewhere they are refused
    if (key == "sample.interval") common = {"sample.prompts=[once]"};
    if (key == "sample.top_p") common = {"sample.temperature=1"};
    if (key == "optimizer.momentum") common = {"optimizer.name=sgd"};
    if (key == "optimizer.nesterov") common = {"optimizer.name=sgd", "optimizer.momentum=0.9"};
    if (key == "optimizer.state_dtype") common = {"training.dtype=float32"};
    if (key == "data.token_bytes") common = {"data.format=raw"};
    if (key == "device.graphs" || key == "device.collectives") common = {"device.type=emulator"};
    overrides.insert(overrides.end(), common.begin(), common.end());
    const Experiment first_rank = small.load(common), changed = small.load(overrides);
    const std::string refused = outcome(
        [&](Communicator& world) { check_facts(world, given_facts(world.rank() == 1 ? changed : first_rank)); }, 3);
    CHECK_THAT(refused, Contains("rank 1: on host " + host_name()) && Contains("rank 0 on host") &&
                            Contains(key + " is " + value_of(changed, key) + " here, but " + value_of(base, key) +
                                     " on rank 0"));
  }
}

TEST_CASE("a source's weight and the names of validation sets are compared") {
  const SmallExperiment small(small_llama());
  const auto with = [&](const char* weight) {
    return small.load(
        {"data.files=[]", fmt::format("data.sources={{web: {{files: [text.txt], weight: {}}}}}", weight)});
  };
  const Experiment one = with("1"), other = with("2");
  const std::string refused =
      outcome([&](Communicator& world) { check_facts(world, given_facts(world.rank() == 1 ? other : one)); }, 3);
  CHECK_THAT(refused, Contains("rank 1: on host " + host_name()) && Contains("data.sources"));
  const Experiment none = small.load(), set = small.load({"validation.sets={books: {files: [text.txt]}}"});
  CHECK_THAT(outcome([&](Communicator& world) { check_facts(world, given_facts(world.rank() == 1 ? set : none)); }, 3),
             Contains("validation.sets is {\"books\": {}} here, but {} on rank 0"));
}

TEST_CASE("facts that only one side has, and the lowest rank that differs") {
  const Facts base = {{"a", "1"}, {"b", "2"}};
  const auto refused = [&](const Facts& other, int rank) {
    return outcome([&](Communicator& world) { check_facts(world, world.rank() == rank ? other : base); }, 4);
  };
  CHECK_THAT(refused({{"a", "1"}}, 2), Contains("rank 2: ") && Contains("b is not there, but 2 on rank 0"));
  CHECK_THAT(refused({{"a", "1"}, {"b", "2"}, {"c", "3"}}, 3), Contains("rank 3: ") && Contains("c is 3 here"));
  CHECK_THAT(refused({{"a", "0"}, {"b", "0"}}, 0), Contains("rank 1: ") && Contains("a is 1 here, but 0 on rank 0"));
  CHECK_THAT(outcome(
                 [](Communicator& world) {
                   check_facts(world, {{"x", std::to_string(world.rank() / 2)}});
                 },
                 4),
             Contains("rank 2: "));
}

TEST_CASE("ranks that were given other profiles of the machine are refused; other paths to the same numbers are not") {
  const SmallExperiment one(small_llama()), two(small_llama());
  const auto write = [](const SmallExperiment& own, const std::string& memory) {
    std::string text = test::simple_profile_text;
    const std::string part = "\"device_bytes\": 1e9";
    std::ofstream(own.folder() / "machine.json") << text.replace(text.find(part), part.size(), memory);
  };
  const auto prepared = [&] {
    return outcome([&](Communicator& world) {
      const SmallExperiment& own = world.rank() == 1 ? two : one;
      prepare_agreed_run(
          world, own.load({"training.dtype=float32", "device.profile=" + (own.folder() / "machine.json").string()}));
    });
  };
  write(one, "\"device_bytes\": 1e9");
  write(two, "\"device_bytes\":   1000000000");
  CHECK(prepared() == "");
  write(two, "\"device_bytes\": 2e9");
  CHECK_THAT(prepared(),
             Contains("rank 1: ") && Contains("device.profile is round, contents ") && Contains(" on rank 0"));
}

TEST_CASE("other models and other files are refused; other paths to the same bytes are not") {
  const SmallExperiment one(small_llama()), two(small_llama());
  // `files`: what data.files names in each rank's own folder; empty: as the experiment says.
  const auto prepared = [&](const std::string& files) {
    return outcome([&](Communicator& world) {
      const SmallExperiment& own = world.rank() == 1 ? two : one;
      std::vector<std::string> overrides;
      if (!files.empty()) overrides.push_back("data.files=[\"" + (own.folder() / files).string() + "\"]");
      const Experiment experiment = own.load(overrides);
      const RunSetup setup = prepare_agreed_run(world, experiment);
      check_facts(world, file_facts(setup));
    });
  };
  CHECK(prepared("") == "");
  const auto model = two.folder() / "model.json";
  const auto text = two.folder() / "text.txt";
  const auto read = [](const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(stream), {}};
  };
  const auto write = [](const std::filesystem::path& file, const std::string& bytes) {
    std::ofstream(file, std::ios::binary) << bytes;
  };
  const std::string model_text = read(model), bytes = read(text);
  // A number that no shape depends on.
  std::string changed = model_text;
  const std::size_t theta = changed.find("\"theta\"");
  REQUIRE(theta != std::string::npos);
  changed.insert(changed.find(':', theta) + 2, "1");
  write(model, changed);
  CHECK_THAT(prepared(""), Contains("model.config, /") && Contains("theta"));
  write(model, model_text);
  // As long, and one byte of it another.
  changed = bytes;
  changed[1000] = changed[1000] == 'a' ? 'b' : 'a';
  write(text, changed);
  CHECK_THAT(prepared(""), Contains("the contents of file 1 of 1 of data.files"));
  write(text, bytes + "x");
  CHECK_THAT(prepared(""), Contains("the size of file 1 of 1 of data.files is 2001 here, but 2000 on rank 0"));
  write(text, bytes);
  CHECK(prepared("") == "");
  // A pattern and a folder stand for the files that are read.
  write(one.folder() / "more.txt", bytes);
  for (const std::string named : {"*.txt", "."}) {
    std::filesystem::remove(two.folder() / "more.txt");
    CHECK_THAT(prepared(named), Contains("number of files of data.files is 1 here, but 2 on rank 0"));
    write(two.folder() / "more.txt", bytes.substr(0, 1999) + "!");
    CHECK_THAT(prepared(named), Contains("the contents of file 1 of 2 of data.files"));
    write(two.folder() / "more.txt", bytes);
    CHECK(prepared(named) == "");
  }
}

TEST_CASE("a sampled hash sees the ends, the size and what it samples, and reads small files whole") {
  const SmallExperiment small(small_llama());
  const std::string file = (small.folder() / "data").string();
  const auto hash_of = [&](const std::string& bytes, int blocks) {
    std::ofstream(file, std::ios::binary) << bytes;
    return sampled_hash(file, blocks);
  };
  const std::string large(1 << 20, 'x');
  const auto with = [&](std::size_t at) {
    std::string changed = large;
    changed[at] = 'y';
    return changed;
  };
  const std::string base = hash_of(large, 8);
  CHECK(hash_of(large, 8) == base);
  CHECK(hash_of(large + "x", 8) != base);
  CHECK(hash_of(with(0), 8) != base);
  CHECK(hash_of(with(large.size() - 1), 8) != base);
  CHECK(hash_of(with(large.size() / 7 + 10), 8) != base);  // the second of eight pieces
  // Read whole: any byte.
  const std::string whole = hash_of(large, 256);
  for (std::size_t at = 77; at < large.size(); at += 100003) CHECK(hash_of(with(at), 256) != whole);
  CHECK(hash_of("", 8) != hash_of("x", 8));
  CHECK_THROWS_WITH(sampled_hash(file + ".not", 8), Contains(".not"));
}
