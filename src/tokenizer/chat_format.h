// Chats: what a model was tuned to read a conversation as, and which of it is learned.
//
// A template (chat_template.jinja, or chat_template in tokenizer_config.json) says how a chat is written, not where
// the assistant's turns lie in it. So a template is recognised by what it renders: a few conversations are put through
// it, and what stands before, between and behind their messages must be one of the formats below. Every chat is then
// written both by the template and by what was learned of it; where the two differ the chat is refused, so that text
// is never other than the template's and a turn never elsewhere than it says. A template with {% generation %} blocks
// says itself where turns lie and is taken whatever it writes.
//
//   chatml    <|im_start|>user\n...<|im_end|>\n (and Phi-4's <|im_sep|>)
//   llama-3   <|start_header_id|>user<|end_header_id|>\n\n...<|eot_id|>
//   mistral   [INST] ... [/INST] ...</s> in its spacings (Llama 2's too)
//   gemma     <start_of_turn>user\n...<end_of_turn>\n
//   phi-3     <|user|>\n...<|end|>\n (Phi-4-mini without line breaks)
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/train_on.h"
#include "tokenizer/template.h"
#include "tokenizer/tokenizer.h"

namespace longhaul {

/// One turn: role is system, user or assistant.
struct ChatMessage {
  std::string role, content;
};

/// A chat as the model reads it.
struct ChatText {
  std::string text;
  /// Bytes of `text` that are learned, in order: what the assistant says and what ends its turn.
  std::vector<chat::Rendered::Span> learned;
};

/// How chats are written. Const members may be called from several threads.
class ChatFormat {
 public:
  /// The format of a template. `variables`: what the template sees besides the messages (bos_token, ...). Throws Error,
  /// naming the formats, for a template that renders none of them.
  ChatFormat(std::string_view source, const std::string& where, const chat::Dict& variables);
  /// A format by name, in its plain form. Throws Error for another name.
  static ChatFormat named(std::string_view name);
  /// The template of a tokenizer's folder; nothing when it has none.
  static std::optional<ChatFormat> of_folder(const std::filesystem::path& folder);
  static const std::vector<std::string_view>& names();

  ChatFormat(ChatFormat&&) noexcept;
  ChatFormat& operator=(ChatFormat&&) noexcept;
  ~ChatFormat();

  /// "chatml", or "generation blocks" for a template that marks turns itself.
  const std::string& name() const { return name_; }
  /// Changes when what it writes changes, for keys of caches.
  std::uint64_t fingerprint() const { return fingerprint_; }

  /// Throws Error: an unknown role, no message, what the template refuses or writes otherwise than the format.
  ChatText write(const std::vector<ChatMessage>& messages, TrainOn train_on) const;

 private:
  struct Turns;
  ChatFormat();
  std::string render(const std::vector<ChatMessage>& messages, std::vector<chat::Rendered::Span>* generations) const;
  void learn(const std::string& where);
  std::string name_;
  std::uint64_t fingerprint_ = 0;
  std::optional<chat::Template> template_;
  chat::Dict variables_;
  std::unique_ptr<Turns> turns_;  // null: by generation blocks
};

/// One thread's encoder of chats, with the ids of the whole text and a label mask.
class ChatEncoder {
 public:
  /// `encoder` is the thread's own; both must outlive this.
  ChatEncoder(const Tokenizer& tokenizer, Encoder& encoder);
  /// Appends the ids of `chat`, special tokens in it taken as such, and for each 1 where the token overlaps a learned
  /// span, else 0. Throws Error when the tokenizer changes the text so that where a span lies cannot be told.
  void encode(const ChatText& chat, std::vector<std::int32_t>& ids, std::vector<std::uint8_t>& learned);

 private:
  const std::string& bytes_of(std::int32_t id);
  const Tokenizer& tokenizer_;
  Encoder& encoder_;
  std::int32_t plain_ = -1;  // a token of which the decoder takes nothing
  std::string plain_text_;
  std::vector<std::optional<std::string>> bytes_;
  std::vector<std::int32_t> added_;  // by id: its place among the added tokens; -1: it is none
};

}  // namespace longhaul
