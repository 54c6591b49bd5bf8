#include "runtime/device/target.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "ir/op_definition.h"
#include "runtime/device/communication_run.h"
#include "runtime/device/executor.h"

namespace longhaul {
namespace {

constexpr std::size_t product_workspace = 32 << 20;  // of the product that shows the peak

// The device that this rank takes: in the order of the ranks of its host. A launcher may also show each rank its own
// device alone, which then is number 0 of all. Ranks of one process share a host in any case.
int place_on_host(Communicator& world, const Device& device) {
  const std::vector<std::string> names = gather_texts(world, host_name()),
                                 only = gather_texts(world, device.only_device());
  const auto of = [](const std::vector<std::string>& texts, int rank) -> const std::string& {
    return texts[static_cast<std::size_t>(rank)];
  };
  int before = 0;
  bool is_own = !of(only, world.rank()).empty();
  for (int rank = 0; rank < world.size(); ++rank) {
    if (rank == world.rank() || of(names, rank) != of(names, world.rank())) continue;
    before += rank < world.rank();
    is_own = is_own && !of(only, rank).empty() && of(only, rank) != of(only, world.rank());
  }
  return is_own ? 0 : before;
}

}  // namespace

DeviceTarget::DeviceTarget(const TargetOptions& options, cuda::Backend backend)
    : Target(options), context_(backend), kernels_(context_, options.reference_only) {
  settle_options();
}
DeviceTarget::DeviceTarget(const TargetOptions& options, cuda::Backend backend, const cuda::Api& api)
    : Target(options), context_(backend, api), kernels_(context_, options.reference_only) {
  settle_options();
}

void DeviceTarget::settle_options() {
  collectives_.ordered_sums = options().ordered_sums;
  collectives_.kind = choose_data_plane(options().collectives, context_.device(), why_collectives_);
  if (options().check_ops && options().graphs)
    fail(
        "LONGHAUL_CHECK_OPS is set and device.graphs is true: each op is waited for to be checked, and a graph has "
        "none "
        "that could be waited for; unset it, or set device.graphs to false");
  if (options().check_ops) shadow_ = std::make_unique<Shadow>();
}
DeviceTarget::~DeviceTarget() = default;

std::string DeviceTarget::about(int ranks) const {
  std::string text = fmt::format("device.type {}: {}", name(), context_.device().info().name);
  if (ranks > 1)
    text += fmt::format("; messages between devices travel {}{}", name_of(collectives_.kind),
                        why_collectives_.empty() ? "" : " (" + why_collectives_ + ")");
  return text;
}

void DeviceTarget::refuse_staged_graphs() const {
  if (options().graphs && collectives_.kind == DataPlaneKind::staged)
    fail(
        "device.graphs is true, and ranks' messages are staged (device.collectives{}): the host takes part in them, "
        "and "
        "in a graph it cannot; set device.collectives to nccl or push, or device.graphs to false",
        why_collectives_.empty() ? "" : " is auto, and " + why_collectives_);
}

std::int64_t DeviceTarget::scratch_bytes(const Graph& graph, const Op& op) {
  if (op.definition->communication) {
    if (!communicates(op)) return 0;
    refuse_staged_graphs();
    const CommunicationStep step(graph, op, 0);
    const std::size_t ranks = graph.mesh.group(step.axes, 0).size();
    if (collectives_.kind == DataPlaneKind::push && ranks > cuda::kMaximumRanks)
      fail("device.collectives is push: a group of {} ranks, more than {}: set it to nccl{}", ranks,
           cuda::kMaximumRanks, options().graphs ? ", or to staged and device.graphs to false" : " or staged");
    return device_scratch_bytes(step, collectives_);
  }
  return static_cast<std::int64_t>(kernels_.get(graph, op)->scratch_bytes);
}

double DeviceTarget::peak_flops(DType dtype) {
  Device& device = context_.device();
  device.select(0);
  // A product of square matrices: of what a GPU is busy with for a millisecond, or the emulator; smaller ones where the
  // run has taken most of the memory.
  const std::int64_t size = size_of(dtype == DType::bfloat16 ? dtype : DType::float32);
  const auto bytes = [&](std::int64_t n) { return static_cast<std::size_t>(3 * n * n * size) + product_workspace; };
  std::int64_t n = device.is_emulated() ? 256 : 8192;
  while (n > 512 && static_cast<std::int64_t>(2 * bytes(n)) > device.free_bytes()) n /= 2;
  const DeviceMemory memory(device, DeviceMemory::Place::device, bytes(n));
  context_.succeed(context_.api().fill(memory.data(), 0, memory.bytes(), device.stream()));
  cuda::Matmul product{};
  product.m = product.n = product.k = product.a_stride = product.b_stride = product.c_stride = n;
  product.b_transposed = 1;
  product.type = product.out_type = dtype == DType::bfloat16 ? cuda::Type::bfloat16 : cuda::Type::float32;
  product.alpha = 1;
  product.workspace = memory.data(), product.workspace_bytes = product_workspace;
  char* const matrices = memory.data() + product_workspace;
  product.a = matrices, product.b = matrices + n * n * size, product.c = matrices + 2 * n * n * size;
  double best = 0;
  for (int i = 0; i < 4; ++i) {
    device.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    context_.succeed(context_.api().matmul(&product, device.stream()));
    device.synchronize();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, 2.0 * static_cast<double>(n * n * n) / seconds);
  }
  return best;
}

