#include "run/model_writer.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint.h"
#include "io/file.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

// All files are finished here, inside the target folder (so that they can be renamed), before one is moved.
constexpr const char* temporary_name = ".export.partial";
constexpr const char* one_file = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";
constexpr const char* config_name = "config.json";

// Where the metadata of a file of weights keeps the step.
constexpr const char* step_key = "longhaul_step";

// What Hugging Face folders hold beside model and weights, by the names that transformers reads.
constexpr const char* companion_names[] = {"tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "tokenizer.model",
                                           "spiece.model",
                                           "vocab.json",
                                           "vocab.txt",
                                           "merges.txt",
                                           "generation_config.json",
                                           "chat_template.jinja",
                                           "chat_template.json"};

void convert(const char* from, DType from_type, std::int64_t count, char* to, DType to_type) {
  dispatch_floating(from_type, [&](auto from_zero) {
    dispatch_floating(to_type, [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      for (std::int64_t i = 0; i < count; ++i) {
        From value;
        std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(From), sizeof(From));
        const To converted = static_cast<To>(static_cast<accumulate_t<To>>(static_cast<accumulate_t<From>>(value)));
        std::memcpy(to + static_cast<std::size_t>(i) * sizeof(To), &converted, sizeof(To));
      }
    });
  });
}

// A model trained on longer sequences than its configuration knows says so, where that changes nothing that it
// computes: some kinds of RoPE depend on the number.
ExportedConfig config_of(const TransformerSpec& spec, const ExportOptions& options, DType stored) {
  const ExportedConfig as_is = export_config(spec, options.family, stored, options.source_config);
  if (spec.learned_positions || options.sequence <= spec.max_positions) return as_is;
  TransformerSpec longer = spec;
  longer.max_positions = options.sequence;
  const ExportedConfig changed = export_config(longer, options.family, stored, options.source_config);
  if (changed.family != as_is.family) return as_is;
  log_info("the export says {} positions, as training had, instead of {}", options.sequence, spec.max_positions);
  return changed;
}

bool is_weights(const std::string& name) {
  return name == one_file || name == index_name ||
         (name.starts_with("model-") && name.find("-of-") != std::string::npos && name.ends_with(".safetensors"));
}

}  // namespace

ModelWriter::ModelWriter(const TransformerSpec& spec, fs::path folder, const ExportOptions& options, DType masters)
    : folder_(std::move(folder)), options_(options), parameters_(parameters(spec)) {
  stored_ = options.dtype.value_or(masters);
  if (!is_floating(stored_))
    fail("a model cannot be exported as {}; use float32, float64 or bfloat16", name_of(stored_));
  config_ = config_of(spec, options, stored_);
  mappings_ = weight_mappings(spec, config_.family);
  std::vector<SafetensorsDeclaration> tensors;
  std::set<std::string> known;
  for (const WeightMapping& mapping : mappings_)
    if (known.insert(mapping.tensor).second)
      tensors.push_back({mapping.tensor, std::string(safetensors_name(stored_)), mapping.tensor_shape});
  divide(tensors);
}

ModelWriter::~ModelWriter() {
  files_.clear();
  if (!open_) return;
  std::error_code ignored;
  fs::remove_all(folder_ / temporary_name, ignored);
  if (made_folder_) fs::remove(folder_, ignored);  // only when it is empty: nothing was exported
}

// As transformers does: tensors in order, a new file when the next one would make it too large.
void ModelWriter::divide(const std::vector<SafetensorsDeclaration>& tensors) {
  std::int64_t bytes = 0;
  for (const auto& tensor : tensors) {
    const std::int64_t size = element_count(tensor.shape) * static_cast<std::int64_t>(size_of(stored_));
    const bool full = options_.max_shard_bytes > 0 && bytes > 0 && bytes + size > options_.max_shard_bytes;
    if (files_.empty() || full) {
      files_.emplace_back();
      bytes = 0;
    }
    files_.back().tensors.push_back(tensor);
    bytes += size;
    tensor_bytes_ += size;
  }
  for (std::size_t i = 0; i < files_.size(); ++i)
    files_[i].name =
        files_.size() == 1 ? one_file : fmt::format("model-{:05d}-of-{:05d}.safetensors", i + 1, files_.size());
}

ModelWriter::File& ModelWriter::file_of(const std::string& tensor) {
  for (File& file : files_)
    for (const auto& one : file.tensors)
      if (one.name == tensor) return file;
  LONGHAUL_CHECK(false, "no file for tensor {}", tensor);
}

std::string ModelWriter::index_text() const {
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = tensor_bytes_;
  std::map<std::string, std::string> places;  // by name, as transformers writes them
  for (const File& file : files_)
    for (const auto& tensor : file.tensors) places[tensor.name] = file.name;
  for (const auto& [name, file] : places) index["weight_map"][name] = file;
  return index.dump(2) + "\n";
}

void ModelWriter::open() {
  const fs::path temporary = folder_ / temporary_name;
  made_folder_ = make_folders(folder_.string());
  open_ = true;
  std::vector<std::string> names = {config_name};
  for (const File& file : files_) names.push_back(file.name);
  for (const auto& name : names)
    if (fs::exists(folder_ / name) && !fs::is_regular_file(folder_ / name))
      fail("{} is not a regular file: an export cannot replace it", (folder_ / name).string());
  fs::remove_all(temporary);  // of a run that was killed
  fs::create_directory(temporary);
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (options_.step >= 0) metadata[step_key] = std::to_string(options_.step);
  for (File& file : files_) {
    file.writer = std::make_unique<SafetensorsWriter>((temporary / file.name).string(), file.tensors, metadata);
    bytes_ += file.writer->file_bytes();
  }
  if (files_.size() > 1) write_text_atomically((temporary / index_name).string(), index_text());
  write_text_atomically((temporary / config_name).string(), config_.text);
  copy_companions();
}

