// longhaul generate: from a run, its export and a folder; how text is read, where it ends, what is refused.
#include <sstream>

#include "program.h"

using namespace longhaul::testing;

namespace {

Ended run_generate(const Workplace& place, const std::vector<std::string>& arguments) {
  auto command = longhaul_command({"generate"});
  command.insert(command.end(), arguments.begin(), arguments.end());
  return Program(place / "log", command).wait();
}

// The lines of --json.
std::vector<nlohmann::json> answers(const Ended& ended) {
  INFO(ended.output);
  CHECK(ended.code == 0);
  std::vector<nlohmann::json> lines;
  std::istringstream stream(ended.output);
  for (std::string line; std::getline(stream, line);)
    if (line.starts_with("{")) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

}  // namespace

TEST_CASE("a run's checkpoint, its export and the text of both go on in the same way", "[threads]") {
  const Workplace place;
  const std::string run = (place / "run").string();
  // Three repeated letters: twelve steps learn them.
  std::string text;
  for (int i = 0; i < 4000; ++i) text += "abc";
  write_file(place / "text.txt", text);
  check_end(run_train(place, {"--ranks", "2", "parallelism.zero_stage=3", "training.steps=60", "optimizer.lr=2e-2",
                              "checkpoint.interval=30", "job.folder=" + run}),
            0, {"exported the model"});

  const auto of_run = answers(run_generate(
      place, {"--model", run, "--prompt", "abcab", "--prompt", "bcabcabca", "--max-tokens", "12", "--json"}));
  REQUIRE(of_run.size() == 2);
  CHECK(of_run[0]["text"] == "cabcabcabcab");
  CHECK(of_run[1]["text"] == "bcabcabcabca");
  CHECK(of_run[0]["prompt_ids"] == nlohmann::json::parse("[97, 98, 99, 97, 98]"));
  CHECK(of_run[0]["ended"] == "length");
  const auto of_export = answers(run_generate(place, {"--model", run + "/export", "--prompt", "abcab", "--prompt",
                                                      "bcabcabca", "--max-tokens", "12", "--json"}));
  REQUIRE(of_export.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) CHECK(of_export[i]["ids"] == of_run[i]["ids"]);
  check_end(run_generate(place, {"--model", run, "--step", "30", "--prompt", "abc", "--max-tokens", "3"}), 0,
            {"checkpoint of step 30", "bytes (there is no tokenizer", "abc"});

  // Draws: the same of the same seed, others of another.
  const auto drawn = [&](const char* seed) {
    return answers(run_generate(place, {"--model", run, "--prompt", "a", "--max-tokens", "40", "--temperature", "3",
                                        "--seed", seed, "--json"}))[0]["ids"];
  };
  CHECK(drawn("1") == drawn("1"));
  CHECK(drawn("1") != drawn("2"));

  // It ends where the files say: in generation_config.json before config.json, one token or several.
  write_file(place / "run/export/generation_config.json", R"({"eos_token_id": [99, 7]})");
  const auto ends = answers(run_generate(
      place, {"--model", run + "/export", "--prompt", "abca", "--max-tokens", "12", "--json", "--dtype", "bfloat16"}));
  CHECK(ends[0]["text"] == "b");
  CHECK(ends[0]["ended"] == "eos");
  write_file(place / "run/export/generation_config.json", R"({"eos_token_id": "c"})");
  check_end(run_generate(place, {"--model", run + "/export", "--prompt", "a"}), 1,
            {"generation_config.json: eos_token_id is \"c\""});

  check_end(run_generate(place, {"--model", run, "--step", "31", "--prompt", "a"}), 1,
            {"has no checkpoint of step 31; there are those of steps 30, 60"});
  check_end(run_generate(place, {"--model", run + "/export", "--step", "30", "--prompt", "a"}), 1,
            {"a step is of a run's checkpoints"});
  check_end(run_generate(place, {"--model", run, "--prompt", ""}), 1, {"the prompt '' is no token"});
  check_end(run_generate(place, {"--model", run, "--prompt", "1 300", "--ids"}), 1,
            {"token 300, which is outside the model's vocabulary of 257"});
  check_end(run_generate(place, {"--model", run, "--prompt", "abc", "--ids"}), 1, {"'abc' is not token ids"});
  check_end(run_generate(place, {"--model", run, "--prompt", "a", "--top-p", "0.5"}), 1,
            {"--top-p is 0.5, but --temperature is 0"});
  check_end(run_generate(place, {"--model", run, "--prompt", "a", "--dtype", "int32"}), 1,
            {"--dtype int32 is none of"});
}
