#include "tokenizer/template.h"

#include <algorithm>

#include "base/error.h"
#include "tokenizer/template_nodes.h"

namespace longhaul::chat {
namespace {

using Kind = Node::Kind;
// What one chat may take: a template from elsewhere must not hold the program.
constexpr std::int64_t most_steps = 20'000'000;
constexpr std::size_t most_bytes = std::size_t{1} << 28;

class Evaluator {
 public:
  Evaluator(const Dict& variables, const std::string& where) : where_(where), scopes_{variables} {}

  Rendered run(const Nodes& body) {
    if (block(body) != Flow::on) fail("{}: break or continue outside a loop", where_);
    return std::move(out_);
  }

 private:
  enum class Flow { on, broken, next };
  struct Depth {
    explicit Depth(Evaluator& of) : evaluator(of) {
      if (++evaluator.depth_ > 100) fail("{}: macros call one another too deep", evaluator.where_);
    }
    ~Depth() { --evaluator.depth_; }
    Evaluator& evaluator;
  };

  [[noreturn]] void refuse(const Node& node, const std::string& what) const {
    fail("{}:{}: {}", where_, node.line, what);
  }
  void step(const Node& node) {
    if (++steps_ > most_steps) refuse(node, "the template takes too long");
  }
  void write(const Node& node, const std::string& text) {
    if (out_.text.size() + text.size() > most_bytes) refuse(node, "the template writes too much");
    out_.text += text;
  }

  Flow block(const Nodes& nodes) {
    for (const auto& node : nodes)
      if (const Flow flow = statement(*node); flow != Flow::on) return flow;
    return Flow::on;
  }
  Flow statement(const Node& node) {
    step(node);
    switch (node.kind) {
      case Kind::text:
        write(node, node.name);
        return Flow::on;
      case Kind::output:
        write(node, guarded(node, [&] { return value(*node.children[0]).text(); }));
        return Flow::on;
      case Kind::if_:
        for (std::size_t i = 0; i < node.children.size(); ++i)
          if (value(*node.children[i]).truth()) return block(node.blocks[i]);
        return node.blocks.size() > node.children.size() ? block(node.blocks.back()) : Flow::on;
      case Kind::for_:
        loop(node);
        return Flow::on;
      case Kind::set:
        set(node);
        return Flow::on;
      case Kind::macro:
        macros_.push_back(std::make_unique<Macro>(Macro{&node}));
        assign(node.name, Value(static_cast<const Macro*>(macros_.back().get())));
        return Flow::on;
      case Kind::generation: {
        const std::size_t begin = out_.text.size();
        const Flow flow = block(node.blocks[0]);
        out_.generations.push_back({begin, out_.text.size()});
        return flow;
      }
      case Kind::break_:
        return Flow::broken;
      case Kind::continue_:
        return Flow::next;
      default:
        LONGHAUL_CHECK(false, "an expression stands where a statement should");
    }
  }
  // Adds the line to what values and filters complain of.
  template <typename Function>
  auto guarded(const Node& node, Function&& function) -> decltype(function()) {
    try {
      return function();
    } catch (const Error& error) {
      const std::string_view message = error.what();
      if (message.starts_with(where_)) throw;
      refuse(node, std::string(message));
    }
  }

  void assign(const std::string& name, Value value) {
    if (Value* found = find(scopes_.back(), name))
      *found = std::move(value);
    else
      scopes_.back().emplace_back(name, std::move(value));
  }
  void set(const Node& node) {
    Value result;
    if (!node.children.empty()) {
      result = value(*node.children[0]);
    } else {
      result = captured(node.blocks[0]);
    }
    if (node.member) {
      const Value target = variable(node.names[0]);
      if (!target.dict()) refuse(node, fmt::format("{} is no namespace", node.names[0]));
      if (Value* found = find(*target.dict(), node.names[1]))
        *found = std::move(result);
      else
        target.dict()->emplace_back(node.names[1], std::move(result));
    } else {
      bind(node, result);
    }
  }
  void bind(const Node& node, const Value& result) {
    if (node.names.size() == 1) return assign(node.names[0], result);
    if (!result.list() || result.list()->size() != node.names.size())
      refuse(node, fmt::format("{} values are wanted", node.names.size()));
    for (std::size_t i = 0; i < node.names.size(); ++i) assign(node.names[i], (*result.list())[i]);
  }
  std::string captured(const Nodes& nodes) {
    Rendered outer = std::move(out_);
    out_ = {};
    block(nodes);
    if (!out_.generations.empty()) fail("{}: a generation block inside set or macro is not supported", where_);
    std::string text = std::move(out_.text);
    out_ = std::move(outer);
    return text;
  }

