// The one seam between Longhaul and its device kernels: a table of functions with a C interface, plain pointers and
// sizes in. liblonghaul_cuda.so implements it on NVIDIA GPUs; the emulator of tests/gpu_emulator implements the same
// table on the host. Neither is linked: loader.h opens one when asked.
//
// Every function returns 0, or else not 0 and last_error() says why (per thread). Pointers are device pointers unless a
// comment says "host". Work is queued on `stream` (nullptr: the default stream) and not waited for. Tensors are
// row-major and contiguous unless strides are given; strides and sizes count elements. Tensor data is 16-byte aligned.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/api_generic.h"

namespace longhaul::cuda {

constexpr std::int32_t kApiVersion = 11;  // changes with every change of this header
constexpr int kMaximumRanks = 16;         // of a push collective

using Stream = void*;
enum class Implementation : std::int32_t { automatic = 0, portable = 1, hopper = 2 };
enum class Activation : std::int32_t { silu = 0, gelu = 1, gelu_tanh = 2, relu = 3 };

struct DeviceInfo {
  char name[64];
  char uuid[40];  ///< of this very device, whatever number it has in a process
  std::int32_t capability_major, capability_minor, multiprocessors;
  std::int64_t memory_bytes, shared_bytes_per_block, level2_bytes;
};

// ---- attention. q, out [b, s, h, d]; k, v [b, t, g, d]; query head i reads kv head i / (heads / kv_heads).
struct AttentionShape {
  std::int32_t batch, queries, keys, heads, kv_heads;
  std::int32_t head_dim;  ///< 64, 128, and 256 forward only
  float scale;            ///< of the scores, usually 1 / sqrt(head_dim)
  /// Of the backward: into so many parts, which must divide them, the query heads of a kv head are divided, each with
  /// blocks of its own. 0: as many as it takes to keep a large GPU busy, by sizes alone, so that bits depend on no
  /// model.
  std::int32_t parts = 0;
};
/// Key k is visible to query q when max(key_start[q], window ? query_index[q] - window + 1 : 0) <= key_index[k] and
/// key_index[k] <= query_index[q].
struct AttentionMask {
  std::int32_t batch, queries, keys, window;
  const std::int32_t *query_index, *key_start;  ///< [b, s]
  const std::int32_t* key_index;                ///< [b, t], each below 2^31 - 1
};
/// Strides 0, 0, 0 mean contiguous.
struct HeadMatrix {
  void* data;
  std::int64_t batch_stride, row_stride, head_stride;
};
struct AttentionForward {
  AttentionShape shape;
  const void* mask;    ///< made by attention_mask
  HeadMatrix q, k, v;  ///< bf16
  HeadMatrix out;
  Type out_type;       ///< float32 for partial softmaxes
  float* log_sum_exp;  ///< [b, h, s]; -infinity where no key is visible, and out is 0 there
  Implementation implementation;
};
/// `out` and `log_sum_exp` are those of the whole softmax: for a block of its keys, the merged ones.
struct AttentionBackward {
  AttentionShape shape;
  const void* mask;
  HeadMatrix q, k, v;  ///< bf16
  HeadMatrix out;
  Type out_type;
  HeadMatrix dout;  ///< bf16
  const float* log_sum_exp;
  HeadMatrix dq, dk, dv;
  Type dq_type, dkv_type;
  std::int32_t accumulate_dq, accumulate_dkv;  ///< add to what is there; float32 only
  /// Whether dQ may be summed in any order (Hopper only; the portable kernels are always deterministic).
  std::int32_t unordered_dq;
  void* workspace;  ///< attention_backward_workspace bytes
  Implementation implementation;
  const float* delta;  ///< [b, s, h], the sums of out dout (attention_delta); not null: out is not read
};
/// out, log_sum_exp <- the softmax over both partials' keys. [b, s, h, d] float32 and [b, h, s].
struct SoftmaxMerge {
  std::int32_t batch, rows, heads, head_dim;
  float *out, *log_sum_exp;                    ///< merged in place
  const float *partial, *partial_log_sum_exp;  ///< the new block's
  void* out_bfloat16;                          ///< not null: the merged output is also written here
};

// ---- norms over the last dimension of [rows, columns]
struct NormForward {
  std::int64_t rows;
  std::int32_t columns, layer;  ///< layer: subtract the mean and add `bias`
  float epsilon;
  Type type;
  const void* x;
  const void* residual;  ///< not null: x + residual is normalised
  void* sum;             ///< not null: receives x + residual (may be x or residual itself)
  const void *weight, *bias;
  void* y;
  float *inverse_deviation, *mean;  ///< [rows], for the backward, or null; mean only with `layer`
};
struct NormBackward {
  std::int64_t rows;
  std::int32_t columns, layer;
  Type type;
  const void* x;  ///< what was normalised (the sum)
  const void *weight, *dy;
  const float *inverse_deviation, *mean;  ///< null: computed again, with `epsilon`
  const void* dresidual;                  ///< not null: added to dx
  void* dx;
  float *dweight, *dbias;   ///< [columns]; dbias only with `layer`
  std::int32_t accumulate;  ///< add to dweight and dbias
  void* workspace;          ///< norm_workspace bytes
  float epsilon;            ///< of the forward, where it left no statistics
};

// ---- rotary embedding. table [b, s, r] float32: r / 2 cosines, then r / 2 sines.
struct RopeTable {
  std::int64_t tokens;
  std::int32_t rotated;               ///< r
  const std::int32_t* position;       ///< [tokens]
  const double* inverse_frequencies;  ///< [r / 2]
  double scale;
  float* table;
  /// Not 0: the scale of position p is (1 + growth log(1 + p / growth_length)) times `scale`, p / growth_length whole.
  double growth;
  std::int64_t growth_length;
};
/// Pairs (x[i], x[i + r / 2]) of the first r elements of each head are turned. The result may be written packed for an
/// all-to-all over heads: destination rank = head / (heads / ranks), each rank's part [b, s, heads / ranks, d].
struct Rope {
  std::int32_t batch, rows, heads, head_dim, rotated, inverse, ranks;  ///< ranks 1: no packing
  Type type;
  const void* x;
  const float* table;
  void* y;  ///< may be x when ranks is 1
};

struct ElementwiseActivation {  // y = f(gate) * up; up null: y = f(gate)
  std::int64_t count;
  Activation activation;
  Type type;
  const void *gate, *up;
  void* y;
};
struct ElementwiseActivationGradient {
  std::int64_t count;
  Activation activation;
  Type type;
  const void *gate, *up, *dy;
  void *dgate, *dup;
};

struct Embedding {  // out [tokens, columns] = table[token]
  std::int64_t tokens;
  std::int32_t columns, vocabulary;
  Type type;
  const std::int32_t* token;
  const void* table;
  void* out;
};
struct EmbeddingGradient {  // dtable[token[i]] += dout[i], in the order of i
  std::int64_t tokens;
  std::int32_t columns, vocabulary;
  Type type;  ///< of dout
  const std::int32_t* token;
  const void* dout;
  float* dtable;
  void* workspace;  ///< embedding_workspace bytes
};

/// One tile of the loss head: logits are read, and replaced by their gradients.
struct LossTile {
  std::int32_t rows, vocabulary;
  std::int64_t row_stride;  ///< of logits
  Type type;
  void* logits;                  ///< null gradient_scale: left alone
  const std::int32_t* label;     ///< below 0: ignored, loss 0, gradient 0
  float logits_scale, soft_cap;  ///< z = logits_scale * logit, then soft_cap * tanh(z / soft_cap) when soft_cap > 0
  const float* gradient_scale;   ///< one value, usually 1 / count of valid tokens
  float* loss;                   ///< [rows]: -log softmax(z)[label]
};

struct AdamW {
  std::int64_t count;
  float *parameter, *first_moment, *second_moment;
  const void* gradient;
  Type gradient_type;
  const float* gradient_scale;  ///< one value (clipping), or null
  float learning_rate, beta1, beta2, epsilon, weight_decay;
  std::int64_t step;         ///< from 1
  void* parameter_bfloat16;  ///< not null: also written here
};

/// 16-byte granular copy of a 4-D box: to[i * to_stride] = from[i * from_stride], rows of `row_bytes`. Bytes
/// throughout, multiples of 16.
struct StridedCopy {
  std::int64_t extent[3], row_bytes;
  std::int64_t from_stride[3], to_stride[3];
  const void* from;
  void* to;
};

// ---- push collectives. Each rank owns a workspace that its peers can write; peers[r] is rank r's, as this rank sees
// it.
struct PeerGroup {
  std::int32_t rank, ranks;
  std::int64_t workspace_bytes;  ///< of one rank, without the signal area
  void* peers[kMaximumRanks];
  /// Host memory that the device reads (allocate_host), or null: where it is not 0, waits end as if all had come.
  const std::uint32_t* give_up = nullptr;
  /// Device memory of this rank, 0 at first, or null: where peer_barrier counts its epochs itself, so that a graph's
  /// next launch has the next ones.
  std::uint32_t* counter = nullptr;
};

/// One message each way between this rank and `peer`, which is another: bytes that lie in device memory, of any
/// alignment. Either may be empty.
struct NcclTransfer {
  std::int32_t peer;
  const void* send;
  std::int64_t send_bytes;
  void* receive;
  std::int64_t receive_bytes;
};

/// What this thread has asked of the library since it was opened, launches of a call's parts counted each. What a graph
/// keeps counts among `launches` neither then nor later, but among graph_parts each time that the graph is launched.
struct Counters {
  std::int64_t launches, allocations, allocated_bytes, synchronisations, graph_launches, graph_parts;
};

/// How the vendor's library computes a product: opaque, of one version of it and one model of device.
struct MatmulAlgorithm {
  std::uint64_t words[8];
};

struct Matmul {  // c [m, n] = alpha a b + beta c, row-major; transposed: stored as [k, m] or [n, k]
  std::int64_t m, n, k;
  std::int32_t a_transposed, b_transposed;
  Type type, out_type;
  float alpha, beta;
  const void *a, *b;
  void* c;
  std::int64_t a_stride, b_stride, c_stride;
  const void* addend;  ///< not null: times beta instead of c; as c lies
  void* workspace;     ///< not null: what the library may use instead of memory of its own
  std::int64_t workspace_bytes;
  const MatmulAlgorithm* algorithm = nullptr;  ///< null: the library's choice for what it is given, when it first comes
};

struct Api {
  std::int32_t version;  ///< kApiVersion of the library
  const char* name;      ///< "cuda" or "emulator"
  const char* (*last_error)();

