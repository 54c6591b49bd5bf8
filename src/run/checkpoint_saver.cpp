#include "run/checkpoint_saver.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "base/error.h"
#include "base/system_error.h"
#include "comm/exchange.h"

namespace longhaul {
namespace {

// This rank's part of the state, where it lies. Of equal copies the first rank's is written.
std::vector<ShardEntry> saved_entries(Session& session) {
  std::vector<ShardEntry> entries;
  for (const auto& tensor : session.state()) {
    if (!is_saved(tensor.key.role) || tensor.begin == tensor.end || tensor.copy != 0) continue;
    ShardEntry entry{tensor.name, tensor.dtype, tensor.shape, {{tensor.begin, tensor.end}}};
    if (session.in_host_memory(tensor)) {
      std::vector<std::byte> unused;
      entry.data = session.elements(tensor, tensor.begin, tensor.end, unused).data();
    } else {
      entry.read = [&session, &tensor](std::int64_t byte, std::span<std::byte> to) {
        session.read(tensor, tensor.begin + byte / static_cast<std::int64_t>(size_of(tensor.dtype)), to);
      };
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::size_t bytes_of(const ShardEntry& entry) {
  std::int64_t elements = 0;
  for (const auto& range : entry.ranges) elements += range.end - range.begin;
  return static_cast<std::size_t>(elements) * size_of(entry.dtype);
}

nlohmann::ordered_json cursor_json(const DataCursor& cursor) {
  nlohmann::ordered_json json = {{"epoch", cursor.epoch}, {"position", cursor.position}};
  for (const EarlierSamples& one : cursor.earlier)
    json["earlier"].push_back(
        {{"sequence_length", one.sequence_length}, {"seed", one.seed}, {"position", one.position}});
  return json;
}

std::string state_text(const TrainerState& state) {
  nlohmann::ordered_json json;
  json["step"] = state.step;
  if (state.sources.empty())
    json["cursor"] = cursor_json({});
  else if (state.sources.size() == 1 && state.sources[0].name.empty())
    json["cursor"] = cursor_json(state.sources[0].cursor);
  else
    for (const SourceCursor& one : state.sources)
      json["sources"].push_back(
          {{"name", one.name}, {"weight", one.weight}, {"taken", one.taken}, {"cursor", cursor_json(one.cursor)}});
  json["data_seed"] = state.data_seed;
  json["init_seed"] = state.init_seed;
  json["experiment"] = state.experiment;
  json["model"] = state.model;
  json["libraries"] = state.libraries;
  if (!state.bad_steps.empty()) json["bad_steps"] = state.bad_steps;
  if (state.steps_without_label > 0) json["steps_without_label"] = state.steps_without_label;
  if (!state.text.key.empty()) json["text"] = {{"tokenizer", state.text.tokenizer}, {"key", state.text.key}};
  return json.dump();
}

// The first rank's reason, on every rank.
std::string first_of(Communicator& world, const std::string& refused) {
  const std::vector<std::string> all = gather_texts(world, refused);
  for (std::size_t rank = 0; rank < all.size(); ++rank)
    if (!all[rank].empty()) return fmt::format("rank {}: {}", rank, all[rank]);
  return "";
}

// A rank's part of a save. A disk that refuses may have room again later, and every rank learns of it alike; other
// failures are thrown on all of them.
template <typename Function>
std::string part_of_save(Communicator& world, Function&& function) {
  std::string refused;
  phase(world, [&] {
    try {
      function();
    } catch (const SystemError& error) {
      refused = error.what();
    }
  });
  return first_of(world, refused);
}

std::string begin(Communicator& world, CheckpointStore& store, std::int64_t step) {
  return part_of_save(world, [&] {
    if (world.rank() == 0) store.begin(step);
  });
}

std::string commit(Communicator& world, CheckpointStore& store, std::int64_t step, const std::string& fragment,
                   const std::string& state) {
  const std::vector<std::string> fragments = gather_texts(world, fragment);
  return part_of_save(world, [&] {
    if (world.rank() == 0) store.commit(step, fragments, state);
  });
}

// Runs the rest of a save; when it fails, what was written so far only fills the disk.
template <typename Function>
std::string or_abandon(Communicator& world, CheckpointStore& store, std::int64_t step, Function&& function) {
  std::string refused;
  try {
    refused = function();
  } catch (...) {
    if (world.rank() == 0) store.abandon(step);
    throw;
  }
  if (!refused.empty() && world.rank() == 0) store.abandon(step);
  return refused;
}

}  // namespace

std::string save_checkpoint(Session& session, CheckpointStore& store, const TrainerState& state) {
  Communicator& world = session.world();
  return or_abandon(world, store, state.step, [&] {
    std::string refused = begin(world, store, state.step), fragment;
    if (refused.empty())
      refused =
          part_of_save(world, [&] { fragment = store.write_shard(state.step, world.rank(), saved_entries(session)); });
    if (refused.empty()) refused = commit(world, store, state.step, fragment, state_text(state));
    return refused;
  });
}

std::int64_t AsynchronousSaver::copy_bytes(Session& session) {
  std::size_t bytes = 0;
  for (const auto& entry : saved_entries(session)) bytes += bytes_of(entry);
  return static_cast<std::int64_t>(bytes);
}

AsynchronousSaver::AsynchronousSaver(Session& session, CheckpointStore& store)
    : session_(session), store_(store), copy_(static_cast<std::size_t>(copy_bytes(session))) {}

AsynchronousSaver::~AsynchronousSaver() {
  if (thread_.joinable()) thread_.join();
  if (running() && session_.world().rank() == 0) store_.abandon(step_);
}

std::optional<SaveOutcome> AsynchronousSaver::start(const TrainerState& state) {
  LONGHAUL_CHECK(!running(), "a save of step {} begins while that of step {} runs", state.step, step_);
  Communicator& world = session_.world();
  const std::string refused = or_abandon(world, store_, state.step, [&] { return begin(world, store_, state.step); });
  if (!refused.empty()) return SaveOutcome{state.step, refused};
  entries_ = saved_entries(session_);
  std::byte* to = copy_.data();
  for (auto& entry : entries_) {
    const std::size_t bytes = bytes_of(entry);
    if (entry.data)
      std::memcpy(to, entry.data, bytes);
    else
      entry.read(0, {to, bytes});
    entry.data = to;
    entry.read = nullptr;
    to += bytes;
  }
  step_ = state.step;
  state_text_ = state_text(state);
  fragment_.clear();
  refused_.clear();
  failure_ = nullptr;
  written_ = false;
  phase(world, [&] {
    thread_ = std::thread([this, rank = world.rank()] {
      try {
        fragment_ = store_.write_shard(step_, rank, entries_);
      } catch (const SystemError& error) {
        refused_ = error.what();
      } catch (...) {
        failure_ = std::current_exception();
      }
      written_ = true;
    });
  });
  return std::nullopt;
}

std::optional<SaveOutcome> AsynchronousSaver::poll() {
  if (!running()) return std::nullopt;
  const std::vector<std::int32_t> all = all_gather(session_.world(), std::int32_t{written_ ? 1 : 0});
  if (std::find(all.begin(), all.end(), 0) != all.end()) return std::nullopt;
  return complete();
}

std::optional<SaveOutcome> AsynchronousSaver::finish() {
  if (!running()) return std::nullopt;
  return complete();
}

SaveOutcome AsynchronousSaver::complete() {
  Communicator& world = session_.world();
  thread_.join();
  SaveOutcome outcome{step_, ""};
  outcome.refused = or_abandon(world, store_, step_, [&] {
    phase(world, [&] {
      if (failure_) std::rethrow_exception(failure_);
    });
    const std::string refused = first_of(world, refused_);
    return refused.empty() ? commit(world, store_, step_, fragment_, state_text_) : refused;
  });
  step_ = -1;
  return outcome;
}

}  // namespace longhaul
