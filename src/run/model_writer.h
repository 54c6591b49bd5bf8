// A model folder as Hugging Face transformers loads it, written parameter by parameter in pieces: what exports of a
// live run (weights.h) and of a checkpoint (checkpoint_export.h) share.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "io/safetensors.h"
#include "model/huggingface.h"
#include "model/parameters.h"
#include "model/spec.h"

namespace longhaul {

struct ExportOptions {
  std::string family = {};          ///< the family to write when it can express the spec: the one that was loaded
  std::string source_config = {};   ///< the JSON text that the model was loaded from, for its token ids; empty: none
  std::optional<DType> dtype = {};  ///< of the written tensors (a floating type); none: the masters' own
  std::int64_t step = -1;           ///< finished steps, kept in the files' metadata for exported_step(); -1: not stated
  std::int64_t max_shard_bytes = 0;  ///< a file of weights grows no larger, but for a tensor that alone is; 0: one file
  /// The tokenizer's files, generation_config.json and chat templates of this folder are copied; empty: none are.
  std::filesystem::path source_folder = {};
  std::int64_t sequence = 0;  ///< tokens of the run's sequences: max_position_embeddings is not less; 0: as it is
};

struct ExportedModel {
  std::string family;      ///< own_family when no Hugging Face family can express the spec
  std::int64_t bytes = 0;  ///< of the files of weights
  int files = 1;           ///< of weights
};

class ModelWriter {
 public:
  /// Decides family, names and files, and touches no disk: every rank may know them. `masters`: the dtype of what
  /// will be written. Throws Error for a dtype that no file holds.
  ModelWriter(const TransformerSpec& spec, std::filesystem::path folder, const ExportOptions& options, DType masters);
  /// Without finish() the folder is as it was.
  ~ModelWriter();
  ModelWriter(const ModelWriter&) = delete;

  /// The spec's, in its order: write() counts in it.
  const std::vector<Parameter>& all() const { return parameters_; }
  DType stored() const { return stored_; }
  const std::string& family() const { return config_.family; }

  /// Makes every file, at its full size so that a full disk is noticed before anything is read or sent, under temporary
  /// names in the folder (made when missing). Throws Error.
  void open();
  /// Elements [begin, end) of parameter i, in `type`. In order, each once, when the file stores it transposed.
  void write(std::size_t i, std::int64_t begin, std::int64_t end, const void* data, DType type);
  /// Flushes everything, and only then replaces what an earlier export left: weights, index and config; other files
  /// stay. Logs where the model went, and why when it is written as our own family. Throws Error.
  ExportedModel finish();

  /// Elements that a caller may hold at once: 4 MiB of float64.
  static constexpr std::int64_t piece_elements = 1 << 19;

 private:
  struct File {
    std::string name;
    std::vector<SafetensorsDeclaration> tensors;
    std::unique_ptr<SafetensorsWriter> writer;
  };
  void divide(const std::vector<SafetensorsDeclaration>& tensors);
  File& file_of(const std::string& tensor);
  std::string index_text() const;
  void copy_companions();
  void write_runs(const WeightMapping& mapping, std::int64_t begin, std::int64_t end);
  void transpose(const WeightMapping& mapping, std::int64_t begin, std::int64_t end);
  void write_transposed(const WeightMapping& mapping);

  const std::filesystem::path folder_;
  const ExportOptions options_;
  std::vector<Parameter> parameters_;
  DType stored_ = DType::float32;
  ExportedConfig config_;
  std::vector<WeightMapping> mappings_;
  std::vector<File> files_;
  std::vector<std::string> companions_;  // files that are copied
  std::vector<char> converted_, transposed_;
  std::int64_t bytes_ = 0, tensor_bytes_ = 0;
  bool made_folder_ = false, open_ = false;
};

/// The step that the export in `folder` was made at; -1 when there is no whole export or it does not say.
std::int64_t exported_step(const std::filesystem::path& folder);

}  // namespace longhaul
