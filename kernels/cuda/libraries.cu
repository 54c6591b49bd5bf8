// cuBLASLt, opened when first used: a machine without it still runs everything else.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <string>
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
  LONGHAUL_BLAS(MatmulAlgoCheck);
  LONGHAUL_BLAS(MatmulAlgoConfigGetAttribute);
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

/// The library's choices for a product, best first; one at least.
struct Choices {
  std::array<cublasLtMatmulHeuristicResult_t, 8> results{};
  int count = 0;
};
/// `most` of them; `alignment`: of b, a, the addend and c.
Choices best_algorithms(const BlasContext& context, const Described& product,
                        const std::array<std::uint32_t, 4>& alignment, std::size_t workspace_bytes, int most) {
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
  Choices choices;
  const cublasStatus_t status =
      blas.MatmulAlgoGetHeuristic(context.handle, product.description, product.b, product.a, product.c, product.c,
                                  preference, most, choices.results.data(), &choices.count);
  blas.MatmulPreferenceDestroy(preference);
  require(status == CUBLAS_STATUS_SUCCESS && choices.count >= 1, "cuBLASLt has no algorithm for this matrix product");
  return choices;
}

// ---- algorithms as text: "ID=66 TILE=20 ... BITS=...". The first are for people; the structure itself, which the
// library's header lets be kept and restored for the same version of it, stands in hexadecimal digits at the end.

template <typename Word>
struct Attribute {
  const char* name;
  cublasLtMatmulAlgoConfigAttributes_t attribute;
};
template <typename Visitor>
void for_attributes(const Visitor& visit) {
  visit(Attribute<std::int32_t>{"ID", CUBLASLT_ALGO_CONFIG_ID});
  visit(Attribute<std::uint32_t>{"TILE", CUBLASLT_ALGO_CONFIG_TILE_ID});
  visit(Attribute<std::uint32_t>{"STAGES", CUBLASLT_ALGO_CONFIG_STAGES_ID});
  visit(Attribute<std::int32_t>{"SPLITK", CUBLASLT_ALGO_CONFIG_SPLITK_NUM});
  visit(Attribute<std::uint32_t>{"REDUCTION", CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME});
}
static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(MatmulAlgorithm) &&
              std::is_trivially_copyable_v<cublasLtMatmulAlgo_t>);

template <typename Word>
Word attribute_of(const BlasContext& context, const cublasLtMatmulAlgo_t& algorithm,
                  cublasLtMatmulAlgoConfigAttributes_t attribute, const char* name) {
  Word value = 0;
  std::size_t written = 0;
  check(context.blas.MatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof value, &written), name);
  return value;
}

/// Why the library does not compute the product so, without splitting the sum over k; "" when it does.
std::string refusal(const BlasContext& context, const Described& product, const Matmul& call,
                    const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = context.blas.MatmulAlgoCheck(context.handle, product.description, product.b, product.a,
                                                             product.c, product.c, &algorithm, &result);
  if (status != CUBLAS_STATUS_SUCCESS) return "cublasLtMatmulAlgoCheck: cuBLASLt status " + std::to_string(status);
  if (result.workspaceSize > static_cast<std::size_t>(call.workspace_bytes))
    return "it needs " + std::to_string(result.workspaceSize) + " bytes of workspace";
  if (attribute_of<std::uint32_t>(context, algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, "REDUCTION") != 0 ||
      attribute_of<std::int32_t>(context, algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, "SPLITK") > 1)
    return "it splits the sum over k";
  return "";
}

void matmul_library(char* text) {
  const std::size_t version = blas_context().blas.GetVersion();
  std::snprintf(text, 64, "cuBLASLt %zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
}

void matmul_choose(const Matmul* call, std::int32_t alignment, char* text) {
  const BlasContext& context = blas_context();
  const Described product(context.blas, *call);
  const auto bytes = static_cast<std::uint32_t>(alignment);
  std::string why;
  const Choices choices = best_algorithms(context, product, {bytes, bytes, bytes, bytes},
                                          static_cast<std::size_t>(call->workspace_bytes), 8);
  for (int i = 0; i < choices.count; i++) {
    const cublasLtMatmulAlgo_t& algorithm = choices.results[i].algo;
    why = refusal(context, product, *call, algorithm);
    if (!why.empty()) continue;
    std::string to;
    for_attributes([&]<typename Word>(const Attribute<Word>& one) {
      to += one.name;
      to += '=' + std::to_string(attribute_of<Word>(context, algorithm, one.attribute, one.name)) + ' ';
    });
    to += "BITS=";
    MatmulAlgorithm bits;
    std::memcpy(&bits, &algorithm, sizeof bits);
    for (const std::uint64_t word : bits.words) {
      char digits[17];
      std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(word));
      to += digits;
    }
    require(to.size() < 256, "the text of an algorithm is too long");
    std::memcpy(text, to.c_str(), to.size() + 1);
    return;
  }
  throw CallError("cuBLASLt has no algorithm for this matrix product that can be kept: " + why);
}

void matmul_algorithm(const Matmul* call, const char* text, MatmulAlgorithm* to) {
  const BlasContext& context = blas_context();
  const Described product(context.blas, *call);
  const std::string from(text), garbled = "an algorithm of cuBLASLt is garbled: " + from;
  const std::size_t at = from.find("BITS=");
  MatmulAlgorithm bits{};
  require(at != std::string::npos && from.size() == at + 5 + 2 * sizeof bits &&
              from.find_first_not_of("0123456789abcdef", at + 5) == std::string::npos,
          garbled);
  for (std::size_t i = 0; i < std::size(bits.words); i++)
    bits.words[i] = std::strtoull(from.substr(at + 5 + 16 * i, 16).c_str(), nullptr, 16);
  cublasLtMatmulAlgo_t algorithm;
  std::memcpy(&algorithm, &bits, sizeof algorithm);
  const std::string why = refusal(context, product, *call, algorithm);
  require(why.empty(), "an algorithm of cuBLASLt that was kept is refused: " + why + ": " + from);
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
      found = context.algorithms
                  .emplace(key, best_algorithms(context, product, alignment, workspace_bytes, 1).results[0].algo)
                  .first;
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
