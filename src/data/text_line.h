// A line of JSON lines as what it stands for, before any tokenizer. Private to src/data.
//
//   {"text": "..."}                                     a text
//   {"prompt": "...", "completion": "..."}              a text whose first part is no label
//   {"messages": [{"role": ..., "content": ...}, ...]}  a chat
//   {"instruction": ..., "input": ..., "output": ...}   a chat of one question (instruction, a line break and input
//   where
//                                                       it is not empty) and its answer; `system` before them
//   {"input_ids": [...], "labels": [...]}               ids; labels, if any, are the ids or -100: not learned
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/chat_format.h"

namespace longhaul {

struct TextLine {
  enum class Kind { blank, text, prompt, chat, ids };
  Kind kind = Kind::blank;
  std::string prompt, text;           ///< text: the completion where there is a prompt
  std::vector<ChatMessage> messages;  ///< of a chat
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> learned;  ///< of ids, one each
  bool ignored_tools = false;         ///< a chat had tools, calls of them or their answers, which are left out

  /// Bytes of text.
  std::int64_t bytes() const;
};

/// `where` ("FILE:LINE") begins messages. Throws Error for what is none of the above.
TextLine read_text_line(const std::string& bytes, const std::string& where);

}  // namespace longhaul
