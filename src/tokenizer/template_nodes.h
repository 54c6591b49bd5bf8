// The parsed form of a chat template. Private to src/tokenizer.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/template_value.h"

namespace longhaul::chat {

struct Node;
using NodePtr = std::unique_ptr<Node>;
using Nodes = std::vector<NodePtr>;

struct Node {
  enum class Kind {
    text,        // name: as it is
    output,      // children[0]
    if_,         // branches in children (conditions) and blocks; one more block: else
    for_,        // names: targets; children: what is gone through, perhaps a condition; blocks: body, else
    set,         // names: one variable, several, or two with `member` set; children[0] or blocks[0]
    macro,       // name, names: parameters; children: defaults (null where there is none); blocks[0]
    generation,  // blocks[0]
    break_,
    continue_,
    literal,    // value
    variable,   // name
    list,       // children
    dict,       // children: key, value, ...
    attribute,  // children[0].name
    index,      // children[0][children[1]]
    slice,      // children[0][1:2:3], null where there is none
    call,       // children[0](others...); names: of arguments by name, "" for those by place
    filter,     // children[0] | name(others...), names likewise
    test,       // children[0] is name(others...)
    not_,
    negate,
    and_,
    or_,
    binary,  // name: + - * / // % ~ == != < > <= >= in
    choose,  // children: value, condition, perhaps other value
  };
  Kind kind{};
  int line = 0;
  std::string name;
  bool member = false;
  std::vector<std::string> names;
  Nodes children;
  std::vector<Nodes> blocks;
  Value value;
};

struct Macro {
  const Node* node = nullptr;
};

/// Throws Error beginning with `where`.
Nodes parse_template(std::string_view source, const std::string& where, bool& marks_generations);

}  // namespace longhaul::chat
