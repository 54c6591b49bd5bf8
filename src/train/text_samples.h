// sample.prompts: texts that the model goes on with while it is trained.
#pragma once
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "io/file.h"
#include "run/prompt_text.h"
#include "run/session.h"
#include "run/setup.h"
#include "run/watchdog.h"

namespace longhaul {

class TextSamples {
 public:
  /// Rank 0 reads the prompts and compiles a generator once, to know that all can be done and what memory it takes
  /// besides the run's: that is there only while texts are made. Lines of samples.jsonl past `resumed_step` are moved
  /// to samples-replaced.jsonl. Collective; throws Error, on all ranks, naming the key: no tokenizer, a prompt that is
  /// no token, more tokens than a table of learned positions has, more memory than device.memory leaves.
  TextSamples(Communicator& world, const RunSetup& setup, std::int64_t arena_bytes, std::int64_t resumed_step);
  ~TextSamples();

  /// Goes on with every prompt, by the parameters that the session has; each answer goes to the log and, as a line of
  /// step, prompt, text, ids and how it ended, to samples.jsonl. In training.dtype. The same for any number of ranks as
  /// far as the parameters are. Collective.
  void take(Session& session, std::int64_t step, Watchdog& watchdog);

 private:
  Communicator& world_;
  const RunSetup& setup_;
  // Rank 0's.
  std::unique_ptr<PromptText> text_;
  std::vector<std::vector<std::int32_t>> prompts_;
  std::set<std::int32_t> ends_;
  std::int64_t capacity_ = 0;
  std::unique_ptr<LineFile> lines_;
};

}  // namespace longhaul
