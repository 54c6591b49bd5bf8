// A target whose buffers are not in host memory, as far as anyone above it can see: what is kept between programs lies
// in a store of its own, with every bit turned over, and can only be read and written by range. Programs run on the
// CPU.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/cpu/target.h"

namespace longhaul::testing {

class ElsewhereExecutor final : public Executor {
 public:
  ElsewhereExecutor(std::unique_ptr<Executor> inside, const NamedBuffers& named)
      : inside_(std::move(inside)), named_(named) {
    for (const auto& [name, slot] : named_.slots)
      store_[slot.offset].resize(static_cast<std::size_t>(slot.bytes), ~std::byte{0});
  }

  void run(std::size_t program) override {
    for (const auto& [name, slot] : named_.slots) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(slot.bytes));
      read(name, 0, bytes);
      inside_->write(name, 0, bytes);
    }
    inside_->run(program);
    for (const auto& [name, slot] : named_.slots) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(slot.bytes));
      inside_->read(name, 0, bytes);
      put(name, 0, bytes);
    }
  }
  void read(std::string_view buffer, std::int64_t byte, std::span<std::byte> to) const override {
    const auto& bytes = store_.at(slot(buffer, byte, to.size()).offset);
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = ~bytes[static_cast<std::size_t>(byte) + i];
  }
  void write(std::string_view buffer, std::int64_t byte, std::span<const std::byte> from) override {
    ++writes[std::string(buffer)];
    put(buffer, byte, from);
  }
  void zero(std::string_view buffer) override {
    for (std::byte& one : store_.at(slot(buffer, 0, 0).offset)) one = ~std::byte{0};
  }
  std::span<std::byte> host_view(std::string_view) override { return {}; }
  std::int64_t arena_bytes() const override { return inside_->arena_bytes(); }
  std::int64_t host_arena_bytes() const override { return inside_->host_arena_bytes(); }
  Traffic traffic() const override { return inside_->traffic(); }
  void reset_traffic() override { inside_->reset_traffic(); }
  void set_profiling(bool on) override { inside_->set_profiling(on); }
  const Profile& profile() const override { return inside_->profile(); }

  std::map<std::string, int> writes;  // by buffer

 private:
  const NamedBuffers::Slot& slot(std::string_view buffer, std::int64_t byte, std::size_t count) const {
    const auto found = named_.slots.find(buffer);
    LONGHAUL_CHECK(found != named_.slots.end(), "no buffer is called {}", buffer);
    LONGHAUL_CHECK(byte >= 0 && byte + static_cast<std::int64_t>(count) <= found->second.bytes, "beyond {}", buffer);
    return found->second;
  }
  void put(std::string_view buffer, std::int64_t byte, std::span<const std::byte> from) {
    auto& bytes = store_.at(slot(buffer, byte, from.size()).offset);
    for (std::size_t i = 0; i < from.size(); ++i) bytes[static_cast<std::size_t>(byte) + i] = ~from[i];
  }

  std::unique_ptr<Executor> inside_;
  NamedBuffers named_;
  std::map<std::int64_t, std::vector<std::byte>> store_;  // by place in the arena: buffers may share one
};

class ElsewhereTarget final : public Target {
 public:
  ElsewhereTarget() : Target({}) {}
  std::string_view name() const override { return "elsewhere"; }
  std::int64_t scratch_bytes(const Graph& graph, const Op& op) override { return inside_.scratch_bytes(graph, op); }
  double peak_flops(DType) override { return 1e9; }
  void set_library_policy(const LibraryPolicy&, DType, std::string_view) override {}
  std::string choose_libraries(std::span<const Program* const>, const std::string&) override { return ""; }
  std::string libraries() const override { return "{}"; }
  void set_libraries(const std::string&) override {}
  std::unique_ptr<Executor> executor(Communicator& world, std::span<const Program* const> programs,
                                     const NamedBuffers& named) override {
    return std::make_unique<ElsewhereExecutor>(inside_.executor(world, programs, named), named);
  }

 private:
  CpuTarget inside_;
};

}  // namespace longhaul::testing
