// Validation sets by name, before the first step, and by how much context a token had: the same for any split, and what
// evaluating only those labels gives.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "../io/temporary.h"
#include "../train/small_experiment.h"
#include "../train/small_models.h"
#include "comm/launch.h"
#include "run/position_losses.h"
#include "run/setup.h"
#include "run/source.h"
#include "train/trainer.h"

using namespace longhaul;
using namespace longhaul::testing;
namespace fs = std::filesystem;

namespace {

// Lines of 5 to 44 letters, some with a prompt.
void write_lines(const fs::path& file, std::uint32_t salt) {
  std::ofstream lines(file);
  for (std::uint32_t line = 0; line < 30; ++line) {
    std::string letters;
    const std::uint32_t length = 5 + philox({line, salt, 0, 1}, {5, 8})[0] % 40;
    for (std::uint32_t i = 0; i < length; ++i)
      letters += static_cast<char>('a' + philox({i, line, salt, 2}, {5, 8})[0] % 26);
    if (line % 3 == 0)
      lines << nlohmann::json{{"prompt", letters}, {"completion", letters}}.dump() << '\n';
    else
      lines << nlohmann::json{{"text", letters}}.dump() << '\n';
  }
}

struct Sets {
  SmallExperiment small{small_llama()};
  Sets() {
    write_lines(small.folder() / "books.jsonl", 1);
    write_lines(small.folder() / "code.jsonl", 2);
  }
  Experiment load(std::vector<std::string> more = {}) const {
    more.insert(more.begin(),
                {"data.validation_files=" + (small.folder() / "text.txt").string(), "training.seq_len=24",
                 "validation.sets.books={files: " + (small.folder() / "books.jsonl").string() + ", format: jsonl}",
                 "validation.sets.code.files=" + (small.folder() / "code.jsonl").string(),
                 "validation.sets.code.format=jsonl", "validation.sets.code.mask_prompt=true",
                 "validation.at_start=true", "validation.freq=1", "job.folder=" + (small.folder() / "run").string()});
    return small.load(more);
  }
};

std::vector<nlohmann::json> metrics(const Experiment& experiment, int ranks) {
  fs::remove_all(experiment.job.folder);
  run_threads(ranks, [&](Communicator& world) { return train(world, experiment); });
  std::vector<nlohmann::json> lines;
  std::ifstream file(experiment.job.folder / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

}  // namespace

TEST_CASE("validation sets by name, from before the first step on, are the same for every split", "[threads]") {
  const Sets sets;
  const auto one = metrics(sets.load(), 1);
  REQUIRE(one.size() == 3);
  CHECK(one[0].at("step") == 0);
  CHECK_FALSE(one[0].contains("loss"));
  for (const auto& line : one)
    for (const std::string set : {"", ".books", ".code"}) {
      INFO(line.at("step") << set);
      const double loss = line.at("validation_loss" + set);
      // Buckets of 1, 2, 4, 8, 16 tokens of context on, and their mean is the set's.
      const auto& buckets = line.at("validation_loss_by_position" + set);
      REQUIRE(buckets.size() == 5);
      double sum = 0, labels = 0;
      for (std::size_t i = 0; i < buckets.size(); ++i) {
        CHECK(buckets[i].at(0) == 1 << i);
        sum += buckets[i].at(1).get<double>() * buckets[i].at(2).get<double>();
        labels += buckets[i].at(2).get<double>();
      }
      CHECK(sum / labels == Approx(loss).epsilon(1e-12));
    }
  // All of text.txt is whole samples of 24: every place of a sample once in each.
  const auto& plain = one[0].at("validation_loss_by_position");
  const std::int64_t samples = (2000 - 1) / 24;
  for (std::size_t i = 0; i < 5; ++i) CHECK(plain[i].at(2) == samples * (i < 4 ? 1 << i : 24 - 15));
  // Prompts are left out in one of the sets.
  CHECK(one[0].at("validation_loss_by_position.code").at(4).at(2) <
        one[0].at("validation_loss_by_position.books").at(4).at(2));
  CHECK(one[1].at("validation_loss.books") != one[0].at("validation_loss.books"));

  for (const auto& [split, ranks] : {std::pair<std::string, int>{"4", 4},
                                     {"{ring: 4}", 4},
                                     {"{gather_kv: 2}", 4},
                                     {"{ulysses: 2, ring: 2}", 4},
                                     {"1", 2}}) {
    INFO(split << " on " << ranks);
    const auto many = metrics(sets.load({"parallelism.sequence=" + split, "parallelism.data=auto",
                                         "training.micro_batch_size=1", "training.global_batch_size=2"}),
                              ranks);
    REQUIRE(many.size() == one.size());
    for (std::size_t line = 0; line < one.size(); ++line)
      for (const auto& [key, value] : one[line].items()) {
        if (!key.starts_with("validation")) continue;
        INFO(key << " of line " << line);
        if (value.is_number()) {
          CHECK(many[line].at(key).get<double>() == Approx(value.get<double>()).epsilon(1e-10));
          continue;
        }
        REQUIRE(many[line].at(key).size() == value.size());
        for (std::size_t i = 0; i < value.size(); ++i) {
          CHECK(many[line].at(key)[i].at(0) == value[i].at(0));
          CHECK(many[line].at(key)[i].at(1).get<double>() == Approx(value[i].at(1).get<double>()).epsilon(1e-10));
          CHECK(many[line].at(key)[i].at(2) == value[i].at(2));
        }
      }
  }
}

TEST_CASE("a bucket's loss is what evaluating its labels alone gives, with packed documents too", "[threads]") {
  const Sets sets;
  for (const std::string packing : {"none", "{mode: documents}", "{mode: best_fit}"}) {
    const Experiment experiment =
        sets.load({"data.packing=" + packing, "data.format=jsonl", "data.validation_files=[]",
                   "data.files=" + (sets.small.folder() / "books.jsonl").string(), "parallelism.sequence={ring: 2}"});
    run_threads(2, [&](Communicator& world) {
      const RunSetup setup = prepare_run(experiment, world.size(), Hosts::one(world.size()));
      const CompiledModel model = compile_model(setup.request);
      Session session(world, *setup.target, setup.request, model);
      session.set_parameters(first_parameters(setup));
      const DataSource source = open_source(world, setup, training_groups(setup.experiment).front(), true);
      std::vector<std::int64_t> samples(2);
      DataCursor cursor;
      source.sampler->take(cursor, samples);
      fill_rows(*source.loader, session, samples);
      const auto [sum, labels] = session.evaluate();
      PositionLosses positions(setup.sequence);
      positions.add(session);
      const std::vector<std::int32_t> all = session.micro_batch().labels;
      double sum_of_buckets = 0, labels_of_buckets = 0;
      for (const PositionLoss& bucket : positions.of_all(world)) {
        auto& own = session.micro_batch().labels;
        own = all;
        for (std::size_t i = 0; i < own.size(); ++i) {
          const std::int64_t context = session.micro_batch().position[i] + 1;
          if (context < bucket.first || context >= 2 * bucket.first) own[i] = ignored_label;
        }
        const auto [alone, count] = session.evaluate();
        if (world.rank() == 0) {
          INFO(packing << ", from " << bucket.first);
          CHECK(count == bucket.labels);
          CHECK(bucket.sum == Approx(alone).epsilon(1e-12));
        }
        sum_of_buckets += bucket.sum;
        labels_of_buckets += bucket.labels;
      }
      if (world.rank() == 0) {
        CHECK(labels_of_buckets == labels);
        CHECK(sum_of_buckets == Approx(sum).epsilon(1e-12));
      }
      return 0;
    });
  }
}
