// longhaul completion: completion for bash and zsh, and the manual page, made from the commands and keys that there
// are.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/environment.h"
#include "base/error.h"
#include "cli/command.h"
#include "config/experiment.h"

namespace longhaul::cli {
namespace {

std::vector<const CLI::App*> subcommands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

// "--ranks": the options of a command by their names; of several the last, which is the long one.
std::vector<const CLI::Option*> options_of(const CLI::App& app) {
  return app.get_options(
      [](const CLI::Option* option) { return !option->get_positional() || !option->get_lnames().empty(); });
}
std::string option_name(const CLI::Option& option) {
  return option.get_lnames().empty() ? "-" + option.get_snames().front() : "--" + option.get_lnames().front();
}

std::string words_of(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::App* sub : subcommands_of(app)) words.push_back(sub->get_name());
  for (const CLI::Option* option : options_of(app)) words.push_back(option_name(*option));
  return fmt::format("{}", fmt::join(words, " "));
}

// Every command with those inside it: "bench", "bench kernels".
struct Named {
  std::string name;
  const CLI::App* app;
};
std::vector<Named> all_commands(const CLI::App& root) {
  std::vector<Named> all;
  for (const CLI::App* sub : subcommands_of(root)) {
    all.push_back({sub->get_name(), sub});
    for (const CLI::App* inner : subcommands_of(*sub))
      all.push_back({sub->get_name() + " " + inner->get_name(), inner});
  }
  return all;
}

// Commands that take an experiment take overrides of its keys.
bool takes_keys(const CLI::App& app) {
  return app.get_allow_extras();
}

std::string bash(const CLI::App& root) {
  std::string text = "# bash completion of longhaul: made by `longhaul completion bash`\n_longhaul() {\n";
  text += "  local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} words keys=\n";
  text += "  [[ ${COMP_WORDS[2]-} != kernels && ${COMP_WORDS[2]-} != step ]] || command+=\" ${COMP_WORDS[2]}\"\n";
  text += fmt::format("  if ((COMP_CWORD == 1)); then words='{}'\n  else case $command in\n", words_of(root));
  for (const Named& command : all_commands(root))
    text += fmt::format("    '{}') words='{}'{} ;;\n", command.name, words_of(*command.app),
                        takes_keys(*command.app) ? " keys=1" : "");
  text += "  esac; fi\n";
  std::vector<std::string> keys;
  for (const auto& key : key_names()) keys.push_back(key + "=");
  text += fmt::format("  [[ -z $keys ]] || words+=' {}'\n", fmt::join(keys, " "));
  text +=
      "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
      "  [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace 2>/dev/null\n"
      "}\n"
      "complete -o default -F _longhaul longhaul\n";
  return text;
}

// Single quotes and colons end what zsh reads.
std::string zsh_text(std::string text) {
  std::string out;
  for (const char c : text)
    out += c == '\'' ? std::string("’") : c == ':' ? "\\:" : c == '[' || c == ']' ? "|" : std::string(1, c);
  return out;
}

std::string zsh(const CLI::App& root) {
  std::string text =
      "#compdef longhaul\n# made by `longhaul completion zsh`\n_longhaul() {\n  local -a commands keys\n  commands=(\n";
  for (const CLI::App* sub : subcommands_of(root))
    text += fmt::format("    '{}:{}'\n", sub->get_name(), zsh_text(sub->get_description()));
  text += "  )\n  keys=(\n";
  for (const auto& key : key_names()) text += fmt::format("    '{}='\n", key);
  text += "  )\n  if ((CURRENT == 2)); then _describe command commands; return; fi\n  case $words[2] in\n";
  for (const CLI::App* sub : subcommands_of(root)) {
    text += fmt::format("    {})\n", sub->get_name());
    if (takes_keys(*sub)) text += "      [[ $PREFIX == -* ]] || compadd -S '' -a keys\n";
    for (const CLI::App* inner : subcommands_of(*sub)) text += fmt::format("      compadd {}\n", inner->get_name());
    text += "      _arguments";
    for (const CLI::Option* option : options_of(*sub))
      text += fmt::format(" \\\n        '{}[{}]{}'", option_name(*option), zsh_text(option->get_description()),
                          option->get_expected_max() > 0 && option->get_type_size() > 0 ? ":value:_files" : "");
    text += " \\\n        '*:file:_files' ;;\n";
  }
  return text + "  esac\n}\n_longhaul \"$@\"\n";
}

// A line that begins with a dot or a quote would be a request to troff, and a backslash or a hyphen has meaning.
std::string roff(const std::string& text) {
  std::string out = !text.empty() && (text[0] == '.' || text[0] == '\'') ? "\\&" : "";
  for (const char c : text) out += c == '\\' ? std::string("\\e") : c == '-' ? "\\-" : std::string(1, c);
  return out;
}

std::string manual(const CLI::App& root) {
  std::string text = ".\\\" made by `longhaul completion man`\n.TH LONGHAUL 1\n.SH NAME\nlonghaul \\- " +
                     std::string("trains long\\-context transformers on many devices\n");
  text += ".SH SYNOPSIS\n.B longhaul\n.I command\n[\\fIargument\\fR ...]\n.SH DESCRIPTION\n" +
          roff(root.get_description()) + "\n.SH COMMANDS\n";
  for (const Named& command : all_commands(root)) {
    text += fmt::format(".SS {}\n{}\n", command.name, roff(command.app->get_description()));
    for (const CLI::Option* option : command.app->get_options([](const CLI::Option*) { return true; }))
      text += fmt::format(".TP\n.B {}\n{}\n", roff(option->get_name(false, true)), roff(option->get_description()));
    if (takes_keys(*command.app)) text += ".TP\n.I section.key=value\noverrides a key of the experiment\n";
  }
  text += ".SH KEYS OF EXPERIMENTS\n" + roff(fmt::format("{}", fmt::join(key_names(), ", "))) + ".\n.SH ENVIRONMENT\n";
  for (const auto& variable : environment_variables())
    text += fmt::format(".TP\n.B {}\n{}\n", roff(std::string(variable.name)), roff(std::string(variable.meaning)));
  return text +
         ".SH EXIT STATUS\n.TP\n.B 0\ndone\n.TP\n.B 1\na run or a check failed\n.TP\n.B 2\na wrong command "
         "line\n.TP\n.B 3\n"
         "a defect of longhaul\n.TP\n.B 85\nstopped after saving: the same command goes on\n.TP\n.B 86\na rank did not "
         "move "
         "for distributed.timeout\n";
}

}  // namespace

std::function<int()> add_completion(CLI::App& app) {
  auto kind = std::make_shared<std::string>();
  app.add_option("kind", *kind,
                 "bash: for `source <(longhaul completion bash)`; zsh: a file _longhaul on fpath; man: the page")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "man"}));
  return [kind, &app] {
    const CLI::App& root = *app.get_parent();
    const std::string text = *kind == "bash" ? bash(root) : *kind == "zsh" ? zsh(root) : manual(root);
    std::fputs(text.c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  };
}

}  // namespace longhaul::cli
