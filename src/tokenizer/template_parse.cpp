#include <algorithm>
#include <optional>

#include "base/error.h"
#include "tokenizer/template_nodes.h"

namespace longhaul::chat {
namespace {

struct Token {
  enum class Kind { text, begin_block, end_block, begin_output, end_output, name, string, integer, real, symbol, end };
  Kind kind{};
  std::string text;
  int line = 1;
};

bool space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& where) : source_(source), where_(where) {
    if (source_.ends_with('\n')) source_.remove_suffix(1);  // as Jinja drops one
  }

  std::vector<Token> run() {
    bool line_starts = true;  // what came before ended a line
    while (at_ < source_.size()) {
      const std::size_t open = next_open();
      std::string_view text = source_.substr(at_, open - at_);
      if (open == source_.size()) {
        put(Token::Kind::text, text);
        break;
      }
      const char kind = source_[open + 1];
      std::size_t inside = open + 2;
      const char sign = inside < source_.size() ? source_[inside] : '\0';
      const std::string_view whole = text;
      if (sign == '-') {
        while (!text.empty() && space(text.back())) text.remove_suffix(1);
      } else if (sign != '+' && kind != '{') {
        // lstrip_blocks: blanks between the line's begin and a block are left out.
        const std::size_t newline = text.rfind('\n');
        const std::size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
        if ((begin > 0 || line_starts) &&
            std::all_of(text.begin() + static_cast<std::ptrdiff_t>(begin), text.end(), space))
          text = text.substr(0, begin);
      }
      if (sign == '-' || (sign == '+' && kind != '{')) ++inside;
      put(Token::Kind::text, text);
      count_lines(whole);
      at_ = inside;
      if (kind == '#')
        comment();
      else
        expression(kind == '{');
      line_starts = at_ > 0 && source_[at_ - 1] == '\n';
    }
    put(Token::Kind::end, "");
    return std::move(tokens_);
  }