void ModelWriter::copy_companions() {
  std::error_code same;
  if (options_.source_folder.empty() || fs::equivalent(options_.source_folder, folder_, same)) return;
  for (const char* name : companion_names) {
    const fs::path from = options_.source_folder / name;
    std::error_code none;
    if (!fs::is_regular_file(from, none)) continue;
    write_text_atomically((folder_ / temporary_name / name).string(),
                          longhaul::read_text(from.string(), std::int64_t{1} << 30));
    companions_.emplace_back(name);
  }
}

void ModelWriter::write(std::size_t i, std::int64_t begin, std::int64_t end, const void* data, DType type) {
  const WeightMapping& mapping = mappings_[i];
  const std::size_t size = size_of(stored_);
  converted_.resize(static_cast<std::size_t>(end - begin) * size);
  convert(static_cast<const char*>(data), type, end - begin, converted_.data(), stored_);
  if (!mapping.transposed) return write_runs(mapping, begin, end);
  if (begin == 0) transposed_.resize(static_cast<std::size_t>(mapping.elements()) * size);
  transpose(mapping, begin, end);
  if (end == mapping.elements()) write_transposed(mapping);
}

// Elements [begin, end) of a parameter that is not transposed, from converted_.
void ModelWriter::write_runs(const WeightMapping& mapping, std::int64_t begin, std::int64_t end) {
  SafetensorsWriter& writer = *file_of(mapping.tensor).writer;
  const auto size = static_cast<std::int64_t>(size_of(stored_));
  const char* from = converted_.data();
  while (begin < end) {
    const std::int64_t run = std::min(end - begin, mapping.run(begin));
    writer.write(mapping.tensor, mapping.tensor_offset(begin) * size, from, run * size);
    from += run * size;
    begin += run;
  }
}

// Our rows are the file's columns: [out, in] to [in, out].
void ModelWriter::transpose(const WeightMapping& mapping, std::int64_t begin, std::int64_t end) {
  const std::size_t size = size_of(stored_);
  const std::int64_t inputs = mapping.tensor_shape[0], outputs = mapping.elements() / inputs;
  for (std::int64_t i = begin; i < end; ++i)
    std::memcpy(transposed_.data() + static_cast<std::size_t>(i % inputs * outputs + i / inputs) * size,
                converted_.data() + static_cast<std::size_t>(i - begin) * size, size);
}

void ModelWriter::write_transposed(const WeightMapping& mapping) {
  SafetensorsWriter& writer = *file_of(mapping.tensor).writer;
  const auto size = static_cast<std::int64_t>(size_of(stored_));
  const std::int64_t inputs = mapping.tensor_shape[0], outputs = mapping.elements() / inputs;
  if (outputs == mapping.tensor_shape[1])
    return writer.write(mapping.tensor, 0, transposed_.data(), inputs * outputs * size);
  for (std::int64_t in = 0; in < inputs; ++in)  // its part of each row of a fused tensor
    writer.write(mapping.tensor, (in * mapping.tensor_shape[1] + mapping.begin) * size,
                 transposed_.data() + in * outputs * size, outputs * size);
}

ExportedModel ModelWriter::finish() {
  for (File& file : files_) file.writer->finish();
  const fs::path temporary = folder_ / temporary_name;
  std::vector<std::string> names = companions_;
  for (const File& file : files_) names.push_back(file.name);
  if (files_.size() > 1) names.emplace_back(index_name);
  names.emplace_back(config_name);
  for (const auto& name : names) fs::rename(temporary / name, folder_ / name);
  // Of an export in other pieces: readers would find two sets of weights.
  const std::set<std::string> ours(names.begin(), names.end());
  std::vector<fs::path> others;
  for (const auto& item : fs::directory_iterator(folder_))
    if (const std::string name = item.path().filename().string(); is_weights(name) && !ours.contains(name))
      others.push_back(item.path());
  for (const auto& other : others) fs::remove(other);
  flush_folder(folder_.string());
  log_info("exported the model to {} as {} ({}, {:.3f} MB{}{})", folder_.string(), config_.family, name_of(stored_),
           static_cast<double>(bytes_) * 1e-6, files_.size() > 1 ? fmt::format(" in {} files", files_.size()) : "",
           companions_.empty() ? "" : fmt::format(", with {}", fmt::join(companions_, ", ")));
  if (config_.family == own_family && !config_.why_not.empty())
    log_warn("{}: this is our own format: no Hugging Face family can express the model ({})", folder_.string(),
             config_.why_not);
  return {config_.family, bytes_, static_cast<int>(files_.size())};
}

std::int64_t exported_step(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder / one_file, ignored) && !fs::exists(folder / index_name, ignored)) return -1;
  try {
    const SafetensorsReader reader(folder.string());
    const auto stated = reader.metadata().find(step_key);
    return stated == reader.metadata().end() ? -1 : std::stoll(stated->second);
  } catch (const std::exception& error) {
    log_warn("{} is not a whole export: {}", folder.string(), error.what());
    return -1;
  }
}

}  // namespace longhaul
