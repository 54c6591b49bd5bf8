// longhaul export
#include <memory>

#include "base/dtype.h"
#include "base/error.h"
#include "cli/command.h"
#include "run/checkpoint_export.h"

namespace longhaul::cli {

std::function<int()> add_export(CLI::App& app) {
  struct Arguments {
    std::filesystem::path run, folder;
    std::int64_t step = -1;
    std::string dtype;
    std::uint64_t shard = 0;
  };
  auto arguments = std::make_shared<Arguments>();
  app.add_option("run", arguments->run, "a run folder (job.folder), whose checkpoints/ are read")->required();
  app.add_option("-o,--output", arguments->folder,
                 "the folder to write: config.json, weights, tokenizer files; an earlier export in it is replaced")
      ->required();
  app.add_option("--step", arguments->step, "of the checkpoint; default: the newest that is whole")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--dtype", arguments->dtype,
                 "of the weights: float32, float64 or bfloat16; default: as the run's masters");
  app.add_option("--max-shard-size", arguments->shard,
                 "several files of at most this size and an index, as 5GB (10^9 bytes) or 4GiB; default: one file")
      ->transform(CLI::AsSizeValue(true));
  return [arguments] {
    CheckpointExport request{arguments->run, arguments->folder, std::nullopt, std::nullopt,
                             static_cast<std::int64_t>(arguments->shard)};
    if (arguments->step >= 0) request.step = arguments->step;
    if (!arguments->dtype.empty()) {
      request.dtype = parse_dtype(arguments->dtype);
      if (!request.dtype || !is_floating(*request.dtype))
        fail("--dtype {} is none of float32, float64 and bfloat16", arguments->dtype);
    }
    export_checkpoint(request);
    return 0;
  };
}

}  // namespace longhaul::cli
