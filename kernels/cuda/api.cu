// The table of functions that the library exports.
#include "kernels/cuda/api.h"

#include <memory>

#include "kernels/cuda/device.h"

namespace longhaul::cuda {

thread_local constinit Counters counters{};

namespace {

thread_local std::string error_text;

template <auto function>
struct GuardedGroup;  // collectives: the group comes by pointer
template <typename... Arguments, void (*function)(const PeerGroup&, Arguments...)>
struct GuardedGroup<function> {
  static int call(const PeerGroup* group, Arguments... arguments) {
    try {
      require(group->ranks >= 1 && group->ranks <= kMaximumRanks && group->rank >= 0 && group->rank < group->ranks,
              "a peer group has 1 to " + std::to_string(kMaximumRanks) + " ranks; this one says rank " +
                  std::to_string(group->rank) + " of " + std::to_string(group->ranks));
      function(*group, arguments...);
      return 0;
    } catch (const std::exception& error) {
      return report(error.what());
    }
  }
};

std::size_t backward_workspace(const AttentionShape* shape) {
  return attention_backward_workspace(*shape);
}
void copy_mask(const AttentionMask* mask, void* to, Stream stream) {
  attention_mask(*mask, to, stream);
}
void allocate(void** pointer, std::size_t bytes) {
  counters.allocations++, counters.allocated_bytes += static_cast<std::int64_t>(bytes);
  device::allocate(pointer, bytes);
}
void allocate_host(void** pointer, std::size_t bytes) {
  counters.allocations++, counters.allocated_bytes += static_cast<std::int64_t>(bytes);
  device::allocate_host(pointer, bytes);
}
void stream_synchronize(Stream stream) {
  counters.synchronisations++;
  device::stream_synchronize(stream);
}
void synchronize() {
  counters.synchronisations++;
  device::synchronize();
}
struct Graph {
  void* made;
  std::int64_t parts;
};
thread_local constinit std::int64_t launches_before = 0;  // the graph that the thread is making
void graph_begin(Stream stream) {
  device::graph_begin(stream);
  launches_before = counters.launches;
}
void graph_end(Stream stream, void** graph) {
  *graph = nullptr;
  const std::int64_t parts = counters.launches - launches_before;
  counters.launches = launches_before;
  void* made = nullptr;
  device::graph_end(stream, &made);
  *graph = new Graph{made, parts};
}
void graph_launch(void* graph, Stream stream) {
  const Graph& one = *static_cast<const Graph*>(graph);
  device::graph_launch(one.made, stream);
  counters.graph_launches++, counters.graph_parts += one.parts;
}
void graph_destroy(void* graph) {
  const std::unique_ptr<Graph> one(static_cast<Graph*>(graph));
  device::graph_destroy(one->made);
}
void count_to(Counters* to) {
  *to = counters;
}
void share(void* pointer, char* handle) {
  device::share_memory(pointer, handle);
}

Api make_api() {
  Api api{};
  api.version = kApiVersion;
  api.name = device::backend_name();
  api.last_error = last_error;
  api.device_count = Guarded<device::count>::call;
  api.device_select = Guarded<device::select>::call;
  api.device_info = Guarded<device::info>::call;
  api.memory_info = Guarded<device::memory_info>::call;
  api.allocate = Guarded<allocate>::call;
  api.release = Guarded<device::release>::call;
  api.copy = Guarded<device::copy>::call;
  api.fill = Guarded<device::fill>::call;
  api.stream_create = Guarded<device::stream_create>::call;
  api.urgent_stream_create = Guarded<device::urgent_stream_create>::call;
  api.stream_destroy = Guarded<device::stream_destroy>::call;
  api.stream_synchronize = Guarded<stream_synchronize>::call;
  api.stream_query = Guarded<device::stream_query>::call;
  api.synchronize = Guarded<synchronize>::call;
  api.allocate_host = Guarded<allocate_host>::call;
  api.release_host = Guarded<device::release_host>::call;
  api.counters = Guarded<count_to>::call;
  api.event_create = Guarded<device::event_create>::call;
  api.event_record = Guarded<device::event_record>::call;
  api.event_query = Guarded<device::event_query>::call;
  api.stream_wait = Guarded<device::stream_wait>::call;
  api.event_milliseconds = Guarded<device::event_milliseconds>::call;
  api.event_destroy = Guarded<device::event_destroy>::call;
  api.graph_begin = Guarded<graph_begin>::call;
  api.graph_end = Guarded<graph_end>::call;
  api.graph_launch = Guarded<graph_launch>::call;
  api.graph_destroy = Guarded<graph_destroy>::call;
  api.share_memory = Guarded<share>::call;
  api.open_memory = Guarded<device::open_memory>::call;
  api.reach_device = Guarded<device::reach_device>::call;
  api.close_memory = Guarded<device::close_memory>::call;

  api.attention_mask_bytes = attention_mask_bytes;
  api.attention_mask = Guarded<copy_mask>::call;
  api.attention_shared_bytes = attention_shared_bytes;
  api.attention_forward = GuardedCall<attention_forward>::call;
  api.attention_backward_workspace = backward_workspace;
  api.attention_backward = GuardedCall<attention_backward>::call;
  api.softmax_merge = GuardedCall<softmax_merge>::call;

  api.norm_forward = GuardedCall<norm_forward>::call;
  api.norm_workspace = norm_workspace;
  api.norm_backward = GuardedCall<norm_backward>::call;
  api.rope_table = GuardedCall<rope_table>::call;
  api.rope = GuardedCall<rope>::call;
  api.activation = GuardedCall<activation>::call;
  api.activation_gradient = GuardedCall<activation_gradient>::call;
  api.embedding = GuardedCall<embedding>::call;
  api.embedding_workspace = embedding_workspace;
  api.embedding_gradient = GuardedCall<embedding_gradient>::call;
  api.loss_tile = GuardedCall<loss_tile>::call;
  api.adamw = GuardedCall<adamw>::call;
  api.sum_of_squares_workspace = sum_of_squares_workspace;
  api.sum_of_squares = Guarded<sum_of_squares>::call;
  api.cast = Guarded<cast>::call;
  api.strided_copy = GuardedCall<strided_copy>::call;

  api.add = GuardedCall<add>::call;
  api.scale = GuardedCall<scale>::call;
  api.add_bias = GuardedCall<add_bias>::call;
  api.column_sums_workspace = column_sums_workspace;
  api.column_sums = GuardedCall<column_sums>::call;
  api.expand_heads = GuardedCall<expand_heads>::call;
  api.reduce_heads = GuardedCall<reduce_heads>::call;
  api.add_rows = GuardedCall<add_rows>::call;
  api.copy_table = Guarded<copy_table>::call;
  api.copy_entries = Guarded<copy_entries>::call;
  api.scalar_constant = GuardedCall<scalar_constant>::call;
  api.scalar_product = GuardedCall<scalar_product>::call;
  api.clip_coefficient = GuardedCall<clip_coefficient>::call;
  api.count_valid = GuardedCall<count_valid>::call;
  api.generic_norm = GuardedCall<generic_norm>::call;
  api.generic_norm_workspace = generic_norm_workspace;
  api.generic_norm_gradient = GuardedCall<generic_norm_gradient>::call;
  api.loss_rows = GuardedCall<loss_rows>::call;
  api.loss_sum = GuardedCall<loss_sum>::call;
  api.optimizer_blocks = optimizer_blocks;
  api.optimizer_step = GuardedCall<optimizer_step>::call;
  api.squares_blocks = squares_blocks;
  api.sums_of_squares = GuardedCall<sums_of_squares>::call;
  api.generic_attention_forward = GuardedCall<generic_attention_forward>::call;
  api.attention_delta = GuardedCall<attention_delta>::call;
  api.generic_attention_backward = GuardedCall<generic_attention_backward>::call;
  api.generic_merge = GuardedCall<generic_merge>::call;

  api.peer_workspace_bytes = peer_workspace_bytes;
  api.peer_barrier = GuardedGroup<peer_barrier>::call;
  api.peer_all_to_all = GuardedGroup<peer_all_to_all>::call;
  api.peer_all_gather = GuardedGroup<peer_all_gather>::call;
  api.peer_reduce_scatter = GuardedGroup<peer_reduce_scatter>::call;
  api.peer_all_reduce = GuardedGroup<peer_all_reduce>::call;
  api.peer_sequence_to_heads = GuardedGroup<peer_sequence_to_heads>::call;
  api.peer_heads_to_sequence = GuardedGroup<peer_heads_to_sequence>::call;
  device::add_libraries(api);
  device::add_nccl(api);
  return api;
}

}  // namespace

const char* last_error() {
  return error_text.c_str();
}
int report(const char* message) {
  error_text = message;
  return 1;
}

}  // namespace longhaul::cuda

namespace longhaul::gpu {

void count_launch() {
  cuda::counters.launches++;
}

}  // namespace longhaul::gpu

extern "C" __attribute__((visibility("default"))) const longhaul::cuda::Api* longhaul_cuda_api() {
  static const longhaul::cuda::Api api = longhaul::cuda::make_api();
  return &api;
}
