#include "model/unread_models.h"

#include <map>

namespace longhaul {
namespace {

constexpr std::string_view experts = "a mixture of experts, which is not supported";
constexpr std::string_view latent = "a mixture of experts with latent attention (MLA), neither of which is supported";
constexpr std::string_view images =
    "reads images too, which is not supported; its text model may be of a supported family";
constexpr std::string_view encoder = "an encoder, not a causal language model";
constexpr std::string_view recurrent = "recurrent, without attention over all tokens";
constexpr std::string_view expressible =
    "not read, but a spec of our own (model_type \"longhaul\") can say it: docs/models.md has that spec";

const std::map<std::string_view, std::string_view>& known() {
  static const std::map<std::string_view, std::string_view> table = {
      {"mixtral", experts},
      {"qwen2_moe", experts},
      {"qwen3_moe", experts},
      {"deepseek", experts},
      {"granitemoe", experts},
      {"olmoe", experts},
      {"phimoe", experts},
      {"gpt_oss", experts},
      {"deepseek_v2", latent},
      {"deepseek_v3", latent},
      {"llava", images},
      {"phi3_v", images},
      {"gemma3", images},
      {"mistral3", images},
      {"qwen2_vl", images},
      {"qwen2_5_vl", images},
      {"mllama", images},
      {"llama4", images},
      {"bert", encoder},
      {"roberta", encoder},
      {"rwkv5", recurrent},
      {"rwkv", recurrent},
      {"mamba", recurrent},
      {"mamba2", recurrent},
      {"t5", "an encoder with a decoder; only decoders are supported"},
      {"baichuan", "its head normalises the weights, or its attention has ALiBi; neither is supported"},
      {"falcon", "its older files have ALiBi or several layouts of one tensor; it is not read"},
      {"gptj", expressible},
      {"gpt_bigcode", expressible},
      {"qwen", expressible},
      {"chatglm", expressible},
      {"phi-msft", "an older spelling of the phi family: the same weights are published as \"phi\""},
  };
  return table;
}

}  // namespace

std::string why_not_read(std::string_view model_type) {
  const auto found = known().find(model_type);
  return found == known().end() ? "" : std::string(found->second);
}

}  // namespace longhaul