  // ---- device and memory
  int (*device_count)(std::int32_t* count);
  int (*device_select)(std::int32_t device);
  int (*device_info)(DeviceInfo* info);
  int (*memory_info)(std::int64_t* free_bytes, std::int64_t* total_bytes);
  int (*allocate)(void** pointer, std::size_t bytes);
  int (*release)(void* pointer);
  int (*copy)(void* to, const void* from, std::size_t bytes, Stream stream);  ///< either side host or device
  int (*fill)(void* to, std::int32_t byte, std::size_t bytes, Stream stream);
  int (*stream_create)(Stream* stream);
  int (*urgent_stream_create)(Stream* stream);  ///< its kernels go before those of others that could run
  int (*stream_destroy)(Stream stream);
  int (*stream_synchronize)(Stream stream);
  int (*stream_query)(Stream stream, std::int32_t* done);  ///< whether all that was queued is done; waits for nothing
  int (*synchronize)();                                    ///< the whole device
  /// Host memory that the device reads and writes in a stream's order, while the host goes on; kept in place.
  int (*allocate_host)(void** pointer, std::size_t bytes);
  int (*release_host)(void* pointer);
  int (*counters)(Counters* of_this_thread);
  int (*event_create)(void** event);
  int (*event_record)(void* event, Stream stream);
  /// Whether the stream has come as far as where the event was last recorded; waits for nothing.
  int (*event_query)(void* event, std::int32_t* done);
  int (*stream_wait)(Stream stream, void* event);  ///< goes on where the event was last recorded when that is reached
  int (*event_milliseconds)(void* from, void* to, float* milliseconds);  ///< waits for `to`
  int (*event_destroy)(void* event);
  int (*share_memory)(void* pointer, char handle[64]);  ///< for another process on this machine
  int (*open_memory)(const char handle[64], void** pointer);
  int (*reach_device)(std::int32_t device);  ///< lets this thread's device use the memory of another of this process
  int (*close_memory)(void* pointer);

