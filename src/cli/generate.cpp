// longhaul generate
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/dtype.h"
#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "cli/command.h"
#include "run/generator.h"
#include "run/prompt_text.h"
#include "run/stored_model.h"

namespace longhaul::cli {
namespace {

struct Arguments {
  std::filesystem::path model;
  std::vector<std::string> prompts;
  std::int64_t step = -1, max_tokens = 128;
  int threads = 0;
  Sampling sampling;
  std::string dtype = "float32";
  bool ids = false, json = false;
};

// A text may say that a token is U+FFFD, or half a character: JSON strings are UTF-8.
std::string json_line(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

int run(const Arguments& arguments) {
  const auto dtype = parse_dtype(arguments.dtype);
  if (!dtype || !is_floating(*dtype)) fail("--dtype {} is none of float32, float64 and bfloat16", arguments.dtype);
  if (arguments.sampling.temperature == 0 && arguments.sampling.top_p < 1)
    fail(
        "--top-p is {}, but --temperature is 0, which always takes the likeliest token; give a temperature to draw, as "
        "--temperature 1",
        arguments.sampling.top_p);
  const StoredModel model = open_stored_model(
      arguments.model, arguments.step >= 0 ? std::optional<std::int64_t>(arguments.step) : std::nullopt);
  const PromptText text(model.folder, model.spec.vocabulary, arguments.ids);
  const std::set<std::int32_t> ends = end_tokens(model.folder, model.config_text, text.end());
  log_info(
      "prompts are read by {}; {}", text.description(),
      ends.empty() ? std::string("no token ends a text") : fmt::format("texts end at token {}", fmt::join(ends, ", ")));
  std::vector<std::vector<std::int32_t>> prompts;
  std::size_t longest = 0;
  for (const std::string& prompt : arguments.prompts) {
    prompts.push_back(text.encode(prompt));
    longest = std::max(longest, prompts.back().size());
  }
  Generator generator(model.spec, static_cast<std::int64_t>(longest) + arguments.max_tokens, *dtype,
                      arguments.threads > 0 ? arguments.threads : usable_cores());
  if (model.spec.max_positions > 0 && generator.capacity() > model.spec.max_positions)
    log_warn("prompt and new tokens come to {}, beyond the {} positions that the model was made for",
             generator.capacity(), model.spec.max_positions);
  log_info("memory: {} bytes, with room for {} tokens", generator.bytes(), generator.capacity());
  generator.set_parameters(model.source);

  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto begin = std::chrono::steady_clock::now();
    TextStream stream(text);
    const auto show = [&](std::span<const std::int32_t> tokens) {
      if (!arguments.json) print(stream.append(tokens));
    };
    show(prompts[i]);
    const std::vector<std::int32_t> made =
        generate(generator, prompts[i], arguments.max_tokens, arguments.sampling, ends, i, [&](std::int32_t token) {
          show({&token, 1});
        });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (arguments.json) {
      print(json_line({{"prompt", arguments.prompts[i]},
                       {"prompt_ids", prompts[i]},
                       {"ids", made},
                       {"text", text.decode(made)},
                       {"ended", static_cast<std::int64_t>(made.size()) < arguments.max_tokens ? "eos" : "length"},
                       {"seconds", seconds}}));
    } else {
      print(stream.finish() + "\n");
    }
    log_info("{} tokens after {} of the prompt in {:.2f} s", made.size(), prompts[i].size(), seconds);
  }
  return 0;
}

}  // namespace

std::function<int()> add_generate(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("--model", arguments->model,
                 "a Hugging Face folder, an export, or a run folder (job.folder), whose checkpoints/ are read")
      ->required();
  app.add_option(
         "--prompt", arguments->prompts,
         "text to go on with; may be given several times. Token ids, as \"1 2 3\", for a model without tokenizer")
      ->required()
      ->allow_extra_args(false);
  app.add_option("--step", arguments->step, "of a run's checkpoint; default: the newest that is whole")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--max-tokens", arguments->max_tokens, "new tokens after each prompt")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  app.add_option("--temperature", arguments->sampling.temperature,
                 "0: always the likeliest token; above: tokens are drawn, logits divided by it")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--top-p", arguments->sampling.top_p,
                 "draw from the likeliest tokens only, as few as have this much of the probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--seed", arguments->sampling.seed, "of the draws")->capture_default_str();
  app.add_option("--dtype", arguments->dtype, "to compute in: float32, bfloat16 or float64")->capture_default_str();
  app.add_option("--threads", arguments->threads, "threads (default: all cores)")->check(CLI::Range(1, 4096));
  app.add_flag("--ids", arguments->ids, "prompts are token ids and answers are printed as such");
  app.add_flag("--json", arguments->json,
               "a line of JSON for each prompt: its ids, the new ids, their text, how it ended");
  return [arguments] { return run(*arguments); };
}

}  // namespace longhaul::cli
