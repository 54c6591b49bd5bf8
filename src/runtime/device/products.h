// Matrix products by the vendor's library: every kind that kernels ask for is known when a kernel is made, so that the
// library's algorithm is chosen before the first step, once for all ranks, and kept as text with the run.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "runtime/device/device.h"

namespace longhaul {

/// One kind of product: sizes, strides, types and workspace, not where its operands lie.
class ProductPlan {
 public:
  /// Queues `call`, which must be of this kind and have its pointers. Throws Error with the device's words.
  void run(const Device& device, cuda::Matmul call) const;

 private:
  friend class ProductPlans;
  cuda::Matmul product_{};
  std::int32_t alignment_ = 0;
  std::string text_;      // the algorithm; empty: not decided
  bool is_made_ = false;  // from the text, on the device
  cuda::MatmulAlgorithm algorithm_{};
};

/// All of a rank, by their names: "256x64x128 bfloat16 to float32, second transposed, strides 128 64 64, ...".
class ProductPlans {
 public:
  explicit ProductPlans(const Device& device) : device_(device) {}
  ProductPlans(const ProductPlans&) = delete;
  ProductPlans& operator=(const ProductPlans&) = delete;

  /// The plan of such products, the same object for the same kind. Pointers, alpha and beta of `product` do not count;
  /// operands and the result will lie at multiples of `alignment` bytes (a power of two, at most 16).
  std::shared_ptr<const ProductPlan> add(const cuda::Matmul& product, std::int32_t alignment);

  /// Nothing is decided any more. What was queued keeps what it has.
  void forget();
  /// Decides for all kinds, on the selected device: as `decided` (an earlier text()) has it, where that was decided on
  /// such a device by such a library, else as the library prefers. Returns a line for the user. Throws Error for a
  /// garbled `decided`.
  std::string choose(const std::string& decided);
  /// {"device": {"model": ..., "library": ..., "products": {name: algorithm}}}, and what CPUs have decided beside it,
  /// which stays with a run that goes on here; "{}" when nothing is decided.
  std::string text() const;
  /// Takes what another rank has chosen. Throws Error when it is garbled.
  void decide(const std::string& text);
  /// Makes the algorithms of all that is decided, on the selected device. Throws Error when that is another model, or
  /// has another library, than they were decided for, or refuses one.
  void make();

 private:
  struct Decided {
    std::string model, library;
    std::map<std::string, std::string> algorithms = {};  // by product
    std::string others = "{}";                           // what CPUs have decided
  };
  static Decided parse(const std::string& text);
  std::string library() const;

  const Device& device_;
  std::map<std::string, std::shared_ptr<ProductPlan>> plans_;
  Decided decided_;
};

}  // namespace longhaul