  // ---- graphs. Between graph_begin and graph_end, both by one thread, what `stream` is given is kept instead of done,
  // and so is what other streams are given from where they wait for one of its events on; `stream` must wait for the
  // last of each before the end. Every argument is kept as it is then. Meanwhile the thread may not wait or ask for
  // what a device has done, ask for memory or give it back, copy from or to host memory that is not allocate_host's, or
  // use the default stream: such a call fails, and so does all that the graph is given after it.
  int (*graph_begin)(Stream stream);
  /// Ends it in any case; fails, with a null graph, after a call that failed.
  int (*graph_end)(Stream stream, void** graph);
  int (*graph_launch)(void* graph, Stream stream);  ///< in the stream's order, as a whole
  int (*graph_destroy)(void* graph);                ///< what has been launched still ends

  // ---- attention; all but softmax_merge null where the library has none on matrix units
  std::size_t (*attention_mask_bytes)(std::int32_t batch, std::int32_t queries, std::int32_t keys);
  int (*attention_mask)(const AttentionMask* mask, void* to, Stream stream);
  /// Bytes of shared memory that the portable kernels want of a block for heads of 64, 128 or (forward) 256; backward
  /// where that is not 0. A device whose blocks have less refuses their launch.
  std::int64_t (*attention_shared_bytes)(std::int32_t head_dim, std::int32_t backward);
  int (*attention_forward)(const AttentionForward* call, Stream stream);
  std::size_t (*attention_backward_workspace)(const AttentionShape* shape);
  int (*attention_backward)(const AttentionBackward* call, Stream stream);
  int (*softmax_merge)(const SoftmaxMerge* call, Stream stream);

