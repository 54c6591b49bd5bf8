// cuBLASLt and NCCL, opened when first used: a machine without one of them still runs everything else.
#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <tuple>

#include "kernels/cuda/device.h"
#ifdef LONGHAUL_WITH_NCCL
#include <nccl.h>
#endif

namespace longhaul::cuda {
namespace {

/// A shared library by the first of its names that can be opened; throws what the loader says about the last.
void* open_library(std::initializer_list<const char*> names) {
  std::string reason;
  for (const char* name : names) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    reason = dlerror();
  }
  throw CallError("cannot open " + reason);
}
template <typename Function>
Function symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  require(found, std::string("a library lacks ") + name + ": it is another version than the one this was built with");
  return reinterpret_cast<Function>(found);
}

// ---- cuBLASLt
#define LONGHAUL_BLAS(name) \
  decltype(&cublasLt##name) name = symbol<decltype(&cublasLt##name)>(library, "cublasLt" #name)
struct Blas {
  void* library = open_library({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
  LONGHAUL_BLAS(Create);
  LONGHAUL_BLAS(Matmul);
  LONGHAUL_BLAS(MatmulDescCreate);
  LONGHAUL_BLAS(MatmulDescDestroy);
  LONGHAUL_BLAS(MatmulDescSetAttribute);
  LONGHAUL_BLAS(MatrixLayoutCreate);
  LONGHAUL_BLAS(MatrixLayoutDestroy);
  LONGHAUL_BLAS(MatmulPreferenceCreate);
  LONGHAUL_BLAS(MatmulPreferenceDestroy);
  LONGHAUL_BLAS(MatmulPreferenceSetAttribute);
  LONGHAUL_BLAS(MatmulAlgoGetHeuristic);
};
#undef LONGHAUL_BLAS
void check(cublasStatus_t status, const char* what) {
  require(status == CUBLAS_STATUS_SUCCESS, std::string(what) + ": cuBLASLt status " + std::to_string(status));
}

constexpr std::size_t kWorkspaceBytes = 32 << 20;
using ShapeKey = std::tuple<std::int64_t, std::int64_t, std::int64_t, int, int, int, int, std::int64_t, std::int64_t,
                            std::int64_t, std::array<std::uint32_t, 4>, std::size_t>;
/// One a thread and device: ranks are threads, and a workspace serves one stream at a time.
struct BlasContext {
  Blas blas;
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<ShapeKey, cublasLtMatmulAlgo_t> algorithms;
  BlasContext() { check(blas.Create(&handle), "cublasLtCreate"); }
};
BlasContext& blas_context() {
  thread_local std::map<int, BlasContext> contexts;
  int device = 0;
  require(cudaGetDevice(&device) == cudaSuccess, "cudaGetDevice failed");
  return contexts[device];
}

cudaDataType_t data_type(Type type) {
  return type == Type::bfloat16 ? CUDA_R_16BF : CUDA_R_32F;
}

// The greatest power of two that divides an address, up to 256: what the heuristics presume of every matrix unless they
// are told.
std::uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer) | 256;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

// cuBLASLt is column-major: a row-major c = a b is its c' = b' a'.
void matmul(const Matmul& call, Stream stream) {
  BlasContext& context = blas_context();
  const Blas& blas = context.blas;
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  check(blas.MatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const cublasOperation_t first = call.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                          second = call.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  blas.MatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
  blas.MatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
  const std::uint64_t m = call.m, n = call.n, k = call.k;
  check(blas.MatrixLayoutCreate(&b, data_type(call.type), call.b_transposed ? k : n, call.b_transposed ? n : k,
                                call.b_stride),
        "cublasLtMatrixLayoutCreate");
  check(blas.MatrixLayoutCreate(&a, data_type(call.type), call.a_transposed ? m : k, call.a_transposed ? k : m,
                                call.a_stride),
        "cublasLtMatrixLayoutCreate");
  check(blas.MatrixLayoutCreate(&c, data_type(call.out_type), n, m, call.c_stride), "cublasLtMatrixLayoutCreate");

  const void* const addend = call.addend ? call.addend : call.c;
  void* workspace = call.workspace;
  std::size_t workspace_bytes = static_cast<std::size_t>(call.workspace_bytes);
  if (!workspace) {
    if (!context.workspace) device::allocate(&context.workspace, kWorkspaceBytes);
    workspace = context.workspace, workspace_bytes = kWorkspaceBytes;
  }
  const std::array<std::uint32_t, 4> alignment{alignment_of(call.b), alignment_of(call.a), alignment_of(addend),
                                               alignment_of(call.c)};
  const ShapeKey key{call.m,
                     call.n,
                     call.k,
                     call.a_transposed,
                     call.b_transposed,
                     static_cast<int>(call.type),
                     static_cast<int>(call.out_type),
                     call.a_stride,
                     call.b_stride,
                     call.c_stride,
                     alignment,
                     workspace_bytes};
  auto found = context.algorithms.find(key);
  if (found == context.algorithms.end()) {
    cublasLtMatmulPreference_t preference = nullptr;
    check(blas.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    blas.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                      sizeof workspace_bytes);
    // Sums of k that are split over blocks meet in an order, and a precision, of the library's choosing.
    const std::uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    blas.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split,
                                      sizeof no_split);
    const cublasLtMatmulPreferenceAttributes_t sides[4] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++)
      blas.MatmulPreferenceSetAttribute(preference, sides[i], &alignment[i], sizeof alignment[i]);
    cublasLtMatmulHeuristicResult_t result{};
    int results = 0;
    const cublasStatus_t status =
        blas.MatmulAlgoGetHeuristic(context.handle, description, b, a, c, c, preference, 1, &result, &results);
    blas.MatmulPreferenceDestroy(preference);
    require(status == CUBLAS_STATUS_SUCCESS && results == 1, "cuBLASLt has no algorithm for this matrix product");
    found = context.algorithms.emplace(key, result.algo).first;
  }
  const cublasStatus_t status =
      blas.Matmul(context.handle, description, &call.alpha, call.b, b, call.a, a, &call.beta, addend, c, call.c, c,
                  &found->second, workspace, workspace_bytes, native(stream));
  blas.MatrixLayoutDestroy(a), blas.MatrixLayoutDestroy(b), blas.MatrixLayoutDestroy(c);
  blas.MatmulDescDestroy(description);
  check(status, "cublasLtMatmul");
}

// ---- NCCL
#ifdef LONGHAUL_WITH_NCCL
#define LONGHAUL_NCCL(name) decltype(&nccl##name) name = symbol<decltype(&nccl##name)>(library, "nccl" #name)
struct Nccl {
  void* library = open_library({"libnccl.so.2", "libnccl.so"});
  LONGHAUL_NCCL(GetUniqueId);
  LONGHAUL_NCCL(CommInitRank);
  LONGHAUL_NCCL(CommDestroy);
  LONGHAUL_NCCL(CommUserRank);
  LONGHAUL_NCCL(CommCount);
  LONGHAUL_NCCL(AllReduce);
  LONGHAUL_NCCL(AllGather);
  LONGHAUL_NCCL(ReduceScatter);
  LONGHAUL_NCCL(Send);
  LONGHAUL_NCCL(Recv);
  LONGHAUL_NCCL(GroupStart);
  LONGHAUL_NCCL(GroupEnd);
  LONGHAUL_NCCL(GetErrorString);
};
#undef LONGHAUL_NCCL
const Nccl& nccl() {
  static const Nccl functions;
  return functions;
}
void check(ncclResult_t status, const char* what) {
  if (status != ncclSuccess) throw CallError(std::string(what) + ": " + nccl().GetErrorString(status));
}
ncclDataType_t nccl_type(Type type) {
  return type == Type::bfloat16 ? ncclBfloat16 : ncclFloat32;
}
ncclComm_t communicator_of(void* communicator) {
  return static_cast<ncclComm_t>(communicator);
}

void nccl_unique_id(char* id) {
  static_assert(sizeof(ncclUniqueId) == 128);
  check(nccl().GetUniqueId(reinterpret_cast<ncclUniqueId*>(id)), "ncclGetUniqueId");
}
void nccl_create(const char* id, std::int32_t rank, std::int32_t ranks, void** communicator) {
  ncclUniqueId copy;
  std::memcpy(&copy, id, sizeof copy);
  ncclComm_t created;
  check(nccl().CommInitRank(&created, ranks, copy, rank), "ncclCommInitRank");
  *communicator = created;
}
void nccl_destroy(void* communicator) {
  check(nccl().CommDestroy(communicator_of(communicator)), "ncclCommDestroy");
}
void nccl_all_reduce(void* communicator, const void* send, void* receive, std::int64_t count, Type type,
                     Stream stream) {
  check(nccl().AllReduce(send, receive, count, nccl_type(type), ncclSum, communicator_of(communicator), native(stream)),
        "ncclAllReduce");
}
void nccl_all_gather(void* communicator, const void* send, void* receive, std::int64_t count, Type type,
                     Stream stream) {
  check(nccl().AllGather(send, receive, count, nccl_type(type), communicator_of(communicator), native(stream)),
        "ncclAllGather");
}
void nccl_reduce_scatter(void* communicator, const void* send, void* receive, std::int64_t count_per_rank, Type type,
                         Stream stream) {
  check(nccl().ReduceScatter(send, receive, count_per_rank, nccl_type(type), ncclSum, communicator_of(communicator),
                             native(stream)),
        "ncclReduceScatter");
}
void nccl_all_to_all(void* communicator, const void* send, void* receive, std::int64_t count_per_rank, Type type,
                     Stream stream) {
  int ranks = 0;
  check(nccl().CommCount(communicator_of(communicator), &ranks), "ncclCommCount");
  const std::int64_t bytes = count_per_rank * (type == Type::bfloat16 ? 2 : 4);
  check(nccl().GroupStart(), "ncclGroupStart");
  for (int peer = 0; peer < ranks; peer++) {
    check(nccl().Send(static_cast<const char*>(send) + peer * bytes, bytes, ncclInt8, peer,
                      communicator_of(communicator), native(stream)),
          "ncclSend");
    check(nccl().Recv(static_cast<char*>(receive) + peer * bytes, bytes, ncclInt8, peer, communicator_of(communicator),
                      native(stream)),
          "ncclRecv");
  }
  check(nccl().GroupEnd(), "ncclGroupEnd");
}
#endif

}  // namespace

void device::add_libraries(Api& api) {
  api.matmul = GuardedCall<matmul>::call;
#ifdef LONGHAUL_WITH_NCCL
  api.nccl_unique_id = Guarded<nccl_unique_id>::call;
  api.nccl_create = Guarded<nccl_create>::call;
  api.nccl_destroy = Guarded<nccl_destroy>::call;
  api.nccl_all_reduce = Guarded<nccl_all_reduce>::call;
  api.nccl_all_gather = Guarded<nccl_all_gather>::call;
  api.nccl_reduce_scatter = Guarded<nccl_reduce_scatter>::call;
  api.nccl_all_to_all = Guarded<nccl_all_to_all>::call;
#endif
}

}  // namespace longhaul::cuda
