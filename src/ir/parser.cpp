#include <cctype>
#include <charconv>
#include <optional>
#include <stdexcept>

#include "base/error.h"
#include "ir/graph.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

// A cursor over one line; every complaint names the line.
class Line {
 public:
  Line(std::string_view text, int number) : text_(text), number_(number) {}

  [[noreturn]] void complain(const std::string& what) const {
    fail("IR line {}: {} at '{}'", number_, what, text_.substr(at_, 40));
  }
  void skip_space() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool done() {
    skip_space();
    return at_ >= text_.size();
  }
  bool accept(std::string_view token) {
    skip_space();
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }
  void expect(std::string_view token) {
    if (!accept(token)) complain(fmt::format("expected '{}'", token));
  }
  char peek() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  std::string word() {
    skip_space();
    const auto begin = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '_')) ++at_;
    if (at_ == begin) complain("expected a word");
    return std::string(text_.substr(begin, at_ - begin));
  }
  std::int64_t integer() {
    skip_space();
    std::int64_t value = 0;
    const auto result = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (result.ec != std::errc()) complain("expected an integer");
    at_ = static_cast<std::size_t>(result.ptr - text_.data());
    return value;
  }
  double number() {
    skip_space();
    double value = 0;
    const auto result = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (result.ec != std::errc()) complain("expected a number");
    at_ = static_cast<std::size_t>(result.ptr - text_.data());
    return value;
  }
  /// An integer, or a number when a point, exponent, inf or nan follows the digits.
  Attribute numeric() {
    skip_space();
    auto end = at_;
    while (end < text_.size() && text_[end] != ',' && text_[end] != '}' && text_[end] != ']' && text_[end] != ' ')
      ++end;
    if (text_.substr(at_, end - at_).find_first_of(".einf") == std::string_view::npos) return integer();
    return number();
  }
  std::string quoted() {
    expect("\"");
    std::string text;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') ++at_;
      if (at_ < text_.size()) text += text_[at_++];
    }
    if (at_ >= text_.size()) complain("unfinished text");
    ++at_;
    return text;
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
  int number_;
};

