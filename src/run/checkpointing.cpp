#include "run/checkpointing.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"

namespace longhaul {
namespace {

bool is_saved(Role role) {
  return role == Role::parameter || is_moment(role);
}

// A checkpoint of a larger model holds all that a smaller one asks for; it is another model's all the same.
void refuse_other_tensors(const Session& session, const Checkpoint& checkpoint) {
  std::set<std::string_view> ours;
  for (const auto& tensor : session.state())
    if (is_saved(tensor.key.role)) ours.insert(tensor.name);
  for (const auto& [name, tensor] : checkpoint.tensors())
    if (!ours.contains(name))
      fail("checkpoint {}: tensor '{}', {} [{}], is none of this run's model; resume with the model that wrote it",
           checkpoint.path(), name, name_of(tensor.dtype), fmt::join(tensor.shape, ", "));
}

}  // namespace

void save_checkpoint(Session& session, CheckpointStore& store, const TrainerState& state) {
  Communicator& world = session.world();
  try {
    phase(world, [&] {
      if (world.rank() == 0) store.begin(state.step);
    });
    std::string fragment;
    phase(world, [&] {
      std::vector<ShardEntry> entries;
      for (const auto& tensor : session.state()) {
        // Of equal copies the first rank's is written.
        if (!is_saved(tensor.key.role) || tensor.begin == tensor.end || tensor.copy != 0) continue;
        ShardEntry entry{tensor.name, tensor.dtype, tensor.shape, {{tensor.begin, tensor.end}}};
        if (session.in_host_memory(tensor)) {
          std::vector<std::byte> unused;
          entry.data = session.elements(tensor, tensor.begin, tensor.end, unused).data();
        } else {
          entry.read = [&](std::int64_t byte, std::span<std::byte> to) {
            session.read(tensor, tensor.begin + byte / static_cast<std::int64_t>(size_of(tensor.dtype)), to);
          };
        }
        entries.push_back(std::move(entry));
      }
      fragment = store.write_shard(state.step, world.rank(), entries);
    });
    const std::vector<std::string> fragments = gather_texts(world, fragment);
    phase(world, [&] {
      if (world.rank() != 0) return;
      nlohmann::ordered_json json;
      json["step"] = state.step;
      json["cursor"] = {{"epoch", state.cursor.epoch}, {"position", state.cursor.position}};
      json["data_seed"] = state.data_seed;
      json["init_seed"] = state.init_seed;
      json["experiment"] = state.experiment;
      json["model"] = state.model;
      json["libraries"] = state.libraries;
      store.commit(state.step, fragments, json.dump());
    });
  } catch (...) {
    // Whoever failed: what was written so far only fills the disk.
    if (world.rank() == 0) store.abandon(state.step);
    throw;
  }
}

std::string checkpoint_libraries(const Checkpoint& checkpoint) {
  const auto json = nlohmann::json::parse(checkpoint.state(), nullptr, false);
  if (!json.is_object() || !json.contains("libraries") || !json["libraries"].is_string())
    fail("{}: the trainer's state is garbled: it names no libraries of matrix products", checkpoint.path());
  return json["libraries"];
}

TrainerState load_checkpoint(Session& session, const Checkpoint& checkpoint) {
  TrainerState state;
  phase(session.world(), [&] {
    for (const auto& tensor : session.state())
      if (is_saved(tensor.key.role))
        session.fill_elements(tensor, [&](std::int64_t begin, std::int64_t end, void* target) {
          checkpoint.read(tensor.name, tensor.dtype, tensor.shape, begin, end, target);
        });
    refuse_other_tensors(session, checkpoint);
    session.refresh_compute_copies(
        [&](const std::string& name, std::int64_t begin, std::int64_t end, DType dtype, void* target) {
          checkpoint.read(name, dtype, session.state(name).shape, begin, end, target);
        });
    const auto json = nlohmann::json::parse(checkpoint.state(), nullptr, false);
    if (json.is_discarded()) fail("{}: the trainer's state is garbled", checkpoint.path());
    try {
      state.step = json.at("step");
      state.cursor.epoch = json.at("cursor").at("epoch");
      state.cursor.position = json.at("cursor").at("position");
      state.data_seed = json.at("data_seed");
      state.init_seed = json.at("init_seed");
      state.experiment = json.at("experiment");
      state.model = json.at("model");
      state.libraries = json.at("libraries");
    } catch (const nlohmann::json::exception& error) {
      fail("{}: the trainer's state is garbled: {}", checkpoint.path(), error.what());
    }
  });
  return state;
}

void refuse_other_model(const TrainerState& state, const TransformerSpec& spec, const std::string& checkpoint) {
  nlohmann::json ours = spec_to_json(spec), theirs = nlohmann::json::parse(state.model, nullptr, false);
  if (theirs.is_discarded()) fail("checkpoint {}: its model is garbled", checkpoint);
  for (nlohmann::json* one : {&ours, &theirs}) {
    one->erase("initializer_range");
    if (!spec.learned_positions) one->erase("max_positions");
  }
  const nlohmann::json changes = nlohmann::json::diff(theirs, ours);
  if (changes.empty()) return;
  const nlohmann::json::json_pointer place(changes[0].at("path").get<std::string>());
  const auto value = [&](const nlohmann::json& model) {
    return model.contains(place) ? model.at(place).dump() : std::string("not there");
  };
  fail(
      "checkpoint {} is of another model: of its spec {} is {}, but {} in model.config; resume with the model that "
      "wrote "
      "it, or start in another job.folder with model.weights",
      checkpoint, place.to_string(), value(theirs), value(ours));
}

std::int64_t newest_valid_step(Communicator& world, const std::string& folder, std::vector<std::string>& skipped) {
  std::vector<CheckpointLocation> found;
  phase(world, [&] { found = list_checkpoints(folder); });
  for (const auto& location : found) {
    std::string problem;
    try {
      const Checkpoint checkpoint(location.path);
      if (checkpoint.step() != location.step) fail("its manifest is of step {}", checkpoint.step());
      checkpoint.verify(world.rank(), world.size());
    } catch (const Error& error) {
      problem = error.what();
    }
    std::string first;
    for (const std::string& text : gather_texts(world, problem))
      if (first.empty()) first = text;
    if (first.empty()) return location.step;
    skipped.push_back(fmt::format("{}: {}", location.path, first));
  }
  return -1;
}

}  // namespace longhaul