  void loop(const Node& node) {
    const Value over = value(*node.children[0]);
    List items;
    if (over.list())
      items = *over.list();
    else if (!over.undefined())
      items = *guarded(node, [&] { return apply_filter(over, "list", {}, {}); }).list();
    scopes_.emplace_back();
    if (node.children.size() > 1) {
      List kept;
      for (const Value& one : items) {
        scopes_.back().clear();
        bind(node, one);
        if (value(*node.children[1]).truth()) kept.push_back(one);
      }
      items = std::move(kept);
    }
    const auto count = static_cast<std::int64_t>(items.size());
    for (std::int64_t i = 0; i < count; ++i) {
      scopes_.back().clear();
      bind(node, items[static_cast<std::size_t>(i)]);
      Dict state = {{"index", i + 1},  {"index0", i},           {"first", i == 0},           {"last", i + 1 == count},
                    {"length", count}, {"revindex", count - i}, {"revindex0", count - i - 1}};
      if (i > 0) state.emplace_back("previtem", items[static_cast<std::size_t>(i) - 1]);
      if (i + 1 < count) state.emplace_back("nextitem", items[static_cast<std::size_t>(i) + 1]);
      assign("loop", Value(std::move(state)));
      if (block(node.blocks[0]) == Flow::broken) break;
    }
    scopes_.pop_back();
    if (count == 0 && node.blocks.size() > 1) block(node.blocks[1]);
  }

  Value variable(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (const Value* found = find(*scope, name)) return *found;
    return {};
  }

