#include "run/checkpoint_export.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "io/checkpoint.h"
#include "model/huggingface.h"
#include "model/spec.h"
#include "run/checkpointing.h"
#include "run/stored_model.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

// An earlier export is replaced. A run, its checkpoints and the model that it came from are not.
void refuse_other_uses(const CheckpointExport& request, const fs::path& source) {
  const fs::path folder = fs::weakly_canonical(request.folder), run = fs::weakly_canonical(request.run);
  const auto refuse = [&](std::string_view what) {
    fail("-o {} is {}, which an export would write over; name another folder", request.folder.string(), what);
  };
  if (folder == run) refuse("the run itself");
  const fs::path inside = folder.lexically_relative(run / "checkpoints");
  if (!inside.empty() && *inside.begin() != "..") refuse("where the run's checkpoints are");
  if (!source.empty() && folder == fs::weakly_canonical(source)) refuse("the model that the run was started from");
}

}  // namespace

ExportedModel export_checkpoint(const CheckpointExport& request) {
  const Checkpoint checkpoint = open_run_checkpoint(request.run, request.step);
  const TrainerState state = trainer_state(checkpoint);
  log_info("checkpoint of step {} in {}", state.step, checkpoint.path());
  const std::string where = checkpoint.path() + ": its model";
  const TransformerSpec spec = spec_from_json(parse_json(state.model, where), where);
  ExportOptions options;
  options.dtype = request.dtype;
  options.step = state.step;
  options.max_shard_bytes = request.max_shard_bytes;
  const RunOrigin origin =
      origin_of_run(request.run, state, "the family is chosen anew, and there are no files of a tokenizer");
  options.family = origin.family;
  options.source_config = origin.config_text;
  options.source_folder = origin.folder;
  options.sequence = origin.sequence;
  refuse_other_uses(request, origin.folder);

  const std::vector<Parameter> all = parameters(spec);
  std::vector<DType> types;
  for (const Parameter& parameter : all) {
    const auto found = checkpoint.tensors().find(parameter.name);
    if (found == checkpoint.tensors().end())
      fail("{} holds no tensor {}, which its model has", checkpoint.path(), parameter.name);
    types.push_back(found->second.dtype);
  }
  ModelWriter writer(spec, request.folder, options, types.front());
  writer.open();
  std::vector<std::byte> piece;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::int64_t count = all[i].elements();
    for (std::int64_t begin = 0; begin < count; begin += ModelWriter::piece_elements) {
      const std::int64_t end = std::min(count, begin + ModelWriter::piece_elements);
      piece.resize(static_cast<std::size_t>(end - begin) * size_of(types[i]));
      checkpoint.read(all[i].name, types[i], all[i].shape, begin, end, piece.data());
      writer.write(i, begin, end, piece.data(), types[i]);
    }
  }
  return writer.finish();
}

}  // namespace longhaul
