#include "config/yaml_load.h"

#include <yaml-cpp/eventhandler.h>

#include <sstream>

#include "base/error.h"

namespace longhaul::config {
namespace {

constexpr std::int64_t most_values = 100'000;
constexpr int deepest = 16;

/// Looks at the events of a text before anything is built of them. yaml-cpp itself takes some texts (a comma at their
/// beginning) for documents without end.
class Limits : public YAML::EventHandler {
 public:
  explicit Limits(const std::string& origin) : origin_(origin) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) fail("{}: more than one YAML document; one experiment is one document", place(mark));
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { count(mark); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_alias(mark); }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t, const std::string&) override {
    count(mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark);
  }
  void OnMapEnd() override { --depth_; }

  [[noreturn]] void refuse_alias(const YAML::Mark& mark) const {
    fail(
        "{}: a word that begins with * is an alias in YAML, which experiments do not use; write a pattern in quotes, "
        "as "
        "\"*.txt\"",
        place(mark));
  }

 private:
  std::string place(const YAML::Mark& mark) const { return at_line(origin_, mark.line + 1); }
  void count(const YAML::Mark& mark) {
    if (++values_ > most_values)
      fail(
          "{}: more than {} values; an experiment has a few hundred at most (a folder or a pattern can stand for many "
          "data files)",
          place(mark), most_values);
  }
  void open(const YAML::Mark& mark) {
    count(mark);
    if (++depth_ > deepest)
      fail("{}: nested deeper than {} levels; an experiment has sections and keys", place(mark), deepest);
  }

  const std::string& origin_;
  std::int64_t values_ = 0;
  int documents_ = 0, depth_ = 0;
};

// The first line that begins with a tab, which YAML does not take for indentation; 0: none.
int tab_line(const std::string& text) {
  int line = 1;
  bool blank = true;  // so far in this line
  for (const char c : text) {
    if (c == '\n') {
      ++line;
      blank = true;
    } else if (c == '\t' && blank) {
      return line;
    } else if (c != ' ') {
      blank = false;
    }
  }
  return 0;
}

}  // namespace

std::string at_line(const std::string& origin, int line) {
  return line > 0 ? fmt::format("{}:{}", origin, line) : origin;
}

YAML::Node load_yaml(const std::string& text, const std::string& origin) {
  try {
    Limits limits(origin);
    try {
      std::istringstream stream(text);
      YAML::Parser parser(stream);
      while (parser.HandleNextDocument(limits)) {
      }
    } catch (const YAML::Exception& error) {
      if (error.msg.find("anchor") != std::string::npos) limits.refuse_alias(error.mark);
      throw;
    }
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    const int tab = tab_line(text);
    fail("{}: not valid YAML: {}{}", at_line(origin, error.mark.line + 1), error.msg,
         tab > 0 ? fmt::format(" (line {} begins with a tab; indent with spaces)", tab) : "");
  }
}

}  // namespace longhaul::config