class Parser {
 public:
  Graph run(std::string_view text) {
    int number = 0;
    most_values_ = 4096 + static_cast<std::int64_t>(text.size());
    while (!text.empty()) {
      const auto end = std::min(text.find('\n'), text.size());
      Line line(text.substr(0, end), ++number);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.done() || line.accept("#")) continue;
      if (line.accept("graph ")) {
        if (has_header_) line.complain("a second header");
        header(line);
        has_header_ = true;
      } else if (!has_header_) {
        line.complain("expected the header 'graph \"name\" mesh(...)'");
      } else if (line.accept("input ")) {
        input(line);
      } else if (line.accept("output ")) {
        output(line);
      } else {
        op(line);
      }
      if (!line.done()) line.complain("unexpected text");
    }
    if (!has_header_) fail("IR text has no header");
    return std::move(graph_);
  }

 private:
  void header(Line& line) {
    graph_.name = line.quoted();
    line.expect("mesh(");
    std::vector<MeshAxis> axes;
    while (!line.accept(")")) {
      if (!axes.empty()) line.expect(",");
      MeshAxis axis;
      axis.name = line.word();
      line.expect("=");
      const std::int64_t size = line.integer();
      if (size < 1 || size > 1'000'000) line.complain(fmt::format("mesh axis {} of size {}", axis.name, size));
      for (const auto& other : axes)
        if (other.name == axis.name) line.complain(fmt::format("mesh axis {} twice", axis.name));
      if (axes.size() == AxisList::capacity) line.complain("too many mesh axes");
      axis.size = static_cast<int>(size);
      axes.push_back(axis);
    }
    graph_.mesh = Mesh(axes);
  }

  AxisList axes(Line& line) {
    AxisList list;
    if (line.accept("-")) return list;
    do {
      const std::string name = line.word();
      const int axis = graph_.mesh.find(name);
      if (axis < 0) line.complain(fmt::format("no mesh axis '{}'", name));
      if (list.contains(axis)) line.complain(fmt::format("mesh axis '{}' twice", name));
      list.push_back(axis);
    } while (line.accept("."));
    return list;
  }

  DimensionLayout dimension(Line& line) {
    DimensionLayout dimension;
    dimension.axes = axes(line);
    if (line.accept("+")) dimension.rotation = static_cast<int>(line.integer());
    return dimension;
  }

  Layout layout(Line& line) {
    Layout layout;
    line.expect("[");
    while (!line.accept("]")) {
      if (!layout.dimensions.empty()) line.expect(",");
      layout.dimensions.push_back(dimension(line));
    }
    if (line.accept("flat(")) {
      layout.flat = axes(line);
      if (line.accept("by")) {
        layout.flat_block = line.integer();
        if (layout.flat_block < 2 || layout.flat_block > 1 << 20) line.complain("blocks of 2 to 1048576 elements");
      }
      line.expect(")");
    }
    if (line.accept("sum(")) {
      layout.partial = axes(line).set();
      line.expect(")");
    }
    return layout;
  }

  ValueId reference(Line& line) {
    line.expect("%");
    const auto id = line.integer();
    if (id < 0 || id >= most_values_)
      line.complain(fmt::format("a value number out of range: a text of this length has less than {}", most_values_));
    if (static_cast<std::size_t>(id) >= graph_.values.size()) graph_.values.resize(static_cast<std::size_t>(id) + 1);
    return static_cast<ValueId>(id);
  }

  // A reference to a value that an earlier line defines.
  ValueId use(Line& line) {
    const ValueId id = reference(line);
    if (static_cast<std::size_t>(id) >= defined_.size() || !defined_[static_cast<std::size_t>(id)])
      line.complain(fmt::format("%{} is not defined before this", id));
    return id;
  }

  std::optional<Role> role(Line& line) {
    if (!std::isalpha(static_cast<unsigned char>(line.peek()))) return std::nullopt;
    for (int number = 0; number < roles; ++number) {
      const auto role = static_cast<Role>(number);
      if (line.accept(std::string(name_of(role)) + " ")) return role;
    }
    return std::nullopt;
  }

  ValueId value(Line& line) {
    const ValueId id = reference(line);
    defined_.resize(graph_.values.size(), 0);
    if (defined_[static_cast<std::size_t>(id)]++) line.complain(fmt::format("%{} is defined twice", id));
    Value value;
    line.expect(":");
    const std::string type = line.word();
    const auto dtype = parse_dtype(type);
    if (!dtype) line.complain(fmt::format("no dtype '{}'", type));
    value.dtype = *dtype;
    line.expect("[");
    while (!line.accept("]")) {
      if (!value.shape.empty()) line.expect(",");
      value.shape.push_back(line.integer());
    }
    line.expect("@");
    value.layout = layout(line);
    if (value.layout.dimensions.size() != value.shape.size()) line.complain("layout and shape differ in dimensions");
    if (line.accept("host")) value.space = Space::host;
    value.role = role(line).value_or(Role::intermediate);
    if (line.peek() == '"') value.name = line.quoted();
    if (line.accept("primal=")) value.primal = reference(line);
    if (line.accept("pinned=@")) value.pinned = layout(line);
    graph_[id] = std::move(value);
    return id;
  }

  StateKey key(const Line& line, Role role, const std::string& parameter) {
    if (parameter.empty()) line.complain(fmt::format("{} without the name of its parameter", name_of(role)));
    return {role, parameter};
  }

  void input(Line& line) {
    const ValueId id = value(line);
    Value& value = graph_[id];
    graph_.inputs.push_back(is_state(value.role) ? Binding(key(line, value.role, value.name), id)
                                                 : Binding(value.name, id));
    value.name = graph_.inputs.back().name;
  }

  void output(Line& line) {
    const auto role = this->role(line);
    const std::string name = line.quoted();
    if (role && !is_state(*role)) line.complain(fmt::format("an output of role {}", name_of(*role)));
    const ValueId id = use(line);
    graph_.outputs.push_back(role ? Binding(key(line, *role, name), id) : Binding(name, id));
  }

  Attribute attribute(Line& line) {
    if (line.peek() == '"') return line.quoted();
    if (line.accept("<")) {
      const AxisList list = axes(line);
      line.expect(">");
      return list;
    }
    if (line.accept("{")) {
      LetterSplits splits;
      while (!line.accept("}")) {
        if (!splits.empty()) line.expect(",");
        const std::string letter = line.word();
        if (letter.size() != 1) line.complain(fmt::format("'{}' is no letter of a signature", letter));
        if (splits.find(letter[0])) line.complain(fmt::format("letter {} twice", letter));
        line.expect(":");
        splits.set(letter[0], dimension(line));
      }
      return splits;
    }
    if (line.accept("[")) {
      std::vector<double> list;
      while (!line.accept("]")) {
        if (!list.empty()) line.expect(",");
        list.push_back(line.number());
      }
      return list;
    }
    return line.numeric();
  }

  void op(Line& line) {
    Op op;
    do op.results.push_back(value(line));
    while (line.accept(","));
    line.expect("=");
    std::string name = line.word();
    if (line.accept(".")) name += "." + line.word();  // half of a pair
    op.definition = find_op(name);
    if (!op.definition) line.complain(fmt::format("no op '{}'", name));
    std::string signature = op.definition->signature;
    if (signature.empty()) signature = line.quoted();
    line.expect("(");
    while (!line.accept(")")) {
      if (!op.operands.empty()) line.expect(",");
      op.operands.push_back(use(line));
    }
    try {
      op.signature = graph_.signature(signature, op.operands);
    } catch (const std::logic_error&) {
      line.complain(fmt::format("signature '{}' does not fit these operands", signature));
    }
    if (op.signature->results.size() != op.results.size())
      line.complain(fmt::format("signature '{}' has {} results, not {}", signature, op.signature->results.size(),
                                op.results.size()));
    if (line.accept("{"))
      while (!line.accept("}")) {
        if (!op.attributes.all().empty()) line.expect(",");
        const std::string key = line.word();
        line.expect("=");
        op.attributes.set(key, attribute(line));
      }
    for (Phase phase : {Phase::forward, Phase::backward, Phase::update})
      if (line.accept(name_of(phase))) op.phase = phase;
    if (line.accept("layer=")) op.layer = static_cast<std::int32_t>(line.integer());
    if (line.accept("by=")) op.made_by = line.word();
    graph_.ops.push_back(std::move(op));
  }

  Graph graph_;
  // The graph holds a value for every number below the largest, and passes leave holes: far more than any text of ours
  // needs, and little memory for one that is wrong.
  std::int64_t most_values_ = 0;
  bool has_header_ = false;
  std::vector<char> defined_;
};

}  // namespace

Graph parse_graph(std::string_view text) {
  return Parser().run(text);
}

}  // namespace longhaul
