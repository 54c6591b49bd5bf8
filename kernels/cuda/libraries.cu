// cuBLASLt, opened when first used: a machine without it still runs everything else.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <tuple>

#include "kernels/cuda/device.h"
#include "kernels/cuda/library.h"

namespace longhaul::cuda {
namespace {

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

}  // namespace

void device::add_libraries(Api& api) {
  api.matmul = GuardedCall<matmul>::call;
}

}  // namespace longhaul::cuda