  // ---- memory-bound kernels
  int (*norm_forward)(const NormForward* call, Stream stream);
  std::size_t (*norm_workspace)(std::int32_t columns);
  int (*norm_backward)(const NormBackward* call, Stream stream);
  int (*rope_table)(const RopeTable* call, Stream stream);
  int (*rope)(const Rope* call, Stream stream);
  int (*activation)(const ElementwiseActivation* call, Stream stream);
  int (*activation_gradient)(const ElementwiseActivationGradient* call, Stream stream);
  int (*embedding)(const Embedding* call, Stream stream);
  std::size_t (*embedding_workspace)(std::int64_t tokens, std::int32_t vocabulary);
  int (*embedding_gradient)(const EmbeddingGradient* call, Stream stream);
  int (*loss_tile)(const LossTile* call, Stream stream);
  int (*adamw)(const AdamW* call, Stream stream);
  std::size_t (*sum_of_squares_workspace)();
  /// result[0] <- sum of squares (plus result[0] when `accumulate`), a float64.
  int (*sum_of_squares)(const void* x, Type type, std::int64_t count, std::int32_t accumulate, double* result,
                        void* workspace, Stream stream);
  int (*cast)(const void* from, Type from_type, void* to, Type to_type, std::int64_t count, Stream stream);
  int (*strided_copy)(const StridedCopy* call, Stream stream);

