#include "cost/profile.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest_name.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// What a number may be.
struct Range {
  double minimum = 0, maximum = 1e30;
  bool open = false;  // the minimum itself is not allowed
};
constexpr Range positive{0, 1e30, true};

/// One object of a profile: every key is asked for once, and what is left over is refused.
class Section {
 public:
  Section(const json& object, std::string path, const std::string& origin, const JsonLines& lines)
      : object_(object), path_(std::move(path)), origin_(origin), lines_(lines) {
    if (!object.is_object()) fail("{}: {} must be an object; it is {}", where(path_), named(path_), object.dump());
  }

  double number(const std::string& key, Range range) {
    const json& value = find(key);
    if (!value.is_number() || !inside(value.get<double>(), range))
      fail("{}: {} is {}; allowed: {}", where(path(key)), named(path(key)), value.dump(), allowed(range));
    return value.get<double>();
  }
  /// Written as 8e10 or 80000000000.
  std::int64_t integer(const std::string& key, std::int64_t minimum) {
    constexpr double most = 0x1p53;
    const json& value = find(key);
    const double found = value.is_number() ? value.get<double>() : -1;
    if (found != std::floor(found) || found < static_cast<double>(minimum) || found > most)
      fail("{}: {} is {}; allowed: an integer from {} to 2^53", where(path(key)), named(path(key)), value.dump(),
           minimum);
    return static_cast<std::int64_t>(found);
  }
  std::string text(const std::string& key) {
    const json& value = find(key);
    if (!value.is_string() || value.get_ref<const std::string&>().empty())
      fail("{}: {} is {}; allowed: a text that says {}", where(path(key)), named(path(key)), value.dump(),
           key == "source" ? "where the numbers beside it come from" : "what this is");
    return value.get<std::string>();
  }
  Curve curve(const std::string& key, Range x, Range y) {
    const json& value = find(key);
    std::vector<std::pair<double, double>> points;
    bool good = value.is_array() && !value.empty();
    for (std::size_t i = 0; good && i < value.size(); ++i) {
      const json& point = value[i];
      good = point.is_array() && point.size() == 2 && point[0].is_number() && point[1].is_number() &&
             inside(point[0].get<double>(), x) && inside(point[1].get<double>(), y) &&
             (i == 0 || point[0].get<double>() > points.back().first);
      if (good) points.emplace_back(point[0].get<double>(), point[1].get<double>());
    }
    if (!good)
      fail("{}: {} is {}; allowed: a list of points [x, y] with ascending x, x {}, y {}", where(path(key)),
           named(path(key)), value.dump(), allowed(x), allowed(y));
    return Curve(std::move(points));
  }
  Section section(const std::string& key) { return {find(key), path(key), origin_, lines_}; }
  bool has(const std::string& key) {
    if (object_.contains(key)) return true;
    known_.push_back(key);
    return false;
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> list;
    for (const auto& [key, value] : object_.items()) list.push_back(key);
    return list;
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& kind, const std::vector<std::string>& those) {
    const std::string nearest = nearest_name(key, those);
    fail("{}: {} names no {}{}; allowed: {}", where(path(key)), named(path(key)), kind,
         nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest), join_names(those));
  }
  void finish() {
    for (const std::string& key : keys()) {
      if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
      if (path_.empty() && key == "$schema") continue;
      const std::string nearest = nearest_name(key, known_);
      fail("{}: unknown key {}{}; known here: {}", where(path(key)), named(path(key)),
           nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest), join_names(known_));
    }
  }

 private:
  static bool inside(double value, const Range& range) {
    return std::isfinite(value) && value <= range.maximum &&
           (range.open ? value > range.minimum : value >= range.minimum);
  }
  static std::string allowed(const Range& range) {
    const std::string least =
        range.open ? fmt::format("above {:g}", range.minimum) : fmt::format("of at least {:g}", range.minimum);
    return range.maximum < 1e30 ? fmt::format("a number {} and at most {:g}", least, range.maximum)
                                : fmt::format("a number {}", least);
  }
  const json& find(const std::string& key) {
    known_.push_back(key);
    const auto found = object_.find(key);
    if (found == object_.end()) fail("{}: {} is missing", where(path_), named(path(key)));
    return *found;
  }
  std::string path(const std::string& key) const { return path_ + "/" + key; }
  static std::string named(const std::string& path) {
    std::string name = path.empty() ? "the profile" : path.substr(1);
    std::replace(name.begin(), name.end(), '/', '.');
    return name;
  }
  std::string where(const std::string& path) const {
    const auto line = lines_.find(path);
    return line == lines_.end() ? origin_ : fmt::format("{}:{}", origin_, line->second);
  }

  const json& object_;
  std::string path_;
  const std::string& origin_;
  const JsonLines& lines_;
  std::vector<std::string> known_;
};

DType dtype_of(Section& section, const std::string& key) {
  const auto type = parse_dtype(key);
  if (!type || !is_floating(*type)) section.refuse(key, "dtype", {"float64", "float32", "bfloat16"});
  return *type;
}

