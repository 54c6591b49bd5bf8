// Packed documents of uneven lengths over four ranks, as a user runs them: what each token order costs the busiest
// rank.
#include <cmath>
#include <regex>

#include "program.h"

using namespace longhaul;
using namespace longhaul::testing;

namespace {

struct Run {
  std::vector<double> imbalances, losses;
  std::string output;
};

Run train_in(const Workplace& place, const std::string& order, const std::string& split) {
  const std::string folder = (place / ("run-" + order)).string();
  const Ended ended = run_train(
      place, {"--ranks", "4", "data.files=[" + (place / "documents.jsonl").string() + "]", "data.format=jsonl",
              "data.packing={mode: documents}", "training.seq_len=256", "training.global_batch_size=auto",
              "training.dtype=float64", "training.steps=4", "checkpoint.interval=0", "parallelism.data=1",
              "parallelism.sequence=" + split, "parallelism.token_order=" + order, "job.folder=" + folder});
  check_end(ended, 0, {});
  Run run;
  run.output = ended.output;
  std::ifstream file(fs::path(folder) / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    run.losses.push_back(json.at("loss"));
    if (json.contains("attention_imbalance")) run.imbalances.push_back(json["attention_imbalance"]);
  }
  fs::remove_all(folder);
  return run;
}

}  // namespace

TEST_CASE("balanced order shares uneven documents better than zigzag and contiguous, and changes no loss",
          "[threads]") {
  const Workplace place;
  std::string text;
  std::uint32_t state = 1;
  const auto next = [&](std::uint32_t below) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
  };
  for (int document = 0; text.size() < 4000; ++document) {
    const std::uint32_t size = document % 3 == 0 ? 100 + next(150) : 1 + next(30);
    text += "{\"text\": \"";
    for (std::uint32_t i = 0; i < size; ++i) text += static_cast<char>('a' + next(26));
    text += "\"}\n";
  }
  write_file(place / "documents.jsonl", text);
  const Run balanced = train_in(place, "balanced", "{ring: 4}"), zigzag = train_in(place, "zigzag", "{ring: 4}"),
            contiguous = train_in(place, "contiguous", "{gather_kv: 4}");
  REQUIRE(balanced.imbalances.size() == 4);
  for (std::size_t step = 0; step < 4; ++step) {
    INFO("step " << step + 1 << ": balanced " << balanced.imbalances[step] << ", zigzag " << zigzag.imbalances.at(step)
                 << ", contiguous " << contiguous.imbalances.at(step));
    CHECK(balanced.imbalances[step] >= 1);
    CHECK(balanced.imbalances[step] < 1.05);
    CHECK(balanced.imbalances[step] < zigzag.imbalances[step]);
    CHECK(balanced.imbalances[step] < contiguous.imbalances[step]);
    CHECK(std::abs(balanced.losses[step] - zigzag.losses[step]) <= 1e-9 * zigzag.losses[step]);
    CHECK(std::abs(balanced.losses[step] - contiguous.losses[step]) <= 1e-9 * zigzag.losses[step]);
  }
  // The log of any of them says what the others would have given.
  std::smatch match;
  REQUIRE(std::regex_search(zigzag.output, match,
                            std::regex("attention of step 1, busiest rank / mean: ([0-9.]+) in zigzag order "
                                       "\\(balanced ([0-9.]+), contiguous ([0-9.]+)\\)")));
  CHECK(std::abs(std::stod(match[1]) - zigzag.imbalances[0]) < 1e-3);
  CHECK(std::abs(std::stod(match[2]) - balanced.imbalances[0]) < 1e-3);
  CHECK(std::abs(std::stod(match[3]) - contiguous.imbalances[0]) < 1e-3);
  // Ranks that share heads, not tokens, have nothing to balance.
  const Run heads = train_in(place, "balanced", "4");
  CHECK(heads.imbalances.empty());
  CHECK(heads.output.find("busiest rank") == std::string::npos);
  CHECK(std::abs(heads.losses[3] - zigzag.losses[3]) <= 1e-9 * zigzag.losses[3]);
}
