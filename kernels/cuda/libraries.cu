// cuBLASLt, opened when first used: a machine without it still runs everything else.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <tuple>
#include <type_traits>

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
  LONGHAUL_BLAS(MatmulAlgoInit);
  LONGHAUL_BLAS(MatmulAlgoCheck);
  LONGHAUL_BLAS(MatmulAlgoConfigGetAttribute);
  LONGHAUL_BLAS(MatmulAlgoConfigSetAttribute);
  LONGHAUL_BLAS(GetVersion);
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

// A product as the library sees it, which is column-major: a row-major c = a b is its c' = b' a'.
struct Described {
  const Blas& blas;
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  Described(const Blas& library, const Matmul& call) : blas(library) {
    check(blas.MatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t first = call.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = call.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    blas.MatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    blas.MatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
    const std::uint64_t m = call.m, n = call.n, k = call.k;
    layout(b, call.type, call.b_transposed ? k : n, call.b_transposed ? n : k, call.b_stride);
    layout(a, call.type, call.a_transposed ? m : k, call.a_transposed ? k : m, call.a_stride);
    layout(c, call.out_type, n, m, call.c_stride);
  }
  ~Described() {
    for (const cublasLtMatrixLayout_t one : {a, b, c})
      if (one) blas.MatrixLayoutDestroy(one);
    blas.MatmulDescDestroy(description);
  }
  Described(const Described&) = delete;
  Described& operator=(const Described&) = delete;

 private:
  void layout(cublasLtMatrixLayout_t& to, Type type, std::uint64_t rows, std::uint64_t columns, std::int64_t stride) {
    check(blas.MatrixLayoutCreate(&to, data_type(type), rows, columns, stride), "cublasLtMatrixLayoutCreate");
  }
};

/// `alignment`: of b, a, the addend and c.
cublasLtMatmulAlgo_t best_algorithm(const BlasContext& context, const Described& product,
                                    const std::array<std::uint32_t, 4>& alignment, std::size_t workspace_bytes) {
  const Blas& blas = context.blas;
  cublasLtMatmulPreference_t preference = nullptr;
  check(blas.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  blas.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                    sizeof workspace_bytes);
  // Sums of k that are split over blocks meet in an order, and a precision, of the library's choosing.
  const std::uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
  blas.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split, sizeof no_split);
  const cublasLtMatmulPreferenceAttributes_t sides[4] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  for (int i = 0; i < 4; i++)
    blas.MatmulPreferenceSetAttribute(preference, sides[i], &alignment[i], sizeof alignment[i]);
  cublasLtMatmulHeuristicResult_t result{};
  int results = 0;
  const cublasStatus_t status = blas.MatmulAlgoGetHeuristic(context.handle, product.description, product.b, product.a,
                                                            product.c, product.c, preference, 1, &result, &results);
  blas.MatmulPreferenceDestroy(preference);
  require(status == CUBLAS_STATUS_SUCCESS && results == 1, "cuBLASLt has no algorithm for this matrix product");
  return result.algo;
}

// ---- algorithms as text: "ID=66 TILE=20 ...", the attributes that cuBLASLt's manual lists, all of them always

template <typename Word>
struct Attribute {
  const char* name;
  cublasLtMatmulAlgoConfigAttributes_t attribute;
};
/// Calls with each attribute but the ID.
template <typename Visitor>
void for_attributes(const Visitor& visit) {
  visit(Attribute<std::uint32_t>{"TILE", CUBLASLT_ALGO_CONFIG_TILE_ID});
  visit(Attribute<std::uint32_t>{"STAGES", CUBLASLT_ALGO_CONFIG_STAGES_ID});
  visit(Attribute<std::int32_t>{"SPLITK", CUBLASLT_ALGO_CONFIG_SPLITK_NUM});
  visit(Attribute<std::uint32_t>{"REDUCTION", CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME});
  visit(Attribute<std::uint32_t>{"SWIZZLING", CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING});
  visit(Attribute<std::uint32_t>{"CUSTOM", CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION});
  visit(Attribute<std::uint16_t>{"INNER", CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID});
  visit(Attribute<std::uint16_t>{"CLUSTER", CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID});
}