  Value value(const Node& node) {
    step(node);
    const auto child = [&](std::size_t i) { return value(*node.children[i]); };
    switch (node.kind) {
      case Kind::literal:
        return node.value;
      case Kind::variable:
        return variable(node.name);
      case Kind::list: {
        List list;
        for (std::size_t i = 0; i < node.children.size(); ++i) list.push_back(child(i));
        return list;
      }
      case Kind::dict: {
        Dict dict;
        for (std::size_t i = 0; i < node.children.size(); i += 2) {
          const Value key = child(i);
          if (!key.string()) refuse(node, "a key of a dictionary must be a string");
          dict.emplace_back(*key.string(), child(i + 1));
        }
        return dict;
      }
      case Kind::attribute:
        return member(node, child(0), Value(node.name));
      case Kind::index:
        return member(node, child(0), child(1));
      case Kind::slice:
        return slice(node);
      case Kind::call:
        return call(node);
      case Kind::filter: {
        const Value subject = child(0);
        std::vector<Value> places;
        Dict named;
        arguments(node, places, named);
        return guarded(node, [&] { return apply_filter(subject, node.name, places, named); });
      }
      case Kind::test: {
        const Value subject = child(0);
        std::vector<Value> places;
        Dict named;
        arguments(node, places, named);
        return guarded(node, [&] { return apply_test(subject, node.name, places); });
      }
      case Kind::not_:
        return !child(0).truth();
      case Kind::negate: {
        const Value operand = child(0);
        std::int64_t number = 0;
        if (operand.real()) return -*operand.real();
        if (!operand.as_integer(number)) refuse(node, fmt::format("- before {}", operand.kind()));
        return -number;
      }
      case Kind::and_: {
        const Value left = child(0);
        return left.truth() ? child(1) : left;
      }
      case Kind::or_: {
        const Value left = child(0);
        return left.truth() ? left : child(1);
      }
      case Kind::binary:
        return binary(node, child(0), child(1));
      case Kind::choose:
        if (child(1).truth()) return child(0);
        return node.children.size() > 2 ? child(2) : Value();
      default:
        LONGHAUL_CHECK(false, "a statement stands where an expression should");
    }
  }
  Value member(const Node& node, const Value& of, const Value& key) const {
    std::int64_t number = 0;
    if (of.undefined())
      refuse(node, fmt::format("{} of something undefined", key.string() ? *key.string() : "an index"));
    if (of.dict() && key.string()) {
      const Value* found = find(*of.dict(), *key.string());
      return found ? *found : Value();
    }
    if ((of.list() || of.string()) && key.as_integer(number)) {
      const List items = of.list() ? *of.list() : *apply_filter(of, "list", {}, {}).list();
      if (number < 0) number += static_cast<std::int64_t>(items.size());
      if (number < 0 || number >= static_cast<std::int64_t>(items.size())) return {};
      return items[static_cast<std::size_t>(number)];
    }
    return {};
  }
  Value slice(const Node& node) {
    const Value of = value(*node.children[0]);
    if (!of.list() && !of.string()) refuse(node, fmt::format("a part of {}", of.kind()));
    const List items = of.list() ? *of.list() : *apply_filter(of, "list", {}, {}).list();
    const auto count = static_cast<std::int64_t>(items.size());
    const auto bound = [&](std::size_t i, std::int64_t fallback) {
      if (!node.children[i]) return fallback;
      const Value held = value(*node.children[i]);
      std::int64_t number = fallback;
      if (!held.none() && !held.as_integer(number)) refuse(node, fmt::format("{} as a bound", held.kind()));
      return number;
    };
    const std::int64_t stride = bound(3, 1);
    if (stride == 0) refuse(node, "a stride of 0");
    const auto place = [&](std::size_t i, std::int64_t fallback) {
      if (!node.children[i]) return fallback;
      std::int64_t number = bound(i, fallback);
      if (number < 0) number += count;
      return stride > 0 ? std::clamp<std::int64_t>(number, 0, count) : std::clamp<std::int64_t>(number, -1, count - 1);
    };
    const std::int64_t begin = place(1, stride > 0 ? 0 : count - 1), end = place(2, stride > 0 ? count : -1);
    List part;
    for (std::int64_t i = begin; stride > 0 ? i < end : i > end; i += stride)
      part.push_back(items[static_cast<std::size_t>(i)]);
    if (of.list()) return part;
    std::string text;
    for (const Value& one : part) text += *one.string();
    return text;
  }
  Value binary(const Node& node, const Value& a, const Value& b) {
    const std::string& name = node.name;
    if (name == "==") return equal(a, b);
    if (name == "!=") return !equal(a, b);
    if (name == "~") return guarded(node, [&] { return a.text() + b.text(); });
    if (name == "in") {
      if (a.string() && b.string()) return b.string()->find(*a.string()) != std::string::npos;
      if (b.none() || b.boolean() || b.integer()) refuse(node, fmt::format("in {}", b.kind()));
      return guarded(node, [&] { return apply_test(a, "in", {b}); });
    }
    if (a.string() && b.string()) {
      if (name == "+") return *a.string() + *b.string();
      if (name == "<") return *a.string() < *b.string();
      if (name == ">") return *a.string() > *b.string();
      if (name == "<=") return *a.string() <= *b.string();
      if (name == ">=") return *a.string() >= *b.string();
    }
    if (a.list() && b.list() && name == "+") {
      List both = *a.list();
      both.insert(both.end(), b.list()->begin(), b.list()->end());
      return both;
    }
    std::int64_t x = 0, y = 0;
    if (!a.as_integer(x) || !b.as_integer(y))
      refuse(node, fmt::format("{} {} {} is not supported", a.kind(), name, b.kind()));
    if (name == "<") return x < y;
    if (name == ">") return x > y;
    if (name == "<=") return x <= y;
    if (name == ">=") return x >= y;
    std::int64_t result = 0;
    bool overflow = false;
    if (name == "+") overflow = __builtin_add_overflow(x, y, &result);
    if (name == "-") overflow = __builtin_sub_overflow(x, y, &result);
    if (name == "*") overflow = __builtin_mul_overflow(x, y, &result);
    if (name == "/") refuse(node, "the operator / is not supported");
    if (name == "//" || name == "%") {
      if (y == 0 || y == -1) refuse(node, fmt::format("{} by {}", name, y));
      result = name == "%" ? x % y : x / y;
      if (x % y != 0 && (x < 0) != (y < 0)) result += name == "%" ? y : -1;
    }
    if (overflow) refuse(node, "a number is too large");
    return result;
  }

