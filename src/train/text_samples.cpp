#include "train/text_samples.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "run/generator.h"
#include "run/parameter_pieces.h"
#include "run/text_tokens.h"
#include "train/step_lines.h"

namespace longhaul {
namespace {

// A text on one line of the log.
std::string one_line(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

TextSamples::TextSamples(Communicator& world, const RunSetup& setup, std::int64_t arena_bytes,
                         std::int64_t resumed_step)
    : world_(world), setup_(setup) {
  phase(world_, [&] {
    if (world_.rank() != 0) return;
    const Experiment::Sample& keys = setup_.experiment.sample;
    text_ = std::make_unique<PromptText>(data_tokenizer(setup_, "sample.prompts"), setup_.model.spec.vocabulary);
    ends_ = end_tokens(setup_.model.file.parent_path(), setup_.model.config_text, text_->end());
    for (const std::string& prompt : keys.prompts) {
      try {
        prompts_.push_back(text_->encode(prompt));
      } catch (const Error& error) {
        fail("sample.prompts: {}", error.what());
      }
      capacity_ = std::max(capacity_, static_cast<std::int64_t>(prompts_.back().size()) + keys.max_tokens);
    }
    try {
      const Generator tried(setup_.model.spec, capacity_, setup_.experiment.training.dtype,
                            setup_.target->options().threads);
      const std::int64_t limit = setup_.request.memory_limit;
      if (limit > 0 && arena_bytes + tried.bytes() > limit)
        fail("{} bytes on rank 0 beside the {} of a rank's buffers are more than device.memory, {} bytes",
             tried.bytes(), arena_bytes, limit);
      log_info("memory: {} bytes more on rank 0 while it goes on with sample.prompts; they are read by {}",
               tried.bytes(), text_->description());
    } catch (const Error& error) {
      fail("sample.prompts with sample.max_tokens {}: {}", keys.max_tokens, error.what());
    }
    const std::filesystem::path file = setup_.experiment.job.folder / "samples.jsonl";
    move_later_lines(file, resumed_step, "samples-replaced.jsonl");
    lines_ = std::make_unique<LineFile>(file.string());
  });
}

TextSamples::~TextSamples() = default;

void TextSamples::take(Session& session, std::int64_t step, Watchdog& watchdog) {
  watchdog.phase("sampling");
  const Experiment& experiment = setup_.experiment;
  const Experiment::Sample& keys = experiment.sample;
  std::unique_ptr<Generator> generator;
  phase(world_, [&] {
    if (world_.rank() == 0)
      generator = std::make_unique<Generator>(setup_.model.spec, capacity_, experiment.training.dtype,
                                              setup_.target->options().threads);
  });
  ParameterPieces pieces(session, setup_.model.spec);
  for (std::size_t i = 0; i < pieces.count(); ++i)
    agree(world_, pieces.for_each(i, [&](std::int64_t begin, std::int64_t end, const char* data) {
      generator->set_elements(pieces.tensor(i).name, begin, end, data, pieces.tensor(i).dtype);
    }));
  for (std::size_t i = 0; i < keys.prompts.size(); ++i)
    phase(world_, [&] {  // one each: the others hear from rank 0
      if (world_.rank() != 0) return;
      const Sampling sampling{keys.temperature, keys.top_p, static_cast<std::uint64_t>(keys.seed)};
      const std::vector<std::int32_t> made = generate(*generator, prompts_[i], keys.max_tokens, sampling, ends_, i,
                                                      [&](std::int32_t) { watchdog.phase("sampling"); });
      const std::string text = text_->decode(made);
      log_info("step {}: {} -> {}", step, one_line(keys.prompts[i]), one_line(text));
      const nlohmann::ordered_json line{
          {"step", step},
          {"prompt", keys.prompts[i]},
          {"text", text},
          {"ids", made},
          {"ended", static_cast<std::int64_t>(made.size()) < keys.max_tokens ? "eos" : "length"}};
      const std::string problem = lines_->append(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
      if (!problem.empty()) log_warn("{}; the line waits in memory", problem);
    });
  watchdog.phase(nullptr);
}

}  // namespace longhaul