 private:
  std::size_t next_open() const {
    for (std::size_t i = at_; i + 1 < source_.size(); ++i)
      if (source_[i] == '{' && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) return i;
    return source_.size();
  }
  void put(Token::Kind kind, std::string_view text) {
    if (kind == Token::Kind::text && text.empty()) return;
    tokens_.push_back({kind, std::string(text), line_});
  }
  void count_lines(std::string_view text) { line_ += static_cast<int>(std::count(text.begin(), text.end(), '\n')); }
  // Behind a block or comment: trim_blocks drops one newline, a minus all white space.
  void after(bool minus, bool plus, bool block) {
    const std::size_t begin = at_;
    if (minus)
      while (at_ < source_.size() && space(source_[at_])) ++at_;
    else if (block && !plus && at_ < source_.size() && source_[at_] == '\n')
      ++at_;
    count_lines(source_.substr(begin, at_ - begin));
  }
  void comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string_view::npos) fail("{}:{}: a comment does not end", where_, line_);
    count_lines(source_.substr(at_, end - at_));
    const char sign = end > at_ ? source_[end - 1] : '\0';
    at_ = end + 2;
    after(sign == '-', sign == '+', true);
  }
  void expression(bool output) {
    put(output ? Token::Kind::begin_output : Token::Kind::begin_block, "");
    int depth = 0;
    for (;;) {
      while (at_ < source_.size() && space(source_[at_])) {
        if (source_[at_] == '\n') ++line_;
        ++at_;
      }
      if (at_ >= source_.size()) fail("{}:{}: an expression does not end", where_, line_);
      const std::string_view rest = source_.substr(at_);
      const std::string_view close = output ? "}}" : "%}";
      const bool minus = rest[0] == '-' && rest.substr(1).starts_with(close);
      const bool plus = !output && rest[0] == '+' && rest.substr(1).starts_with(close);
      if (depth == 0 && (minus || plus || rest.starts_with(close))) {
        put(output ? Token::Kind::end_output : Token::Kind::end_block, "");
        at_ += minus || plus ? 3 : 2;
        after(minus, plus, !output);
        return;
      }
      const char c = rest[0];
      if (c == '\'' || c == '"') {
        string(c);
      } else if (name_start(c)) {
        std::size_t end = 1;
        while (end < rest.size() && (name_start(rest[end]) || digit(rest[end]))) ++end;
        put(Token::Kind::name, rest.substr(0, end));
        at_ += end;
      } else if (digit(c)) {
        std::size_t end = 1;
        while (end < rest.size() && (digit(rest[end]) || (rest[end] == '_' && end + 1 < rest.size()))) ++end;
        bool real = false;
        if (end + 1 < rest.size() && rest[end] == '.' && digit(rest[end + 1])) {
          real = true;
          ++end;
          while (end < rest.size() && digit(rest[end])) ++end;
        }
        std::string number(rest.substr(0, end));
        std::erase(number, '_');
        if (number.size() > 18) fail("{}:{}: the number {} is too long", where_, line_, number);
        put(real ? Token::Kind::real : Token::Kind::integer, number);
        at_ += end;
      } else {
        std::size_t length = 0;
        for (const std::string_view two : {"**", "//", "==", "!=", "<=", ">="})
          if (rest.starts_with(two)) length = 2;
        if (length == 0 && std::string_view("+-*/%~<>=()[]{},.:|").find(c) != std::string_view::npos) length = 1;
        if (length == 0) fail("{}:{}: the character '{}' means nothing in an expression", where_, line_, c);
        if (c == '(' || c == '[' || c == '{') ++depth;
        if (c == ')' || c == ']' || c == '}') --depth;
        put(Token::Kind::symbol, rest.substr(0, length));
        at_ += length;
      }
    }
  }
  void string(char quote) {
    std::string text;
    std::size_t i = at_ + 1;
    for (;; ++i) {
      if (i >= source_.size()) fail("{}:{}: a string does not end", where_, line_);
      const char c = source_[i];
      if (c == quote) break;
      if (c != '\\') {
        text += c;
        continue;
      }
      if (++i >= source_.size()) fail("{}:{}: a string does not end", where_, line_);
      switch (source_[i]) {
        case 'n':
          text += '\n';
          break;
        case 't':
          text += '\t';
          break;
        case 'r':
          text += '\r';
          break;
        case '\\':
        case '\'':
        case '"':
          text += source_[i];
          break;
        default:
          fail("{}:{}: the escape \\{} in a string is not supported", where_, line_, source_[i]);
      }
    }
    count_lines(source_.substr(at_, i - at_));
    tokens_.push_back({Token::Kind::string, std::move(text), line_});
    at_ = i + 1;
  }

  std::string_view source_;
  const std::string& where_;
  std::size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& where) : tokens_(std::move(tokens)), where_(where) {}

  Nodes run(bool& marks_generations) {
    Nodes nodes = block({});
    marks_generations = marks_generations_;
    return nodes;
  }

 private:
  using Kind = Node::Kind;
  const Token& now() const { return tokens_[at_]; }
  bool is(Token::Kind kind, std::string_view text = {}) const {
    return now().kind == kind && (text.empty() || now().text == text);
  }
  bool symbol(std::string_view text) const { return is(Token::Kind::symbol, text); }
  bool word(std::string_view text) const { return is(Token::Kind::name, text); }
  bool take_symbol(std::string_view text) { return symbol(text) && ++at_; }
  bool take_word(std::string_view text) { return word(text) && ++at_; }
  [[noreturn]] void refuse(const std::string& what) const { fail("{}:{}: {}", where_, now().line, what); }
  void expect_symbol(std::string_view text) {
    if (!take_symbol(text)) refuse(fmt::format("'{}' is missing before '{}'", text, now().text));
  }
  std::string expect_name() {
    if (!is(Token::Kind::name)) refuse(fmt::format("a name is missing before '{}'", now().text));
    return tokens_[at_++].text;
  }
  void end_block() {
    if (!is(Token::Kind::end_block))
      refuse(fmt::format("a block goes on with '{}', which is not supported", now().text));
    ++at_;
  }
  NodePtr make(Kind kind, std::string name = {}) const {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->line = now().line;
    node->name = std::move(name);
    return node;
  }
  NodePtr make(Kind kind, std::string name, NodePtr a, NodePtr b = nullptr) const {
    NodePtr node = make(kind, std::move(name));
    node->children.push_back(std::move(a));
    if (b) node->children.push_back(std::move(b));
    return node;
  }
  struct Depth {
    explicit Depth(Parser& of) : parser(of) {
      if (++parser.depth_ > 200) parser.refuse("it is nested too deep");
    }
    ~Depth() { --parser.depth_; }
    Parser& parser;
  };

  // Statements up to a block that begins with one of `ends`, whose name has been read then; at the end of the template
  // without `ends`.
  Nodes block(std::vector<std::string_view> ends, std::string* found = nullptr) {
    const Depth depth(*this);
    Nodes nodes;
    for (;;) {
      if (is(Token::Kind::end)) {
        if (!ends.empty()) refuse(fmt::format("{} is missing", ends.back()));
        return nodes;
      }
      if (is(Token::Kind::text)) {
        nodes.push_back(make(Kind::text, now().text));
        ++at_;
      } else if (is(Token::Kind::begin_output)) {
        ++at_;
        nodes.push_back(make(Kind::output, {}, tuple()));
        if (!is(Token::Kind::end_output)) refuse(fmt::format("an expression goes on with '{}'", now().text));
        ++at_;
      } else {
        ++at_;
        const std::string name = expect_name();
        if (std::find(ends.begin(), ends.end(), name) != ends.end()) {
          if (found) *found = name;
          return nodes;
        }
        nodes.push_back(statement(name));
      }
    }
  }
  NodePtr statement(const std::string& name) {
    std::string end;
    if (name == "if") {
      NodePtr node = make(Kind::if_);
      for (end = "elif"; end == "elif";) {
        node->children.push_back(tuple());
        end_block();
        node->blocks.push_back(block({"elif", "else", "endif"}, &end));
      }
      if (end == "else") {
        end_block();
        node->blocks.push_back(block({"endif"}));
      }
      end_block();
      return node;
    }
    if (name == "for") {
      NodePtr node = make(Kind::for_);
      do node->names.push_back(expect_name());
      while (take_symbol(","));
      if (!take_word("in")) refuse("'in' is missing");
      node->children.push_back(tuple(false));
      if (take_word("if")) node->children.push_back(expression());
      end_block();
      node->blocks.push_back(block({"else", "endfor"}, &end));
      if (end == "else") {
        end_block();
        node->blocks.push_back(block({"endfor"}));
      }
      end_block();
      return node;
    }
    if (name == "set") {
      NodePtr node = make(Kind::set);
      node->names.push_back(expect_name());
      if (take_symbol(".")) {
        node->member = true;
        node->names.push_back(expect_name());
      }
      while (take_symbol(",")) node->names.push_back(expect_name());
      if (take_symbol("=")) {
        node->children.push_back(tuple());
        end_block();
      } else {
        end_block();
        node->blocks.push_back(block({"endset"}));
        end_block();
      }
      return node;
    }
    if (name == "macro") {
      NodePtr node = make(Kind::macro, expect_name());
      expect_symbol("(");
      while (!take_symbol(")")) {
        node->names.push_back(expect_name());
        node->children.push_back(take_symbol("=") ? expression() : nullptr);
        if (!symbol(")")) expect_symbol(",");
      }
      end_block();
      node->blocks.push_back(block({"endmacro"}));
      if (is(Token::Kind::name)) ++at_;
      end_block();
      return node;
    }
    if (name == "generation") {
      marks_generations_ = true;
      NodePtr node = make(Kind::generation);
      end_block();
      node->blocks.push_back(block({"endgeneration"}));
      end_block();
      return node;
    }
    if (name == "break" || name == "continue") {
      NodePtr node = make(name == "break" ? Kind::break_ : Kind::continue_);
      end_block();
      return node;
    }
    refuse(fmt::format("the statement {} is not supported", name));
  }

  NodePtr tuple(bool with_choice = true) {
    NodePtr first = with_choice ? expression() : disjunction();
    if (!symbol(",")) return first;
    NodePtr list = make(Kind::list, {}, std::move(first));
    while (take_symbol(",") && !symbol(")") && !is(Token::Kind::end_block) && !is(Token::Kind::end_output))
      list->children.push_back(with_choice ? expression() : disjunction());
    return list;
  }
  NodePtr expression() {
    const Depth depth(*this);
    NodePtr value = disjunction();
    while (take_word("if")) {
      NodePtr choice = make(Kind::choose, {}, std::move(value), disjunction());
      if (take_word("else")) choice->children.push_back(expression());
      value = std::move(choice);
    }
    return value;
  }
  NodePtr disjunction() {
    NodePtr left = conjunction();
    while (take_word("or")) left = make(Kind::or_, {}, std::move(left), conjunction());
    return left;
  }
  NodePtr conjunction() {
    NodePtr left = negation();
    while (take_word("and")) left = make(Kind::and_, {}, std::move(left), negation());
    return left;
  }
  NodePtr negation() {
    const Depth depth(*this);
    if (take_word("not")) return make(Kind::not_, {}, negation());
    return comparison();
  }
  NodePtr comparison() {
    NodePtr left = sum();
    bool one = false;
    for (;;) {
      NodePtr next;
      const bool inverted = word("not") && tokens_[at_ + 1].kind == Token::Kind::name && tokens_[at_ + 1].text == "in";
      if (inverted) ++at_;
      if (take_word("in")) {
        next = make(Kind::binary, "in", std::move(left), sum());
        if (inverted) next = make(Kind::not_, {}, std::move(next));
      } else {
        std::string operation;
        for (const std::string_view candidate : {"==", "!=", "<=", ">=", "<", ">"})
          if (operation.empty() && take_symbol(candidate)) operation = candidate;
        if (operation.empty()) return left;
        next = make(Kind::binary, operation, std::move(left), sum());
      }
      if (one) refuse("comparisons in a chain are not supported");
      one = true;
      left = std::move(next);
    }
  }
  NodePtr sum() {
    NodePtr left = joined();
    while (symbol("+") || symbol("-")) {
      const std::string operation = tokens_[at_++].text;
      left = make(Kind::binary, operation, std::move(left), joined());
    }
    return left;
  }
  NodePtr joined() {
    NodePtr left = product();
    while (take_symbol("~")) left = make(Kind::binary, "~", std::move(left), product());
    return left;
  }
  NodePtr product() {
    NodePtr left = unary(true);
    while (symbol("*") || symbol("/") || symbol("//") || symbol("%")) {
      const std::string operation = tokens_[at_++].text;
      left = make(Kind::binary, operation, std::move(left), unary(true));
    }
    if (symbol("**")) refuse("the operator ** is not supported");
    return left;
  }
  NodePtr unary(bool with_filters) {
    const Depth depth(*this);
    NodePtr value;
    if (take_symbol("-"))
      value = make(Kind::negate, {}, unary(false));
    else if (take_symbol("+"))
      value = unary(false);
    else
      value = primary();
    value = postfix(std::move(value));
    return with_filters ? filters(std::move(value)) : std::move(value);
  }
  NodePtr primary() {
    NodePtr node = make(Kind::literal);
    const Token token = now();
    if (token.kind == Token::Kind::name) {
      ++at_;
      if (token.text == "true" || token.text == "True")
        node->value = true;
      else if (token.text == "false" || token.text == "False")
        node->value = false;
      else if (token.text == "none" || token.text == "None")
        node->value = None{};
      else {
        node->kind = Kind::variable;
        node->name = token.text;
      }
      return node;
    }
    if (token.kind == Token::Kind::string) {
      std::string text;
      while (is(Token::Kind::string)) text += tokens_[at_++].text;
      node->value = std::move(text);
      return node;
    }
    if (token.kind == Token::Kind::integer || token.kind == Token::Kind::real) {
      ++at_;
      if (token.kind == Token::Kind::integer)
        node->value = static_cast<std::int64_t>(std::stoll(token.text));
      else
        node->value = std::stod(token.text);
      return node;
    }
    if (take_symbol("(")) {
      if (take_symbol(")")) {
        node->kind = Kind::list;
        return node;
      }
      NodePtr inside = tuple();
      expect_symbol(")");
      return inside;
    }
    if (take_symbol("[")) {
      node->kind = Kind::list;
      while (!take_symbol("]")) {
        node->children.push_back(expression());
        if (!symbol("]")) expect_symbol(",");
      }
      return node;
    }
    if (take_symbol("{")) {
      node->kind = Kind::dict;
      while (!take_symbol("}")) {
        node->children.push_back(expression());
        expect_symbol(":");
        node->children.push_back(expression());
        if (!symbol("}")) expect_symbol(",");
      }
      return node;
    }
    refuse(fmt::format("an expression is missing before '{}'", token.text));
  }
  NodePtr postfix(NodePtr value) {
    for (;;) {
      if (take_symbol(".")) {
        if (is(Token::Kind::integer)) refuse("a number behind a point is not supported; use [ ]");
        value = make(Kind::attribute, expect_name(), std::move(value));
      } else if (take_symbol("[")) {
        value = subscript(std::move(value));
      } else if (symbol("(")) {
        NodePtr call = make(Kind::call, {}, std::move(value));
        arguments(*call);
        value = std::move(call);
      } else {
        return value;
      }
    }
  }
  NodePtr subscript(NodePtr value) {
    Nodes parts;
    NodePtr part;
    bool slice = false;
    while (!symbol("]")) {
      if (take_symbol(":")) {
        slice = true;
        parts.push_back(std::move(part));
        part = nullptr;
      } else {
        if (part) refuse("']' is missing");
        part = expression();
      }
    }
    ++at_;
    parts.push_back(std::move(part));
    NodePtr node = make(slice ? Kind::slice : Kind::index, {}, std::move(value));
    if (parts.size() > 3 || (!slice && !parts[0])) refuse("what stands in [ ] is no index");
    if (slice) parts.resize(3);
    for (auto& one : parts) node->children.push_back(std::move(one));
    return node;
  }
  void arguments(Node& node) {
    expect_symbol("(");
    while (!take_symbol(")")) {
      std::string name;
      if (is(Token::Kind::name) && tokens_[at_ + 1].kind == Token::Kind::symbol && tokens_[at_ + 1].text == "=") {
        name = tokens_[at_].text;
        at_ += 2;
      }
      node.children.push_back(expression());
      node.names.push_back(name);
      if (!symbol(")")) expect_symbol(",");
    }
  }
  NodePtr filters(NodePtr value) {
    for (;;) {
      if (take_symbol("|")) {
        NodePtr filter = make(Kind::filter, expect_name(), std::move(value));
        if (symbol("(")) arguments(*filter);
        value = std::move(filter);
      } else if (take_word("is")) {
        const bool inverted = take_word("not");
        NodePtr test = make(Kind::test, expect_name(), std::move(value));
        if (symbol("(")) {
          arguments(*test);
        } else if (is(Token::Kind::string) || is(Token::Kind::integer) || symbol("[") || symbol("{") ||
                   (is(Token::Kind::name) && !word("else") && !word("or") && !word("and") && !word("is") &&
                    !word("if") && !word("not") && !word("in"))) {
          test->children.push_back(postfix(primary()));
          test->names.emplace_back();
        }
        value = inverted ? make(Kind::not_, {}, std::move(test)) : std::move(test);
      } else {
        return value;
      }
    }
  }

  std::vector<Token> tokens_;
  const std::string& where_;
  std::size_t at_ = 0;
  int depth_ = 0;
  bool marks_generations_ = false;
};

}  // namespace

Nodes parse_template(std::string_view source, const std::string& where, bool& marks_generations) {
  return Parser(Lexer(source, where).run(), where).run(marks_generations);
}

}  // namespace longhaul::chat
