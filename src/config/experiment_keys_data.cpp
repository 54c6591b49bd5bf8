// The keys that say what is trained on. What their documentation says of formats comes from those that are registered.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <deque>

#include "config/data_format.h"
#include "config/key_access.h"

namespace longhaul::config {
namespace {

MapAccess packing() {
  return {{{"mode",
            [](const Experiment& e) -> std::int64_t { return e.data.packing ? static_cast<int>(*e.data.packing) : -1; },
            [](Experiment& e, std::int64_t value) {
              if (value >= 0) e.data.packing = static_cast<PackingMode>(value);
            },
            -1,
            {"documents", "best_fit"}},
           {"long",
            [](const Experiment& e) { return static_cast<std::int64_t>(e.data.long_documents); },
            [](Experiment& e, std::int64_t value) { e.data.long_documents = static_cast<LongDocuments>(value); },
            0,
            {"split", "truncate", "skip"}}},
          [](const Experiment& e) { return e.data.packing.has_value(); },
          [](Experiment& e) {
            e.data.packing.reset();
            e.data.long_documents = {};
          },
          "none",
          "",
          "{mode: best_fit, long: truncate}"};
}

ChoiceAccess data_format_choice() {
  return {[](const Experiment& e) {
            const auto& all = data_formats();
            return static_cast<int>(std::find(all.begin(), all.end(), &data_format(e.data.format)) - all.begin());
          },
          [](Experiment& e, int value) { e.data.format = data_formats()[static_cast<std::size_t>(value)]->name; }};
}

std::vector<std::string_view> data_format_names() {
  std::vector<std::string_view> names;
  for (const DataFormat* format : data_formats()) names.push_back(format->name);
  return names;
}

// What depends on the formats that are registered is put together once, and lives as long as the table of keys.
std::string_view keep(std::string text) {
  static std::deque<std::string> texts;
  return texts.emplace_back(std::move(text));
}

std::string_view format_meanings() {
  std::vector<std::string> texts;
  for (const DataFormat* format : data_formats()) texts.push_back(fmt::format("{}: {}", format->name, format->meaning));
  return keep(fmt::format("{}.", fmt::join(texts, "; ")));
}

std::string_view of_formats(fmt::format_string<const std::string&> text, const std::string& formats) {
  return keep(fmt::format(text, formats));
}

using E = Experiment;

}  // namespace

std::vector<Key> data_keys() {
  return {
      {"data", "files", member<&E::data, &E::Data::files>, "[]",
       "Training data, read in this order: files, patterns in quotes (\"shards/*.bin\") and folders, which stand for "
       "the files in "
       "them with the format's ending, sorted by name. Training needs at least one file, here or in data.sources."},
      {"data",
       "sources",
       member<&E::data, &E::Data::sources>,
       "{}",
       "In place of data.files: sources by name, of which each global batch is mixed. Of any first n samples of a run "
       "a "
       "source has given n x its weight / all weights (default 1 each), up to less than one sample, in an order "
       "without "
       "chance; within a source samples are shuffled by training.seed, and it is read again as often as its share asks "
       "for. epochs: it may be read so often, and a run that would need more is refused. files, format, mask_prompt "
       "and "
       "train_on are the source's own, where they are other than those of this section. metrics.jsonl has "
       "`loss.NAME` and `valid_tokens.NAME` of each.",
       {},
       {"files", "format", "mask_prompt", "train_on", "weight", "epochs"}},
      {"data", "format", data_format_choice(), "text", format_meanings(), {}, data_format_names()},
      {"data",
       "tokenizer",
       member<&E::data, &E::Data::tokenizer>,
       "auto",
       of_formats(
           "For data.format {}: a tokenizer.json, sentencepiece or tiktoken file, or a folder that holds one. Text "
           "becomes "
           "tokens before the first step, kept in `<job.folder>/tokens` (docs/data.md). bytes: token ids 0-255 are the "
           "bytes themselves. auto: the tokenizer beside model.config; bytes where there is none and the vocabulary "
           "has "
           "256 to 512 ids, else it is refused.",
           name_data_formats(&DataFormat::text)),
       {},
       {"auto", "bytes"}},
      {"data",
       "chat_format",
       choice<&E::data, &E::Data::chat_format>(),
       "auto",
       "How chats of JSON lines are written (docs/data.md). auto: as the chat template beside the tokenizer says.",
       {},
       {"auto", "chatml", "llama-3", "mistral", "gemma", "phi-3"}},
      {"data",
       "train_on",
       choice<&E::data, &E::Data::train_on>(),
       "assistant",
       "What of chats is learned. assistant: the assistant's turns, each with the token that ends it; last: its last "
       "turn "
       "only; all: every token.",
       {},
       {"assistant", "last", "all"}},
      {"data", "eos_token", member<&E::data, &E::Data::eos_token>, "auto",
       of_formats(
           "For data.format {}: the token id that stands between files, or after every line; -1: none does. auto: the "
           "tokenizer's; for bytes 256 when the vocabulary holds it, otherwise none. Files of tokens have their own.",
           name_data_formats(&DataFormat::text)),
       at_least(-1)},
      {"data", "validation_files", member<&E::data, &E::Data::validation_files>, "[]",
       "Validation data in the same format. Empty: no validation."},
      {"data",
       "token_bytes",
       ChoiceAccess{
           [](const Experiment& e) { return e.data.token_bytes ? static_cast<int>(*e.data.token_bytes / 2 - 1) : -1; },
           [](Experiment& e, int value) {
             e.data.token_bytes.reset();
             if (value >= 0) e.data.token_bytes = 2 * (value + 1);
           }},
       "auto",
       of_formats(
           "For data.format {}: bytes of an id, which is little-endian. auto: 2 where the vocabulary has at most "
           "65536 ids, else 4.",
           name_data_formats(&DataFormat::headerless)),
       {},
       {"2", "4"}},
      {"data", "mask_prompt", member<&E::data, &E::Data::mask_prompt>, "false",
       of_formats(
           "For data.format {}. true: tokens of a `prompt` are no labels: they are read, and not learned. Lines with a "
           "`text` have no prompt and are learned whole; data in which no line has a prompt is refused.",
           name_data_formats(&DataFormat::prompts))},
      {"data", "packing", packing(), "none",
       of_formats(
           "none: tokens of a sample attend to all before them, whatever document they are of. {{mode: documents}}: "
           "attention and positions begin anew with each document, and no label is the next document's token; needs a "
           "format that says where documents end: {}. A document that does not fit a sample is split. {{mode: "
           "best_fit}}: "
           "the same, of samples that hold whole documents: the longest first, each where it leaves least room, and "
           "padding "
           "behind them; long says what becomes of documents longer than training.seq_len: split (into pieces of it), "
           "truncate (to it) or skip.",
           name_document_formats())},
  };
}

}  // namespace longhaul::config
