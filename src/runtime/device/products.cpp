#include "runtime/device/products.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

namespace longhaul {
namespace {

const char* name_of(cuda::Type type) {
  return type == cuda::Type::bfloat16 ? "bfloat16" : "float32";
}

std::string name_of(const cuda::Matmul& one, std::int32_t alignment) {
  return fmt::format("{}x{}x{}{}{}, {} to {}, strides {} {} {}, aligned to {}, workspace {}", one.m, one.n, one.k,
                     one.a_transposed ? ", first transposed" : "", one.b_transposed ? ", second transposed" : "",
                     name_of(one.type), name_of(one.out_type), one.a_stride, one.b_stride, one.c_stride, alignment,
                     one.workspace_bytes);
}

}  // namespace

void ProductPlan::run(const Device& device, cuda::Matmul call) const {
  LONGHAUL_CHECK(call.m == product_.m && call.n == product_.n && call.k == product_.k &&
                     call.workspace_bytes == product_.workspace_bytes,
                 "a product of another kind than planned");
  const auto places = reinterpret_cast<std::uintptr_t>(call.a) | reinterpret_cast<std::uintptr_t>(call.b) |
                      reinterpret_cast<std::uintptr_t>(call.c) | reinterpret_cast<std::uintptr_t>(call.addend);
  LONGHAUL_CHECK(places % static_cast<std::uintptr_t>(alignment_) == 0,
                 "operands of a product that do not lie at multiples of {} bytes", alignment_);
  call.algorithm = is_made_ ? &algorithm_ : nullptr;
  device.succeed(device.api().matmul(&call, device.stream()));
}

std::shared_ptr<const ProductPlan> ProductPlans::add(const cuda::Matmul& product, std::int32_t alignment) {
  std::shared_ptr<ProductPlan>& plan = plans_[name_of(product, alignment)];
  if (!plan) {
    plan = std::make_shared<ProductPlan>();
    plan->product_ = product;
    plan->alignment_ = alignment;
  }
  return plan;
}

void ProductPlans::forget() {
  decided_ = {};
  for (auto& [name, plan] : plans_) {
    plan->text_.clear();
    plan->is_made_ = false;
  }
}

std::string ProductPlans::library() const {
  char text[64] = "";
  device_.succeed(device_.api().matmul_library(text));
  return text;
}

ProductPlans::Decided ProductPlans::parse(const std::string& text) {
  Decided decided;
  if (text.empty()) return decided;
  const auto garbled = [&] { fail("the algorithms of matrix products are garbled: {}", text); };
  const nlohmann::json json = parse_json(text, "the algorithms of matrix products");
  if (!json.is_object()) garbled();
  nlohmann::json others = json;
  others.erase("device");
  decided.others = others.dump();
  if (!json.contains("device")) return decided;
  const nlohmann::json& device = json["device"];
  if (!device.is_object() || !device.contains("model") || !device["model"].is_string() || !device.contains("library") ||
      !device["library"].is_string() || !device.contains("products") || !device["products"].is_object())
    garbled();
  decided.model = device["model"];
  decided.library = device["library"];
  for (const auto& [product, algorithm] : device["products"].items()) {
    if (!algorithm.is_string()) garbled();
    decided.algorithms[product] = algorithm;
  }
  return decided;
}

std::string ProductPlans::choose(const std::string& text) {
  const Decided before = parse(text);
  if (plans_.empty()) return "";
  device_.enter();
  const Decided here{.model = device_.info().name, .library = library()};
  const bool is_alike = before.model == here.model && before.library == here.library;
  if (!is_alike || decided_.model.empty()) decided_ = here;
  if (is_alike) decided_.algorithms = before.algorithms;
  decided_.others = before.others;
  const cuda::Api& api = device_.api();
  std::size_t changed = 0;
  for (const auto& [name, plan] : plans_) {
    const auto old = before.algorithms.find(name);
    cuda::MatmulAlgorithm algorithm{};
    if (old != before.algorithms.end()) {
      if (is_alike && api.matmul_algorithm(&plan->product_, old->second.c_str(), &algorithm) == 0) continue;
      ++changed;
    }
    char chosen[256] = "";
    device_.succeed(api.matmul_choose(&plan->product_, plan->alignment_, chosen));
    decided_.algorithms[name] = chosen;
  }
  std::string summary = fmt::format("matrix products: {} by {}", plans_.size(), here.library);
  if (changed)
    summary +=
        fmt::format("; {} had another algorithm in the checkpoint ({} on {}): the run goes on with other roundings",
                    changed, before.library, before.model);
  return summary;
}

std::string ProductPlans::text() const {
  nlohmann::json json = nlohmann::json::parse(decided_.others);
  if (!decided_.algorithms.empty())
    json["device"] = {
        {"model", decided_.model}, {"library", decided_.library}, {"products", nlohmann::json(decided_.algorithms)}};
  return json.empty() ? "{}" : json.dump(1);
}

void ProductPlans::decide(const std::string& text) {
  decided_ = parse(text);
  for (const auto& [name, plan] : plans_) plan->is_made_ = false;
}

void ProductPlans::make() {
  if (decided_.algorithms.empty()) return;
  device_.enter();
  const std::string model = device_.info().name, here = library();
  if (model != decided_.model || here != decided_.library)
    fail(
        "this rank's matrix products would be {}'s on {}, rank 0's are {}'s on {}, which round differently: show the "
        "run devices of one model and one version of the library",
        here, model, decided_.library, decided_.model);
  for (const auto& [name, plan] : plans_) {
    const auto found = decided_.algorithms.find(name);
    if (found == decided_.algorithms.end() || (plan->is_made_ && plan->text_ == found->second)) continue;
    if (device_.api().matmul_algorithm(&plan->product_, found->second.c_str(), &plan->algorithm_) != 0)
      fail("{} does not compute the product {} by {}: {}", here, name, found->second, device_.api().last_error());
    plan->text_ = found->second;
    plan->is_made_ = true;
  }
}

}  // namespace longhaul
