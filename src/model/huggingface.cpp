#include "model/huggingface.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest_name.h"
#include "model/family.h"
#include "model/parameters.h"
#include "model/unread_models.h"

namespace longhaul {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

std::vector<std::unique_ptr<Family>>& registry() {
  static std::vector<std::unique_ptr<Family>> families;
  return families;
}

const Family* find_family(std::string_view model_type) {
  for (const auto& family : all_families())
    if (family->model_type() == model_type) return family.get();
  return nullptr;
}

const Family& known_family(std::string_view model_type) {
  const Family* family = find_family(model_type);
  if (!family)
    fail("\"{}\" is not a supported model_type; supported are {}", model_type, join_names(supported_families()));
  return *family;
}

/// The first field in which two specs differ, as "layers/4/mlp/size = 64". Groups are compared layer by layer: another
/// grouping is no difference.
std::string first_difference(const TransformerSpec& wanted, const TransformerSpec& other) {
  const auto flat = [](const TransformerSpec& spec) {
    TransformerSpec single = spec;
    single.layers.clear();
    for (const LayerSpec* layer : spec.each_layer()) single.layers.push_back({1, *layer});
    return json(spec_to_json(single)).flatten();
  };
  const json a = flat(wanted), b = flat(other);
  for (const auto& [pointer, value] : a.items())
    if (!b.contains(pointer) || b[pointer] != value) return fmt::format("{} = {}", pointer.substr(1), value.dump());
  return "fewer layers";
}

TransformerSpec merged(TransformerSpec spec) {
  merge_equal_groups(spec);
  return spec;
}

/// The config.json of a family, or "" and the reason when it cannot express the spec.
std::string family_config(const Family& family, const TransformerSpec& spec, DType dtype, const json& source,
                          std::string& why_not) {
  ordered_json config;
  config["architectures"] = {family.architecture()};
  config["model_type"] = family.model_type();
  config["torch_dtype"] = name_of(dtype);
  try {
    config.update(family.to_config(spec));
    const json parsed = json(config);
    ConfigReader reader(parsed, "export", family.model_type());
    const TransformerSpec back = merged(family.to_spec(reader));
    check_spec(back, "export");
    if (back != merged(spec)) {
      why_not = first_difference(merged(spec), back);
      return "";
    }
  } catch (const Error& error) {
    why_not = error.what();
    return "";
  }
  // Token ids and the like from the file that the model came from; never its spelling of what the spec decides.
  if (source.is_object() && source.value("model_type", json()) == family.model_type())
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class", "use_cache"})
      if (source.contains(key)) config[key] = source[key];
  // Without them transformers takes the family's defaults, which may lie outside the vocabulary.
  for (const char* key : {"bos_token_id", "eos_token_id"})
    if (!config.contains(key)) config[key] = nullptr;
  return config.dump(2) + "\n";
}

}  // namespace

const std::vector<std::unique_ptr<Family>>& all_families() {
  return registry();
}

RegisterFamily::RegisterFamily(std::unique_ptr<Family> family) {
  auto& families = registry();
  families.push_back(std::move(family));
  // Static objects of different files are made in no fixed order.
  std::sort(families.begin(), families.end(), [](const auto& a, const auto& b) {
    return std::pair(a->export_rank(), a->model_type()) < std::pair(b->export_rank(), b->model_type());
  });
}

std::vector<std::string> supported_families() {
  std::vector<std::string> names{std::string(own_family)};
  for (const auto& family : all_families()) names.push_back(family->model_type());
  std::sort(names.begin() + 1, names.end());
  return names;
}

namespace {

/// Python's json module writes NaN, Infinity and 1e999 for numbers that JSON does not have. As texts they do no harm
/// where nothing reads them, and are refused by name where something does.
std::string with_quoted_numbers(std::string_view text) {
  std::string result;
  bool inside = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    std::size_t count = 1;
    if (inside) {
      count = rest[0] == '\\' ? std::min<std::size_t>(2, rest.size()) : 1;
      inside = rest[0] != '"';
    } else if (rest[0] == '"') {
      inside = true;
    } else if (rest[0] == '-' || (rest[0] >= '0' && rest[0] <= '9')) {
      count = std::min(rest.find_first_not_of("+-.0123456789eE", 1), rest.size());
      const bool infinite = rest.starts_with("-Infinity");
      if (infinite) count = 9;
      double value = 0;
      const auto read = std::from_chars(rest.data(), rest.data() + count, value);
      const bool beyond = read.ec == std::errc::result_out_of_range && rest.find("e-") >= count;
      if (infinite || beyond) {
        result += fmt::format("\"{}\"", rest.substr(0, count));
        at += count;
        continue;
      }
    } else {
      for (const std::string_view word : {"NaN", "Infinity"})
        if (rest.starts_with(word)) {
          result += fmt::format("\"{}\"", word);
          count = 0;
          at += word.size();
          break;
        }
    }
    result += rest.substr(0, count);
    at += count;
  }
  return result;
}

}  // namespace

