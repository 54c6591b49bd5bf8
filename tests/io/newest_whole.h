// What a resume does with a folder of checkpoints, on one rank.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/system_error.h"
#include "io/checkpoint.h"

namespace longhaul_test {

struct NewestCheckpoint {
  std::unique_ptr<longhaul::Checkpoint> checkpoint;          // null: none is whole
  std::vector<std::pair<std::string, std::string>> skipped;  // path and why, newest first
};

/// The newest whole checkpoint and those skipped, which are damaged. `contents`: also verifies all tensor bytes (else
/// only manifest and file sizes). Throws SystemError and NewerFormat: neither says that a checkpoint is damaged.
inline NewestCheckpoint newest_whole(const std::string& folder, bool contents = true) {
  using namespace longhaul;
  NewestCheckpoint result;
  for (const auto& [step, path] : list_checkpoints(folder)) {
    try {
      auto checkpoint = std::make_unique<Checkpoint>(path);
      if (checkpoint->step() != step) fail("its manifest is of step {}", checkpoint->step());
      if (contents) checkpoint->verify();
      result.checkpoint = std::move(checkpoint);
      return result;
    } catch (const SystemError&) {
      throw;
    } catch (const NewerFormat&) {
      throw;
    } catch (const Error& error) {
      result.skipped.emplace_back(path, error.what());
    }
  }
  return result;
}

}  // namespace longhaul_test
