// The language of chat templates: what tokenizer_config.json's `chat_template` uses of Jinja, rendered as transformers
// renders it (trim_blocks and lstrip_blocks on, {% generation %} known).
//
// Statements: if, for (with a condition, else, loop), set (also of a block, also of a namespace's member), macro,
// generation, break, continue. Expressions: all operators but **, slices, calls of macros, string methods, filters and
// tests as template_value.h lists them, namespace, range, raise_exception, dict. What else a template asks for is
// refused by name, when it is reached. `strftime_now` is not defined: a text must not depend on the day.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/template_value.h"

namespace longhaul::chat {

struct Node;

/// What a template gave. Offsets are bytes of the text.
struct Rendered {
  std::string text;
  struct Span {
    std::size_t begin = 0, end = 0;
  };
  std::vector<Span> generations;  // of {% generation %} blocks
};

/// A parsed template. render() may be called from several threads.
class Template {
 public:
  /// Throws Error, beginning with `where` and the line, on a text that is no template.
  Template(std::string_view source, std::string where);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  /// Renders with the variables. Throws Error: what the template raises, and what it asks for and we lack.
  Rendered render(const Dict& variables) const;

  /// True when a {% generation %} block stands in it.
  bool marks_generations() const { return marks_generations_; }

 private:
  std::string where_;
  bool marks_generations_ = false;  // before body_, whose parsing sets it
  std::vector<std::unique_ptr<Node>> body_;
};

}  // namespace longhaul::chat
