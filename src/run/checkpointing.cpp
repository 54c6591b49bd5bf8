#include "run/checkpointing.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/system_error.h"
#include "comm/exchange.h"

namespace longhaul {
namespace {

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

// As optimizer.state_dtype has it too.
std::string moment_text(DType dtype) {
  return fmt::format("{}{}", name_of(dtype), dtype == DType::uint8 ? " (8bit)" : "");
}

// Moments tell which optimizer a run had, in which dtype, and which parameters it trained.
void refuse_other_optimizer(const Session& session, const Checkpoint& checkpoint) {
  std::map<std::string, DType> ours;
  for (const auto& tensor : session.state()) ours[tensor.name] = tensor.dtype;
  const auto any_here = [&](Role role) {
    return std::any_of(session.state().begin(), session.state().end(),
                       [&](const StateTensor& tensor) { return tensor.key.role == role; });
  };
  const auto any_there = [&](Role role) {
    return std::any_of(session.state().begin(), session.state().end(), [&](const StateTensor& tensor) {
      return tensor.key.role == Role::parameter &&
             checkpoint.tensors().contains(name_of(StateKey{role, tensor.key.parameter}));
    });
  };
  const auto refuse = [&](Role role, bool there) {
    fail(
        "checkpoint {} {} a {} of parameters, which this run's optimizer {}: resume with the optimizer.name (and "
        "momentum) that wrote it, or start in another job.folder with model.weights from an export",
        checkpoint.path(), there ? "holds" : "does not hold",
        role == Role::first_moment ? "first moment" : "second moment", there ? "does not have" : "has");
  };
  for (const Role role : {Role::first_moment, Role::second_moment}) {
    if (any_here(role) != any_there(role)) refuse(role, any_there(role));
    if (!any_here(role)) continue;
    for (const auto& tensor : session.state()) {
      if (tensor.key.role != Role::parameter || !checkpoint.tensors().contains(tensor.name)) continue;
      const std::string moment = name_of(StateKey{role, tensor.name});
      const auto here = ours.find(moment);
      const auto there = checkpoint.tensors().find(moment);
      const bool is_here = here != ours.end(), is_there = there != checkpoint.tensors().end();
      if (is_here != is_there && role == Role::second_moment) refuse(role, is_there);
      if (is_here != is_there)
        fail(
            "checkpoint {}: {} was {} until then, and by training.frozen it now is {}; resume with the patterns that "
            "the run had, or start in another job.folder with model.weights from an export",
            checkpoint.path(), tensor.name, is_there ? "trained" : "frozen", is_here ? "trained" : "frozen");
      if (is_here && here->second != there->second.dtype)
        fail(
            "checkpoint {}: moments are {} there and {} by optimizer.state_dtype; resume with the dtype that wrote it, "
            "or start in another job.folder with model.weights from an export",
            checkpoint.path(), moment_text(there->second.dtype), moment_text(here->second));
    }
  }
}

}  // namespace

bool is_saved(Role role) {
  return role == Role::parameter || is_moment(role);
}

std::string checkpoint_libraries(const Checkpoint& checkpoint) {
  const auto json = parse_json(checkpoint.state(), checkpoint.path() + ": the trainer's state");
  if (!json.is_object() || !json.contains("libraries") || !json["libraries"].is_string())
    fail("{}: the trainer's state is garbled: it names no libraries of matrix products", checkpoint.path());
  return json["libraries"];
}

std::string checkpoint_experiment(const Checkpoint& checkpoint) {
  const auto json = nlohmann::json::parse(checkpoint.state(), nullptr, false);
  if (!json.is_object() || !json.contains("experiment") || !json["experiment"].is_string())
    fail("{}: the trainer's state is garbled: it holds no experiment", checkpoint.path());
  return json["experiment"];
}

namespace {

TextReading text_of(const nlohmann::json& json) {
  if (!json.contains("text")) return {};
  return {json["text"].value("tokenizer", ""), json["text"].value("key", "")};
}

DataCursor cursor_of(const nlohmann::json& json) {
  DataCursor cursor{json.at("epoch"), json.at("position")};
  for (const auto& one : json.value("earlier", nlohmann::json::array()))
    cursor.earlier.push_back({one.at("sequence_length"), one.at("seed"), one.at("position")});
  return cursor;
}

}  // namespace

TextReading checkpoint_text(const Checkpoint& checkpoint) {
  return text_of(nlohmann::json::parse(checkpoint.state(), nullptr, false));
}

TrainerState trainer_state(const Checkpoint& checkpoint) {
  TrainerState state;
  const auto json = parse_json(checkpoint.state(), checkpoint.path() + ": the trainer's state");
  try {
    state.step = json.at("step");
    if (!json.contains("sources")) state.sources.push_back({.cursor = cursor_of(json.at("cursor"))});
    for (const auto& one : json.value("sources", nlohmann::json::array()))
      state.sources.push_back({one.at("name"), one.at("weight"), one.at("taken"), cursor_of(one.at("cursor"))});
    if (state.sources.empty()) fail("{}: the trainer's state is garbled: it has no sources", checkpoint.path());
    state.data_seed = json.at("data_seed");
    state.init_seed = json.at("init_seed");
    state.experiment = json.at("experiment");
    state.model = json.at("model");
    state.libraries = json.at("libraries");
    state.bad_steps = json.value("bad_steps", "");
    state.steps_without_label = json.value("steps_without_label", std::int64_t{0});
    state.text = text_of(json);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: the trainer's state is garbled: {}", checkpoint.path(), error.what());
  }
  return state;
}

TrainerState load_checkpoint(Session& session, const Checkpoint& checkpoint) {
  TrainerState state;
  phase(session.world(), [&] {
    refuse_other_optimizer(session, checkpoint);
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
    state = trainer_state(checkpoint);
  });
  return state;
}

void refuse_other_model(const TrainerState& state, const TransformerSpec& spec, const std::string& checkpoint) {
  nlohmann::json ours = spec_to_json(spec), theirs = parse_json(state.model, checkpoint + ": its model");
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
  phase(world, [&] {
    if (world.rank() == 0) finish_interrupted_replacements(folder);
  });
  phase(world, [&] { found = list_checkpoints(folder); });
  for (const auto& location : found) {
    // Only what the files hold is damage. What the system refuses, and what a newer program wrote, ends the run: else
    // it would go on from an older checkpoint, or from nothing.
    std::string damage;
    phase(world, [&] {
      try {
        const Checkpoint checkpoint(location.path);
        if (checkpoint.step() != location.step) fail("its manifest is of step {}", checkpoint.step());
        checkpoint.verify(world.rank(), world.size());
      } catch (const SystemError& error) {
        fail("checkpoint {} cannot be read now, which does not mean that it is damaged: {}; start again when it can be",
             location.path, error.what());
      } catch (const NewerFormat&) {
        throw;
      } catch (const Error& error) {
        damage = error.what();
      }
    });
    std::string first;
    for (const std::string& text : gather_texts(world, damage))
      if (first.empty()) first = text;
    if (first.empty()) return location.step;
    skipped.push_back(fmt::format("{}: {}", location.path, first));
  }
  return -1;
}

}  // namespace longhaul