  void arguments(const Node& node, std::vector<Value>& places, Dict& named) {
    for (std::size_t i = 1; i < node.children.size(); ++i) {
      Value held = value(*node.children[i]);
      if (node.names[i - 1].empty())
        places.push_back(std::move(held));
      else
        named.emplace_back(node.names[i - 1], std::move(held));
    }
  }
  Value call(const Node& node) {
    std::vector<Value> places;
    Dict named;
    arguments(node, places, named);
    const Node& callee = *node.children[0];
    if (callee.kind == Kind::attribute) {
      const Value of = value(*callee.children[0]);
      Value result;
      const auto known = [&] {
        if (of.string()) return string_method(*of.string(), callee.name, places, result);
        if (of.list() && callee.name == "append" && places.size() == 1) {
          of.list()->push_back(places[0]);
          result = None{};
          return true;
        }
        if (!of.dict()) return false;
        if (callee.name == "items" && places.empty()) {
          result = apply_filter(of, "items", {}, {});
          return true;
        }
        if (callee.name == "keys" && places.empty()) {
          result = apply_filter(of, "list", {}, {});
          return true;
        }
        if (callee.name == "get" && !places.empty() && places[0].string()) {
          const Value* found = find(*of.dict(), *places[0].string());
          result = found ? *found : places.size() > 1 ? places[1] : Value(None{});
          return true;
        }
        return false;
      };
      if (guarded(node, known)) return result;
      const Value held = of.dict() ? member(callee, of, Value(callee.name)) : Value();
      if (held.macro()) return expand(node, *held.macro(), places, named);
      refuse(node, fmt::format("the method {} of {} is not supported", callee.name, of.kind()));
    }
    if (callee.kind != Kind::variable) refuse(node, "a call of something that has no name");
    const Value held = variable(callee.name);
    if (held.macro()) return expand(node, *held.macro(), places, named);
    if (callee.name == "raise_exception")
      fail("the chat template refuses it: {}", places.empty() ? "" : places[0].text());
    if (callee.name == "namespace" || callee.name == "dict") return named;
    if (callee.name == "range") {
      std::int64_t begin = 0, end = 0, stride = 1;
      if (places.empty() || places.size() > 3 || !places.back().as_integer(end)) refuse(node, "range wants numbers");
      if (places.size() >= 2 && (!places[0].as_integer(begin) || !places[1].as_integer(end)))
        refuse(node, "range wants numbers");
      if (places.size() == 3 && (!places[2].as_integer(stride) || stride == 0)) refuse(node, "range wants numbers");
      List list;
      for (std::int64_t i = begin; stride > 0 ? i < end : i > end; i += stride) {
        step(node);
        list.emplace_back(i);
      }
      return list;
    }
    if (callee.name == "strftime_now")
      refuse(node, "it writes the current date, so that equal files would give different tokens on different days");
    refuse(node, fmt::format("the function {} is not supported", callee.name));
  }
  Value expand(const Node& node, const Macro& macro, const std::vector<Value>& places, const Dict& named) {
    const Depth depth(*this);
    const Node& definition = *macro.node;
    Dict scope;
    for (std::size_t i = 0; i < definition.names.size(); ++i) {
      const Value* by_name = find(named, definition.names[i]);
      Value held = i < places.size()        ? places[i]
                   : by_name                ? *by_name
                   : definition.children[i] ? value(*definition.children[i])
                                            : Value();
      scope.emplace_back(definition.names[i], std::move(held));
    }
    if (places.size() > definition.names.size())
      refuse(node, fmt::format("the macro {} takes {} arguments", definition.name, definition.names.size()));
    // A macro sees what is global, not what its caller has.
    std::vector<Dict> scopes = {std::move(scopes_.front()), std::move(scope)};
    std::swap(scopes, scopes_);
    std::string text = captured(definition.blocks[0]);
    std::swap(scopes, scopes_);
    scopes_.front() = std::move(scopes.front());
    return text;
  }

  const std::string& where_;
  std::vector<Dict> scopes_;
  std::vector<std::unique_ptr<Macro>> macros_;
  Rendered out_;
  std::int64_t steps_ = 0;
  int depth_ = 0;
};

}  // namespace

Template::Template(std::string_view source, std::string where)
    : where_(std::move(where)), body_(parse_template(source, where_, marks_generations_)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

Rendered Template::render(const Dict& variables) const {
  return Evaluator(variables, where_).run(body_);
}

}  // namespace longhaul::chat