  // ---- generic kernels: api_generic.h
  int (*add)(const Add* call, Stream stream);
  int (*scale)(const Scale* call, Stream stream);
  int (*add_bias)(const AddBias* call, Stream stream);
  std::size_t (*column_sums_workspace)(std::int64_t rows, std::int64_t columns);
  int (*column_sums)(const ColumnSums* call, Stream stream);
  int (*expand_heads)(const Heads* call, Stream stream);
  int (*reduce_heads)(const Heads* call, Stream stream);
  int (*add_rows)(const AddRows* call, Stream stream);
  /// The entries lie on the host and are read before the call returns.
  int (*copy_table)(const CopyEntry* entries, std::int32_t count, Stream stream);
  /// The same in one launch, of entries in device memory that copy_table would take; `largest_bytes`: of one entry.
  int (*copy_entries)(const CopyEntry* entries, std::int32_t count, std::int64_t largest_bytes, Stream stream);
  int (*scalar_constant)(const ScalarConstant* call, Stream stream);
  int (*scalar_product)(const ScalarProduct* call, Stream stream);
  int (*clip_coefficient)(const ClipCoefficient* call, Stream stream);
  int (*count_valid)(const CountValid* call, Stream stream);
  int (*generic_norm)(const GenericNorm* call, Stream stream);
  std::size_t (*generic_norm_workspace)(std::int64_t rows, std::int64_t columns);
  int (*generic_norm_gradient)(const GenericNormGradient* call, Stream stream);
  int (*loss_rows)(const LossRows* call, Stream stream);
  int (*loss_sum)(const LossSum* call, Stream stream);
  /// Number the rows' blocks, on the host; 0 blocks in all: nothing to launch.
  std::int64_t (*optimizer_blocks)(OptimizerTensor* tensors, std::int32_t count);
  int (*optimizer_step)(const OptimizerStep* call, Stream stream);
  std::int64_t (*squares_blocks)(SquaresTensor* tensors, std::int32_t count);
  /// The same bits as sum_of_squares of each.
  int (*sums_of_squares)(const SquaresTable* call, Stream stream);
  int (*generic_attention_forward)(const GenericAttentionForward* call, Stream stream);
  int (*attention_delta)(const AttentionDelta* call, Stream stream);
  int (*generic_attention_backward)(const GenericAttentionBackward* call, Stream stream);
  int (*generic_merge)(const GenericMerge* call, Stream stream);

  // ---- push collectives: see collectives.cu for the protocol. Every rank calls the same ones in the same order;
  // `epoch` counts them from 1 and never resets. Each is push, signal and wait, queued as separate launches.
  /// What each rank allocates, zeroed before use. To be asked first: it loads the kernels on the thread's device.
  std::size_t (*peer_workspace_bytes)(std::int64_t payload_bytes);
  /// Signal and wait alone, of a workspace that may be its signal area: what any rank's stream did before is seen by
  /// all streams after it. With the group's counter `epoch` is not read.
  int (*peer_barrier)(const PeerGroup* group, std::uint32_t epoch, Stream stream);
  int (*peer_all_to_all)(const PeerGroup* group, std::uint32_t epoch, const void* send, void* receive,
                         std::int64_t bytes_per_peer, Stream stream);
  int (*peer_all_gather)(const PeerGroup* group, std::uint32_t epoch, const void* send, void* receive,
                         std::int64_t bytes, Stream stream);
  int (*peer_reduce_scatter)(const PeerGroup* group, std::uint32_t epoch, const float* send, float* receive,
                             std::int64_t count_per_rank, Stream stream);
  int (*peer_all_reduce)(const PeerGroup* group, std::uint32_t epoch, float* data, std::int64_t count, Stream stream);
  /// Heads for sequence: from [b, s / n, h, d] of this rank to [b, s, h / n, d], or back. Elements of 2 or 4
  /// bytes; head_dim * element bytes a multiple of 16.
  int (*peer_sequence_to_heads)(const PeerGroup* group, std::uint32_t epoch, std::int32_t batch, std::int32_t rows,
                                std::int32_t heads, std::int32_t head_bytes, const void* send, void* receive,
                                Stream stream);
  int (*peer_heads_to_sequence)(const PeerGroup* group, std::uint32_t epoch, std::int32_t batch, std::int32_t rows,
                                std::int32_t heads, std::int32_t head_bytes, const void* send, void* receive,
                                Stream stream);