LinkProfile read_link(Section section) {
  LinkProfile link;
  link.latency = section.number("latency_seconds", {});
  link.bandwidth = section.number("bytes_per_second", positive);
  link.reducing =
      section.has("reducing_bytes_per_second") ? section.number("reducing_bytes_per_second", positive) : link.bandwidth;
  link.source = section.text("source");
  section.finish();
  return link;
}

ordered_json points_of(const Curve& curve) {
  ordered_json list = ordered_json::array();
  for (const auto& [x, y] : curve.points()) list.push_back({x, y});
  return list;
}

ordered_json json_of(const LinkProfile& link) {
  ordered_json object = {{"latency_seconds", link.latency}, {"bytes_per_second", link.bandwidth}};
  if (link.reducing != link.bandwidth) object["reducing_bytes_per_second"] = link.reducing;
  object["source"] = link.source;
  return object;
}

}  // namespace

double Curve::at(double x) const {
  if (points_.empty()) return 0;
  if (x <= points_.front().first) return points_.front().second;
  for (std::size_t i = 1; i < points_.size(); ++i) {
    const auto& [left, low] = points_[i - 1];
    const auto& [right, high] = points_[i];
    if (x <= right) return low + (high - low) * ((x - left) / (right - left));
  }
  return points_.back().second;
}

MachineProfile parse_profile(std::string_view text, const std::string& origin) {
  JsonLines lines;
  const json document = parse_json(text, origin, &lines);
  Section top(document, "", origin, lines);
  MachineProfile profile;
  profile.name = top.text("name");
  profile.about = top.text("about");

  Section memory = top.section("memory");
  profile.ranks_per_host = memory.integer("ranks_per_host", 1);
  profile.device_memory = memory.integer("device_bytes", 1);
  profile.host_memory = memory.integer("host_bytes", 1);
  profile.memory_source = memory.text("source");
  memory.finish();

  Section execution = top.section("execution");
  profile.launch = execution.number("launch_seconds", {});
  profile.bandwidth = execution.number("bytes_per_second", positive);
  if (execution.has("op_bytes_per_second")) {
    Section ops = execution.section("op_bytes_per_second");
    for (const std::string& op : ops.keys()) {
      if (!find_op(op)) {
        std::vector<std::string> names;
        for (const OpDefinition* one : all_ops()) names.push_back(one->name);
        ops.refuse(op, "op", names);
      }
      profile.op_bandwidth[op] = ops.number(op, positive);
    }
  }
  profile.execution_source = execution.text("source");
  execution.finish();

  Section products = top.section("products");
  for (const std::string& key : products.keys()) {
    const DType type = dtype_of(products, key);
    Section one = products.section(key);
    ProductProfile& product = profile.products[type];
    product.peak = one.number("peak_flops", positive);
    product.efficiency = one.curve("efficiency", {}, {0, 1, true});
    product.source = one.text("source");
    one.finish();
  }

  Section attention = top.section("attention");
  for (const std::string& key : attention.keys()) {
    const DType type = dtype_of(attention, key);
    Section one = attention.section(key);
    AttentionProfile& rate = profile.attention[type];
    rate.forward = one.curve("forward_flops", positive, positive);
    rate.backward = one.curve("backward_flops", positive, positive);
    rate.tile = one.integer("tile_keys", 1);
    rate.source = one.text("source");
    one.finish();
  }

  Section links = top.section("links");
  profile.host = read_link(links.section("host"));
  if (links.has("network")) profile.network = read_link(links.section("network"));
  links.finish();
  top.finish();
  return profile;
}

MachineProfile read_profile(const std::filesystem::path& file) {
  return parse_profile(read_text_file(file), file.string());
}

std::string profile_text(const MachineProfile& profile) {
  ordered_json top;
  top["name"] = profile.name;
  top["about"] = profile.about;
  top["memory"] = {{"ranks_per_host", profile.ranks_per_host},
                   {"device_bytes", profile.device_memory},
                   {"host_bytes", profile.host_memory},
                   {"source", profile.memory_source}};
  ordered_json& execution = top["execution"];
  execution = {{"launch_seconds", profile.launch}, {"bytes_per_second", profile.bandwidth}};
  if (!profile.op_bandwidth.empty()) execution["op_bytes_per_second"] = profile.op_bandwidth;
  execution["source"] = profile.execution_source;
  top["products"] = ordered_json::object();
  for (const auto& [type, product] : profile.products)
    top["products"][std::string(name_of(type))] = {
        {"peak_flops", product.peak}, {"efficiency", points_of(product.efficiency)}, {"source", product.source}};
  top["attention"] = ordered_json::object();
  for (const auto& [type, rate] : profile.attention)
    top["attention"][std::string(name_of(type))] = {{"forward_flops", points_of(rate.forward)},
                                                    {"backward_flops", points_of(rate.backward)},
                                                    {"tile_keys", rate.tile},
                                                    {"source", rate.source}};
  top["links"]["host"] = json_of(profile.host);
  if (profile.network) top["links"]["network"] = json_of(*profile.network);
  return top.dump(2) + "\n";
}

}  // namespace longhaul
