// Labels that the data leave out (datatrove .loss, prompts of jsonl) under every strategy, packed or not, held to the
// specification; and ranks that have no label at all.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "comm/launch.h"
#include "run/setup.h"
#include "run/source.h"
#include "small_experiment.h"
#include "small_models.h"
#include "verify/verify.h"

using namespace longhaul;
using namespace longhaul::testing;

namespace {

const std::vector<std::string> splits = {"4", "{ring: 4}", "{gather_kv: 4}", "{ulysses: 2, ring: 2}",
                                         "{ulysses: 2, gather_kv: 2}"};

struct Verified {
  VerificationReport report;
  double loss = 0;
  std::vector<std::int64_t> labels;  // of each rank in the first micro-batch
};

Verified verify_on(int ranks, const Experiment& experiment) {
  Verified verified;
  verified.labels.resize(static_cast<std::size_t>(ranks));
  run_threads(ranks, [&](Communicator& world) {
    const RunSetup setup = prepare_run(experiment, world.size(), Hosts::one(world.size()));
    VerificationReport mine = verify_run(world, setup, {});
    // What verify has run on, once more.
    const DataSource source = open_source(world, setup, training_groups(setup.experiment).front(), true);
    std::vector<std::int64_t> samples(static_cast<std::size_t>(setup.parallel.global_batch_size));
    DataCursor cursor;
    source.sampler->take(cursor, samples);
    const CompiledModel model = compile_model(setup.request);
    Session session(world, *setup.target, setup.request, model);
    source.fill(session, samples, 0);
    const HostBatch& batch = session.micro_batch();
    std::int64_t& labels = verified.labels[static_cast<std::size_t>(world.rank())];
    for (const std::int32_t label : batch.labels) labels += label >= 0;
    if (world.rank() != 0) return 0;
    for (const auto& row : mine.rows)
      if (row.name == "loss") verified.loss = row.norm;
    verified.report = std::move(mine);
    return 0;
  });
  return verified;
}

void check_all_splits(const SmallExperiment& small, const std::vector<std::string>& keys, std::int64_t labels,
                      const std::function<void(const Verified&, const std::string&)>& more = nullptr) {
  double loss = 0;
  for (const auto& split : splits) {
    auto all = keys;
    all.push_back("parallelism.sequence=" + split);
    const Verified verified = verify_on(4, small.load(all));
    INFO(split << "\n" << verified.report.text());
    CHECK_FALSE(verified.report.differs);
    CHECK(std::accumulate(verified.labels.begin(), verified.labels.end(), std::int64_t{0}) == labels);
    if (loss == 0) loss = verified.loss;
    CHECK(std::abs(verified.loss - loss) <= 1e-12 * loss);
    if (more) more(verified, split);
  }
}

void write(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

template <typename T>
void write(const std::filesystem::path& file, const std::vector<T>& values) {
  write(file, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
}

}  // namespace

TEST_CASE("a loss mask per token under every strategy, with and without packing", "[threads]") {
  const SmallExperiment small(small_llama());
  const std::string file = (small.folder() / "tokens.ds").string();
  // Samples of 30 labels; of every three the one at a place divisible by three is left out. Documents of 13 tokens.
  std::vector<std::uint16_t> tokens;
  std::vector<std::uint8_t> loss;
  std::vector<std::uint64_t> ends;
  for (std::uint32_t i = 0; i < 30 * 13 + 1; ++i) {
    tokens.push_back(static_cast<std::uint16_t>(philox({i, 0, 0, 9}, {5, 8})[0] % 257));
    loss.push_back(i % 3 != 0);
    if (i > 0 && i % 13 == 0) ends.push_back(i);
  }
  ends.push_back(tokens.size());
  write(file, tokens);
  write(file + ".loss", loss);
  write(file + ".index", ends);
  const std::vector<std::string> keys = {"data.format=datatrove",        "data.files=" + file,
                                         "training.seq_len=30",          "training.micro_batch_size=1",
                                         "training.global_batch_size=1", "parallelism.zero_stage=2"};
  check_all_splits(small, keys, 20);
  auto packed = keys;
  packed.push_back("data.packing={mode: documents}");
  // The first batch is one sample; its labels that begin a document are left out too, unless the mask does so already.
  const Experiment experiment = small.load(packed);
  std::int64_t labels = 0;
  run_threads(1, [&](Communicator& world) {
    const RunSetup setup = prepare_run(experiment, 1, Hosts::one(1));
    const DataSource source = open_source(world, setup, training_groups(setup.experiment).front(), true);
    std::vector<std::int64_t> samples(1);
    DataCursor cursor;
    source.sampler->take(cursor, samples);
    for (std::int64_t i = samples[0] * 30 + 1; i <= samples[0] * 30 + 30; ++i) labels += i % 3 != 0 && i % 13 != 0;
    return 0;
  });
  CHECK(labels < 20);
  check_all_splits(small, packed, labels);
}

TEST_CASE("prompts are masked under every strategy, with and without packing", "[threads][numbers]") {
  const SmallExperiment small(small_llama());
  const std::string file = (small.folder() / "pairs.jsonl").string();
  // Every line has 30 tokens: a prompt of 17, a completion of 12 and the end. Every sample of 30 labels begins at a
  // line.
  std::string text;
  for (std::uint32_t line = 0; line < 12; ++line) {
    std::string letters;
    for (std::uint32_t i = 0; i < 29; ++i) letters += static_cast<char>('a' + philox({i, line, 0, 4}, {5, 8})[0] % 26);
    text += fmt::format("{{\"prompt\": \"{}\", \"completion\": \"{}\"}}\n", letters.substr(0, 17), letters.substr(17));
  }
  write(file, text);
  const std::vector<std::string> keys = {"data.format=jsonl",   "data.files=" + file,       "data.mask_prompt=true",
                                         "training.seq_len=30", "parallelism.zero_stage=3", "parallelism.data=1"};
  for (const std::string packing : {"none", "{mode: documents}"}) {
    auto all = keys;
    all.push_back("data.packing=" + packing);
    check_all_splits(small, all, 2 * 13);
    all.push_back("parallelism.token_order=balanced");
    check_all_splits(small, all, 2 * 13);
  }
}

TEST_CASE("ranks that have no label at all, with documents packed", "[threads]") {
  const SmallExperiment small(small_llama());
  const std::string file = (small.folder() / "pairs.jsonl").string();
  // Samples of 64 labels, 4 of them left, of tokens 39, 40, 54 and 63: whatever the order, at least one rank has none.
  std::string text;
  for (std::uint32_t line = 0; line < 24; ++line) {
    std::string letters;
    const std::uint32_t length = line % 3 == 0 ? 40 : line % 3 == 1 ? 13 : 8;
    for (std::uint32_t i = 0; i < length; ++i)
      letters += static_cast<char>('a' + philox({i, line, 0, 4}, {5, 8})[0] % 26);
    // 40 + 1 + 13 + 1 + 8 + 1 = 64 tokens; only the first of the three has a completion of one letter.
    const std::size_t prompt = letters.size() - (line % 3 == 0);
    text += fmt::format("{{\"prompt\": \"{}\", \"completion\": \"{}\"}}\n", letters.substr(0, prompt),
                        letters.substr(prompt));
  }
  write(file, text);
  for (const std::string order : {"contiguous", "zigzag", "balanced"})
    check_all_splits(small,
                     {"data.format=jsonl", "data.files=" + file, "data.mask_prompt=true", "data.eos_token=256",
                      "data.packing={mode: documents}", "training.seq_len=64", "training.micro_batch_size=1",
                      "parallelism.zero_stage=3", "parallelism.token_order=" + order},
                     4, [](const Verified& verified, const std::string&) {
                       CHECK(std::count(verified.labels.begin(), verified.labels.end(), 0) >= 1);
                     });
}