LoadedModel parse_model(const std::string& text, const std::string& origin) {
  const json config = parse_json(with_quoted_numbers(text), origin);
  if (!config.is_object()) fail("{}: a model's JSON must be an object", origin);
  const auto type = config.find("model_type");
  const std::string name = type != config.end() && type->is_string() ? type->get<std::string>() : "";
  if (name.empty())
    fail("{}: the key model_type is missing or not a text; supported are {}", origin, join_names(supported_families()));
  LoadedModel model;
  model.family = name;
  model.file = origin;
  model.config_text = text;
  if (name == own_family) {
    model.spec = model.stored = spec_from_json(config, origin);
    return model;
  }
  const Family* family = find_family(name);
  if (const std::string reason = why_not_read(name); !family && !reason.empty())
    fail("{}: model_type \"{}\" is not supported: {}. Supported are {}", origin, name, reason,
         join_names(supported_families()));
  if (!family)
    fail("{}: model_type \"{}\" is not supported; supported are {}", origin, name, join_names(supported_families()));
  ConfigReader reader(config, origin, name);
  model.spec = merged(family->to_spec(reader));
  reader.refuse_unread();
  check_spec(model.spec, origin);
  model.stored = model.spec;
  model.notes = reader.notes();
  return model;
}

LoadedModel load_model(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::path file = path;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status)) {
    file = path / "config.json";
    if (!std::filesystem::exists(file, error)) {
      std::vector<std::string> names;
      for (std::filesystem::directory_iterator item(path, error), end; !error && item != end && names.size() < 12;
           item.increment(error))
        names.push_back(item->path().filename().string());
      std::sort(names.begin(), names.end());
      fail("{}: the folder holds no config.json; it holds {}", path.string(),
           names.empty() ? "nothing" : join_names(names));
    }
  } else if (status.type() == std::filesystem::file_type::not_found) {
    // "owner/name" is how models are called on a hub.
    const std::string owner = path.parent_path().filename().string(), name = path.filename().string();
    const bool like_a_hub_name =
        !owner.empty() && !path.has_extension() && !std::filesystem::exists(path.parent_path(), error);
    fail("{}: no such file or folder{}", path.string(),
         like_a_hub_name || name.find("-") != std::string::npos
             ? fmt::format(
                   "; if {}/{} is a model on a hub, download it first and name its folder: nothing is downloaded "
                   "here",
                   owner, name)
             : "");
  }
  return parse_model(read_text_file(file), file.string());
}

std::int64_t WeightMapping::elements() const {
  std::int64_t product = 1;
  for (std::int64_t size : shape) product *= size;
  return product;
}

namespace {

/// Elements of a row of a tensor that is not transposed.
std::int64_t row_elements(const WeightMapping& mapping) {
  std::int64_t row = 1;
  for (std::size_t i = 1; i < mapping.tensor_shape.size(); ++i) row *= mapping.tensor_shape[i];
  return row;
}

}  // namespace

std::int64_t WeightMapping::tensor_offset(std::int64_t element) const {
  if (!transposed) {
    const std::int64_t size = row_elements(*this);
    std::int64_t row = element / size;
    if (paired) {
      const std::int64_t in_head = row % head_rows, half = paired / 2;
      if (in_head < paired) row += (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1) - in_head;
    }
    if (block) row = row / block * stride + row % block;
    return (begin + row) * size + element % size;
  }
  const std::int64_t inputs = tensor_shape[0], outputs = tensor_shape[1];
  return element % inputs * outputs + begin + element / inputs;
}

std::int64_t WeightMapping::run(std::int64_t element) const {
  if (transposed) return 1;
  const std::int64_t size = row_elements(*this), rest = elements() - element;
  if (paired) return std::min(rest, size - element % size);
  return block ? std::min(rest, block * size - element % (block * size)) : rest;
}

std::vector<WeightMapping> weight_mappings(const TransformerSpec& spec, std::string_view family) {
  const std::vector<Parameter> list = parameters(spec);
  std::vector<WeightMapping> result;
  if (family == own_family) {
    for (const Parameter& p : list) result.push_back({p.name, p.shape, p.name, "", p.shape, false, 0});
    return result;
  }
  std::map<std::string, WeightMapping> by_name;
  for (WeightMapping& mapping : known_family(family).weights(spec)) by_name[mapping.parameter] = std::move(mapping);
  for (const Parameter& parameter : list) {
    const auto found = by_name.find(parameter.name);
    LONGHAUL_CHECK(found != by_name.end(), "family {} has no tensor for {}", family, parameter.name);
    found->second.shape = parameter.shape;
    result.push_back(found->second);
  }
  LONGHAUL_CHECK(result.size() == by_name.size(), "family {} names {} tensors for {} parameters", family,
                 by_name.size(), result.size());
  return result;
}

bool is_ignored_tensor(std::string_view tensor, const TransformerSpec& spec, std::string_view family) {
  return family != own_family && known_family(family).ignores_tensor(tensor, spec);
}

ExportedConfig export_config(const TransformerSpec& spec, std::string_view preferred, DType dtype,
                             const std::string& source_config) {
  check_spec(spec, "export");
  const json source = source_config.empty() ? json() : json::parse(source_config, nullptr, false);
  std::vector<const Family*> order;
  if (const Family* first = find_family(preferred)) order.push_back(first);
  for (const auto& family : all_families())
    if (family->model_type() != preferred) order.push_back(family.get());
  ExportedConfig result;
  for (const Family* family : order) {
    std::string why_not;
    const std::string text = family_config(*family, spec, dtype, source, why_not);
    if (!text.empty()) return {family->model_type(), text, ""};
    result.why_not += fmt::format("{}{}: {}", result.why_not.empty() ? "" : "; ", family->model_type(), why_not);
  }
  result.family = own_family;
  result.text = spec_text(spec);
  return result;
}

}  // namespace longhaul