void matmul_library(char* text) {
  const std::size_t version = blas_context().blas.GetVersion();
  std::snprintf(text, 64, "cuBLASLt %zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
}

void matmul_choose(const Matmul* call, std::int32_t alignment, char* text) {
  const BlasContext& context = blas_context();
  const Described product(context.blas, *call);
  const auto bytes = static_cast<std::uint32_t>(alignment);
  const cublasLtMatmulAlgo_t algorithm =
      best_algorithm(context, product, {bytes, bytes, bytes, bytes}, static_cast<std::size_t>(call->workspace_bytes));
  std::string to;
  const auto say = [&](const char* name, long long value) {
    if (!to.empty()) to += ' ';
    to += name;
    to += '=';
    to += std::to_string(value);
  };
  std::size_t written = 0;
  std::int32_t id = 0;
  check(context.blas.MatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_ID, &id, sizeof id, &written),
        "cublasLtMatmulAlgoConfigGetAttribute");
  say("ID", id);
  for_attributes([&]<typename Word>(const Attribute<Word>& one) {
    Word value = 0;
    check(context.blas.MatmulAlgoConfigGetAttribute(&algorithm, one.attribute, &value, sizeof value, &written),
          one.name);
    say(one.name, static_cast<long long>(value));
  });
  require(to.size() < 256, "the text of an algorithm is too long");
  std::memcpy(text, to.c_str(), to.size() + 1);
}

/// The number behind "NAME=" in `text`.
long long number_in(const std::string& text, const std::string& name) {
  const std::string spaced = " " + text;
  const std::size_t at = spaced.find(" " + name + "=");
  require(at != std::string::npos, "an algorithm of cuBLASLt lacks " + name + ": " + text);
  char* end = nullptr;
  const char* const begin = spaced.c_str() + at + name.size() + 2;
  const long long value = std::strtoll(begin, &end, 10);
  require(end != begin && (*end == ' ' || *end == '\0'), "an algorithm of cuBLASLt is garbled: " + text);
  return value;
}

void matmul_algorithm(const Matmul* call, const char* text, MatmulAlgorithm* to) {
  static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(MatmulAlgorithm) &&
                std::is_trivially_copyable_v<cublasLtMatmulAlgo_t>);
  const BlasContext& context = blas_context();
  const Described product(context.blas, *call);
  const std::string from(text);
  require(number_in(from, "REDUCTION") == 0 && number_in(from, "SPLITK") <= 1,
          "an algorithm of cuBLASLt splits the sum over k: " + from);
  cublasLtMatmulAlgo_t algorithm{};
  check(context.blas.MatmulAlgoInit(context.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, data_type(call->type),
                                    data_type(call->type), data_type(call->out_type), data_type(call->out_type),
                                    static_cast<int>(number_in(from, "ID")), &algorithm),
        "cublasLtMatmulAlgoInit");
  for_attributes([&]<typename Word>(const Attribute<Word>& one) {
    const auto value = static_cast<Word>(number_in(from, one.name));
    check(context.blas.MatmulAlgoConfigSetAttribute(&algorithm, one.attribute, &value, sizeof value), one.name);
  });
  cublasLtMatmulHeuristicResult_t result{};
  check(context.blas.MatmulAlgoCheck(context.handle, product.description, product.b, product.a, product.c, product.c,
                                     &algorithm, &result),
        "cublasLtMatmulAlgoCheck");
  require(result.workspaceSize <= static_cast<std::size_t>(call->workspace_bytes),
          "an algorithm of cuBLASLt needs " + std::to_string(result.workspaceSize) + " bytes of workspace: " + from);
  std::memcpy(to, &algorithm, sizeof algorithm);
}

void matmul(const Matmul& call, Stream stream) {
  BlasContext& context = blas_context();
  const Described product(context.blas, call);
  const void* const addend = call.addend ? call.addend : call.c;
  void* workspace = call.workspace;
  std::size_t workspace_bytes = static_cast<std::size_t>(call.workspace_bytes);
  if (!workspace) {
    if (!context.workspace) device::allocate(&context.workspace, kWorkspaceBytes);
    workspace = context.workspace, workspace_bytes = kWorkspaceBytes;
  }
  cublasLtMatmulAlgo_t algorithm;
  if (call.algorithm) {
    std::memcpy(&algorithm, call.algorithm, sizeof algorithm);
  } else {
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
    if (found == context.algorithms.end())
      found = context.algorithms.emplace(key, best_algorithm(context, product, alignment, workspace_bytes)).first;
    algorithm = found->second;
  }
  check(context.blas.Matmul(context.handle, product.description, &call.alpha, call.b, product.b, call.a, product.a,
                            &call.beta, addend, product.c, call.c, product.c, &algorithm, workspace, workspace_bytes,
                            native(stream)),
        "cublasLtMatmul");
}

}  // namespace

void device::add_libraries(Api& api) {
  api.matmul = GuardedCall<matmul>::call;
  api.matmul_library = Guarded<matmul_library>::call;
  api.matmul_choose = Guarded<matmul_choose>::call;
  api.matmul_algorithm = Guarded<matmul_algorithm>::call;
}

}  // namespace longhaul::cuda