  // ---- libraries
  int (*matmul)(const Matmul* call, Stream stream);  ///< cuBLASLt; in the emulator loops on the host
  /// The library's name and version, "cuBLASLt 13.1.0".
  int (*matmul_library)(char text[64]);
  /// The library's choice for such a product on the thread's device, none that splits the sum over k, as text for
  /// matmul_algorithm. Sizes, strides, types and workspace_bytes of `call` count; a, b, c and the addend will be at
  /// multiples of `alignment` bytes (a power of two, at most 16).
  int (*matmul_choose)(const Matmul* call, std::int32_t alignment, char text[256]);
  /// Of such a text; fails where the library does not compute this product so here.
  int (*matmul_algorithm)(const Matmul* call, const char* text, MatmulAlgorithm* algorithm);

  // ---- NCCL, opened when first asked for; all null where the library was built without its header. Communicators do
  // not block: whoever waits asks nccl_state. All ranks of a communicator issue the same calls in the same order, and
  // those of a rank's communicators go to one stream in one order, the same on all ranks.
  int (*nccl_version)(std::int32_t* version);  ///< 22809: 2.28.9
  /// Of a communicator to be, for all its ranks; whoever asks must be one of them.
  int (*nccl_unique_id)(char id[128]);
  /// Begins to make this rank's end of it, on the thread's device.
  int (*nccl_begin)(const char id[128], std::int32_t rank, std::int32_t ranks, void** communicator);
  /// Whether what was asked last is under way still; fails with what has gone wrong since, here or at another rank.
  int (*nccl_state)(void* communicator, std::int32_t* in_progress);
  /// Ends the communicator, and what the device does for it, whatever state it is in.
  int (*nccl_abort)(void* communicator);
  /// nccl_finalize begins to end it in order; nccl_destroy when that is no longer in progress.
  int (*nccl_finalize)(void* communicator);
  int (*nccl_destroy)(void* communicator);
  /// All messages of this rank, at most one entry a peer.
  int (*nccl_exchange)(void* communicator, const NcclTransfer* transfers, std::int32_t count, Stream stream);
  int (*nccl_all_gather)(void* communicator, const void* send, void* receive, std::int64_t bytes_per_rank,
                         Stream stream);
  /// Sums in an order of NCCL's own.
  int (*nccl_all_reduce)(void* communicator, const void* send, void* receive, std::int64_t count, Type type,
                         Stream stream);
  int (*nccl_reduce_scatter)(void* communicator, const void* send, void* receive, std::int64_t count_per_rank,
                             Type type, Stream stream);

  /// Of the emulator only (null on a GPU), for tests. "nccl_fault", "WHAT RANK NUMBER": what befalls the operation of
  /// that number (from 1) of every communicator's rank RANK: "silent" (it never comes), "error" (an asynchronous
  /// error); of number 0 the making of the communicator. "": nothing. "matmul", "ORDER=0" (unless set) or "ORDER=1":
  /// what matmul_choose prefers. "wave", "32" or "64": how many lanes go in lock step, before a device is used; with 64
  /// a block has 64 KiB of shared memory, as on CDNA 2 and 3.
  int (*configure)(const char* key, const char* value);
};

}  // namespace longhaul::cuda

/// The only symbol that the library exports.
extern "C" const longhaul::cuda::Api* longhaul_cuda_api();