void DeviceTarget::set_library_policy(const LibraryPolicy& policy, DType, std::string_view key) {
  if (!policy.only.empty())
    fail("{} is {}, a library of CPUs; with device.type {} products are {}: leave it at auto", key, policy.only, name(),
         device().is_emulated() ? "loops of the emulator" : "cuBLASLt's");
  context_.products().forget();
}

std::string DeviceTarget::choose_libraries(std::span<const Program* const> programs, const std::string& decided) {
  // Kernels say which products they will ask for when they are made.
  for (const Program* program : programs)
    for (const Op& op : program->graph.ops)
      if (!op.definition->communication) kernels_.get(program->graph, op);
  context_.device().select(0);
  return context_.products().choose(decided);
}

std::unique_ptr<Executor> DeviceTarget::executor(Communicator& world, std::span<const Program* const> programs,
                                                 const NamedBuffers& named) {
  std::thread::id first;
  LONGHAUL_CHECK(
      thread_.compare_exchange_strong(first, std::this_thread::get_id()) || first == std::this_thread::get_id(),
      "a target serves one rank");
  const int place = place_on_host(world, context_.device());
  phase(world, [&] {
    context_.device().select(place);
    for (const Program* program : programs)
      for (const Op& op : program->graph.ops)
        if (!op.definition->communication) kernels_.get(program->graph, op);
    context_.products().make();
  });
  if (world.size() > 1) refuse_staged_graphs();
  const std::vector<int> graphs = all_gather(world, static_cast<int>(options().graphs));
  for (std::size_t rank = 0; rank < graphs.size(); ++rank)  // one that launches a graph waits for ranks that do too
    if (graphs[rank] != graphs[0])
      fail("rank {} has device.graphs {}, rank 0 {}: give all ranks the same", rank, graphs[rank] != 0, graphs[0] != 0);
  const std::vector<int> kinds = all_gather(world, static_cast<int>(collectives_.kind));
  for (std::size_t rank = 0; rank < kinds.size(); ++rank)
    if (kinds[rank] != kinds[0])
      fail("rank {} would move messages by {}, rank 0 by {}{}: set device.collectives to one that all have", rank,
           name_of(static_cast<DataPlaneKind>(kinds[rank])), name_of(static_cast<DataPlaneKind>(kinds[0])),
           why_collectives_.empty() ? "" : " (here: " + why_collectives_ + ")");
  return std::make_unique<DeviceExecutor>(world, programs, named, context_, kernels_, shadow_.get(),
                                          !options().reference_only, collectives_, options().collective_timeout,
                                          options().graphs);
}

}  // namespace longhaul
