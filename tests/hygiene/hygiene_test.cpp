// The project's own rules, held against its files: who includes whom, where strategies may be named, and documentation
// that lists what the code has.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/environment.h"
#include "cli/command.h"
#include "model/family.h"

namespace {

namespace fs = std::filesystem;

fs::path source() {
  const std::string folder = longhaul::environment("LONGHAUL_SOURCE");
  REQUIRE_FALSE(folder.empty());  // ctest sets it
  return folder;
}

std::string text_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  INFO(file.string());
  REQUIRE(stream.good());
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

struct SourceFile {
  std::string path;  // from the source folder, as src/ir/graph.h
  std::vector<std::string> lines;
};

std::vector<SourceFile> code(const std::vector<std::string>& folders) {
  std::vector<SourceFile> files;
  const fs::path top = source();
  for (const auto& folder : folders) {
    if (!fs::exists(top / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(top / folder)) {
      const std::string ending = entry.path().extension().string();
      if (!entry.is_regular_file() || !std::set<std::string>{".h", ".cpp", ".cu", ".cuh"}.contains(ending)) continue;
      SourceFile file{fs::relative(entry.path(), top).generic_string(), {}};
      std::istringstream stream(text_of(entry.path()));
      for (std::string line; std::getline(stream, line);) file.lines.push_back(line);
      files.push_back(std::move(file));
    }
  }
  REQUIRE(files.size() > 100);
  return files;
}

// "src/runtime/cpu/arena.h" -> "src/runtime"; "base/error.h" -> "src/base"; "kernels/cpu/rope.h" -> "kernels/cpu".
std::string room_of(const std::string& path) {
  const auto parts = [&] {
    std::vector<std::string> list;
    std::istringstream stream(path);
    for (std::string part; std::getline(stream, part, '/');) list.push_back(part);
    return list;
  }();
  if (parts.size() < 2) return "";
  if (parts[0] == "src" || parts[0] == "kernels") return parts[0] + "/" + parts[1];
  if (parts[0] == "include" || parts[0] == "longhaul") return "include/longhaul";
  return "src/" + parts[0];
}

std::string included(const std::string& line) {
  static const std::regex pattern(R"re(^\s*#\s*include\s+"([^"]+)")re");
  std::smatch match;
  return std::regex_search(line, match, pattern) ? match[1].str() : "";
}

std::string command_output(const std::string& command) {
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 256> buffer{};
  while (std::fgets(buffer.data(), buffer.size(), pipe)) output += buffer.data();
  const int status = pclose(pipe);
  INFO(command);
  REQUIRE(status == 0);
  return output;
}

}  // namespace

TEST_CASE("a room includes only the rooms that the table allows") {
  // ARCHITECTURE.md's table. Every room may include itself and src/base.
  const std::set<std::string> run = {"src/ir",     "src/ops",     "src/passes",   "src/plan", "src/compile",
                                     "src/config", "src/runtime", "src/comm",     "src/cost", "src/data",
                                     "src/io",     "src/model",   "src/tokenizer"};
  const auto with = [](std::set<std::string> rooms, const std::set<std::string>& more) {
    rooms.insert(more.begin(), more.end());
    return rooms;
  };
  const std::set<std::string> above_run = with(run, {"src/run"});
  const std::set<std::string> all =
      with(above_run, {"src/verify", "src/train", "src/planner", "src/report", "kernels/cpu", "kernels/cuda",
                       "kernels/bench", "include/longhaul"});
  const std::map<std::string, std::set<std::string>> allowed = {
      {"src/base", {}},
      {"src/config", {}},
      {"src/comm", {}},
      {"src/io", {}},
      {"src/ir", {}},
      {"src/model", {"src/ir"}},
      {"src/ops", {"src/ir"}},
      {"src/passes", {"src/ir", "src/ops"}},
      {"src/cost", {"src/ir"}},
      {"src/plan", {"src/ir", "src/ops", "src/passes", "src/config"}},
      {"src/runtime", {"src/ir", "src/comm", "kernels/cpu", "kernels/cuda"}},
      {"src/tokenizer", {"src/io"}},
      {"src/data", {"src/config", "src/io", "src/model", "src/tokenizer"}},
      {"src/compile", {"src/ir", "src/ops", "src/passes", "src/cost", "src/model", "src/runtime"}},
      {"src/run", run},
      {"src/verify", above_run},
      {"src/train", above_run},
      {"src/planner", above_run},
      {"src/report", {"src/io"}},
      {"src/cli", all},
      {"kernels/cpu", {"kernels/bench"}},
      {"kernels/cuda", {"kernels/bench"}},
      {"kernels/bench", {}},
      {"include/longhaul", {}},
  };
  int checked = 0;
  std::string wrong;
  for (const SourceFile& file : code({"src", "kernels", "include"})) {
    const std::string room = room_of(file.path);
    const auto rule = allowed.find(room);
    if (rule == allowed.end()) {
      wrong += file.path + " is in no room of the table\n";
      continue;
    }
    for (const auto& line : file.lines) {
      const std::string header = included(line);
      if (header.find('/') == std::string::npos) continue;  // beside the file
      const std::string target = room_of(header);
      ++checked;
      if (target == room || target == "src/base" || rule->second.contains(target)) continue;
      // A kernel folder has subfolders of its own, named from it.
      if (fs::exists((source() / file.path).parent_path() / header)) continue;
      wrong += file.path + " includes " + header + "\n";
    }
  }
  CHECK(checked > 300);
  CHECK(wrong == "");
}

TEST_CASE("parallel strategies are named only where they are chosen") {
  // A model, an op, a kernel, an executor and the trainer see layouts and collectives; what made them is no concern of
  // theirs. Comments count: a comment that needs the word explains the wrong thing.
  const std::vector<std::string> may_name = {"src/passes/", "src/plan/", "src/config/"};
  // File and words of a line that may stay all the same, with the reason.
  struct Exception {
    std::string file, words;
  };
  const std::vector<Exception> exceptions = {
      // The experiment key's name in what is printed for a user who sets it.
      {"src/run/inspect.cpp", "by ZeRO stage"},
      {"src/compile/compile.cpp", "let parallelism.keep_gathered be"},
      {"src/run/agreement.cpp", "\"keep_gathered\""},
      // What `auto` of that key becomes is decided by a compiled run, which src/plan does not make; and pinned again
      // for
      // a run that is verified small.
      {"src/run/setup.cpp", "keep_gathered"},
      {"src/run/setup.h", "keep_gathered"},
      {"src/verify/shrink.cpp", "parallelism.keep_gathered"},
      // Choices that the experiment and the passes have in common.
      {"src/base/choices.h", "TokenOrder"},
      // A fault bears the name of the pass whose work it spoils, and says what it spoils.
      {"src/verify/faults.cpp", "\"keep_gathered\""},
      {"src/verify/faults.cpp", "a step of a ring merges"},
  };
  const std::regex strategy(R"(\b(ulysses|ring|zero[_ ]stages?|sp|zigzag|balanced|gather_kv|keep_gathered)\b)",
                            std::regex::icase);
  std::string found;
  for (const SourceFile& file : code({"src", "kernels", "include"})) {
    if (std::any_of(may_name.begin(), may_name.end(), [&](const auto& room) { return file.path.starts_with(room); }))
      continue;
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      if (!std::regex_search(file.lines[i], strategy)) continue;
      if (std::any_of(exceptions.begin(), exceptions.end(), [&](const Exception& exception) {
            return exception.file == file.path && file.lines[i].find(exception.words) != std::string::npos;
          }))
        continue;
      found += file.path + ":" + std::to_string(i + 1) + ": " + file.lines[i] + "\n";
    }
  }
  CHECK(found == "");
  CHECK(std::regex_search("// the SP ranks", strategy));  // the pattern finds what it is for
  CHECK(std::regex_search("in balanced order", strategy));
  CHECK_FALSE(std::regex_search("std::span split spring", strategy));
}

TEST_CASE("state is told by its role, never by a name or by the pass that made it") {
  // One file makes the names of state (src/ir/state.cpp), none reads them; made_by is for people.
  const std::regex name(R"re("(gradient|accumulator|compute|gathered|first_moment|second_moment)\.)re");
  const std::regex provenance(R"(made_by\s*[!=]=)");
  std::string found;
  for (const SourceFile& file : code({"src"}))
    for (std::size_t i = 0; i < file.lines.size(); ++i)
      if (!file.path.starts_with("src/ir/state.") &&
          (std::regex_search(file.lines[i], name) || std::regex_search(file.lines[i], provenance)))
        found += file.path + ":" + std::to_string(i + 1) + ": " + file.lines[i] + "\n";
  CHECK(found == "");
  CHECK(std::regex_search(R"(if (name.starts_with("gradient.")))", name));  // the patterns find what they are for
  CHECK(std::regex_search("op.made_by == \"optimizer\"", provenance));
}

TEST_CASE("a back end is named in its own folder and in one factory") {
  // Everything above the runtime sees targets and executors. Two files may name the CPU's interpreter: the oracle runs
  // on it, whatever the run does.
  const std::set<std::string> oracle = {"src/verify/reference_run.h", "src/verify/locate.h"};
  const std::string interpreter = "runtime/cpu/interpreter.h";
  const std::regex back_end(
      R"(kernels/(cpu|cuda)|runtime/(cpu|device)/|\b(Cpu|Device)(Executor|Target|Context|Kernel)|\bcpu::|\bcuda::)");
  std::string found;
  int exceptions = 0;
  for (const SourceFile& file : code({"src"})) {
    const std::string room = room_of(file.path);
    // The subcommand that drives the kernels of every device has them all.
    if (file.path == "src/run/target.cpp" || file.path == "src/cli/bench_kernels.cpp") continue;
    const auto parts = std::count(file.path.begin(), file.path.end(), '/');
    if (room == "src/runtime" && parts > 2) continue;  // src/runtime/cpu and its like
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      std::string line = file.lines[i];
      if (oracle.contains(file.path) && included(line) == interpreter) {
        ++exceptions;
        continue;
      }
      if (room == "src/runtime") line = included(line);  // may say in comments where a device's part is
      if (std::regex_search(line, back_end)) found += file.path + ":" + std::to_string(i + 1) + ": " + line + "\n";
    }
  }
  CHECK(found == "");
  CHECK(exceptions == 2);
  CHECK(std::regex_search("  CpuExecutor executor;", back_end));  // the pattern finds what it is for
  CHECK(std::regex_search("#include \"kernels/cpu/peak.h\"", back_end));
}

TEST_CASE("the environment is read in one place, and documented") {
  std::set<std::string> documented;
  const std::string text = text_of(source() / "docs/environment.md");
  const std::regex row(R"(\n\| `(LONGHAUL_[A-Z_]+)` \|)");
  for (auto match = std::sregex_iterator(text.begin(), text.end(), row); match != std::sregex_iterator(); ++match)
    CHECK(documented.insert((*match)[1].str()).second);  // one row each
  std::set<std::string> known;
  for (const auto& variable : longhaul::environment_variables()) known.emplace(variable.name);
  CHECK(documented == known);
  const std::size_t besides = text.find("\nRead besides");
  REQUIRE(besides != std::string::npos);
  for (const auto& variable : longhaul::foreign_variables()) {
    INFO(variable.name);
    CHECK(text.find("`" + std::string(variable.name) + "`", besides) != std::string::npos);
  }

  const std::regex read(R"re(\bgetenv\s*\()re");
  int found = 0;
  for (const SourceFile& file : code({"src", "kernels", "include"}))
    for (const auto& line : file.lines)
      if (std::regex_search(line, read)) {
        ++found;
        if (file.path != "src/base/environment.cpp") FAIL_CHECK(file.path << ": " << line);
      }
  CHECK(found > 0);
}

TEST_CASE("files that ask whether a library is there are told so by the build") {
  // Of MPI all tests are told, and the files of src by their folder.
  const std::regex asked(R"(\bLONGHAUL_WITH_(?!MPI\b|NCCL\b)[A-Z0-9]+\b)");
  const std::string top = text_of(source() / "CMakeLists.txt"), tests = text_of(source() / "tests/CMakeLists.txt");
  int found = 0;
  for (const SourceFile& file : code({"src", "kernels", "include", "tests"})) {
    const bool asks = std::any_of(file.lines.begin(), file.lines.end(), [&](const std::string& line) {
      return line.starts_with("#if") && std::regex_search(line, asked);
    });
    if (!asks) continue;
    ++found;
    INFO(file.path << " asks for a definition that CMakeLists.txt does not give it");
    const bool test = file.path.starts_with("tests/");
    CHECK((test ? tests : top).find(test ? file.path.substr(6) : file.path) != std::string::npos);
  }
  CHECK(found > 8);
}

TEST_CASE("only verify fills the hooks that plant faults") {
  // Who may name them: those who call them, and src/verify, which no run but verify's can reach (the table of rooms).
  const std::set<std::string> callers = {"src/passes/pass.h",       "src/passes/pipeline.cpp", "src/compile/compile.h",
                                         "src/compile/compile.cpp", "src/run/session.h",       "src/run/session.cpp"};
  const std::regex hook(R"(\b(after_pass|after_plan|after_load_?|CompileHooks|LoadHook|PassHook)\b)");
  std::set<std::string> found;
  for (const SourceFile& file : code({"src", "kernels", "include"}))
    for (const auto& line : file.lines) {
      if (included(line) == "verify/faults.h" && !file.path.starts_with("src/verify/"))
        CHECK(file.path == "src/cli/verify.cpp");
      if (!std::regex_search(line, hook)) continue;
      found.insert(file.path);
      if (!callers.contains(file.path) && !file.path.starts_with("src/verify/")) FAIL_CHECK(file.path << ": " << line);
    }
  CHECK(found.size() > callers.size());
}

TEST_CASE("the README names every subcommand, and every family") {
  const std::string readme = text_of(source() / "README.md");
  REQUIRE_FALSE(longhaul::cli::commands().empty());
  for (const auto& command : longhaul::cli::commands()) {
    INFO(command.name);
    CHECK(readme.find("`longhaul " + std::string(command.name)) != std::string::npos);
  }
  for (const auto& family : longhaul::all_families()) {
    INFO(family->model_type());
    CHECK(readme.find("`" + family->model_type() + "`") != std::string::npos);
  }
}

TEST_CASE("links between documents lead somewhere") {
  const std::regex link(R"(\]\(([^)#: ]+)(#[^)]*)?\))");
  std::vector<fs::path> documents = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "third_party/README.md"};
  for (const auto& entry : fs::directory_iterator(source() / "docs"))
    if (entry.path().extension() == ".md") documents.push_back(fs::relative(entry.path(), source()));
  int links = 0;
  for (const auto& document : documents) {
    const std::string text = text_of(source() / document);
    for (auto match = std::sregex_iterator(text.begin(), text.end(), link); match != std::sregex_iterator(); ++match) {
      INFO(document.string() << " links to " << (*match)[1].str());
      CHECK(fs::exists((source() / document).parent_path() / (*match)[1].str()));
      ++links;
    }
  }
  CHECK(links > 10);
}

TEST_CASE("files that documents name in the source exist") {
  // `src/ops/rope.cpp` in running text is a promise as well.
  const std::regex name(R"(`((?:src|kernels|tests|configs|docs|scripts|benchmarks)/[A-Za-z0-9_./-]+\.[a-z0-9]+)`)");
  int names = 0;
  for (const char* document : {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/ir.md", "docs/numerics.md"}) {
    const std::string text = text_of(source() / document);
    for (auto match = std::sregex_iterator(text.begin(), text.end(), name); match != std::sregex_iterator(); ++match) {
      const std::string file = (*match)[1].str();
      if (file.find("NAME") != std::string::npos) continue;  // stands for any
      INFO(document << " names " << file);
      CHECK(fs::exists(source() / file));
      ++names;
    }
  }
  CHECK(names > 20);
}

TEST_CASE("what CONTRIBUTING shows of additions is as long as it says, within a tenth") {
  const std::regex line(R"(^ (\S+\.(?:h|cpp|cu))\s+\| +([0-9]+) \++$)"),
      sum(R"(^ ([0-9]+) files? changed, ([0-9]+) insertions)");
  std::istringstream stream(text_of(source() / "CONTRIBUTING.md"));
  int shown = 0, files = 0, lines = 0;
  std::smatch match;
  for (std::string text; std::getline(stream, text);) {
    if (std::regex_search(text, match, line)) {
      INFO(match[1].str());
      REQUIRE(fs::exists(source() / match[1].str()));
      const std::string contents = text_of(source() / match[1].str());
      CHECK(10 * std::count(contents.begin(), contents.end(), '\n') <= 11 * std::stoi(match[2].str()));
      ++files;
      lines += std::stoi(match[2].str());
    } else if (std::regex_search(text, match, sum)) {
      CHECK(files == std::stoi(match[1].str()));
      CHECK(lines == std::stoi(match[2].str()));
      files = lines = 0;
      ++shown;
    }
  }
  CHECK(shown >= 5);  // an op, a pass, a target, a family, a data format
}

TEST_CASE("files that comments name exist") {
  const std::regex name(
      R"((?:^|[^A-Za-z0-9_./<>*-])((?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_-]+\.(?:h|cpp|cu|cuh|md|sh|py)\b))");
  std::set<std::string> files;  // by every ending of their path: "graph.h", "ir/graph.h", "src/ir/graph.h"
  for (const char* folder : {"src", "kernels", "include", "tests", "docs", "scripts", "benchmarks", ".ci", "configs"})
    for (const auto& entry : fs::recursive_directory_iterator(source() / folder)) {
      std::string path = fs::relative(entry.path(), source()).generic_string();
      for (std::size_t slash; files.insert(path), (slash = path.find('/')) != std::string::npos;)
        path = path.substr(slash + 1);
    }
  for (const auto& entry : fs::directory_iterator(source())) files.insert(entry.path().filename().string());
  int names = 0;
  std::string missing;
  for (const SourceFile& file : code({"src", "kernels", "include", "tests"}))
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      const std::size_t comment = file.lines[i].find("//");
      if (comment == std::string::npos) continue;
      const std::string text = file.lines[i].substr(comment + 2);
      for (auto match = std::sregex_iterator(text.begin(), text.end(), name); match != std::sregex_iterator();
           ++match) {
        const std::string named = (*match)[1].str();
        ++names;
        if (named.find("NAME") == std::string::npos && !files.contains(named))
          missing += file.path + ":" + std::to_string(i + 1) + " names " + named + "\n";
      }
    }
  CHECK(missing == "");
  CHECK(names > 100);
}

TEST_CASE("CONTRIBUTING counts the lines of an instruction set") {
  const std::string text = text_of(source() / "CONTRIBUTING.md");
  const std::regex row(R"(\| `(\w+)_NAME\.cpp` \|.*\| (\d+) \|)");
  int rows = 0;
  for (auto match = std::sregex_iterator(text.begin(), text.end(), row); match != std::sregex_iterator(); ++match) {
    const std::string file = "kernels/cpu/" + (*match)[1].str() + "_avx2.cpp";
    INFO(file);
    const std::string code = text_of(source() / file);
    CHECK(std::count(code.begin(), code.end(), '\n') == std::stoi((*match)[2].str()));
    ++rows;
  }
  CHECK(rows == 3);
}

TEST_CASE("every package that the scripts install is described in third_party") {
  const std::string table = text_of(source() / "third_party/README.md");
  std::istringstream packages(text_of(source() / "scripts/packages.txt") +
                              text_of(source() / "scripts/packages-test.txt"));
  int count = 0;
  for (std::string line; std::getline(packages, line);) {
    if (line.empty() || line[0] == '#') continue;
    const std::string package = line.substr(0, line.find_first_of(" #"));
    INFO(line);
    CHECK(table.find("`" + package + "`") != std::string::npos);
    CHECK(line.find("# ") != std::string::npos);  // its reason
    ++count;
  }
  CHECK(count > 10);
}

TEST_CASE("byte_pair_entropy.sh counts what it says") {
  const std::string script = (source() / "scripts/byte_pair_entropy.sh").string();
  const fs::path file = fs::temp_directory_path() / ("longhaul-entropy-" + std::to_string(::getpid()) + ".txt");
  const auto entropy_of = [&](const std::string& text) {
    std::ofstream(file, std::ios::binary) << text;
    return std::stod(command_output("bash '" + script + "' '" + file.string() + "'"));
  };
  // After a: b twice of three, c once; after b and c always a. Three of the six pairs begin with a.
  const double after_a = -(2.0 / 3 * std::log(2.0 / 3) + 1.0 / 3 * std::log(1.0 / 3));
  CHECK(entropy_of("abacaba") == Approx(after_a / 2).margin(2e-6));
  CHECK(entropy_of("aaaaaaaa") == 0);
  // Bytes above 127 and newlines are bytes like others.
  CHECK(entropy_of("\xff\n\xff\n\xff\xff\n") ==
        Approx((4 * -(0.75 * std::log(0.75) + 0.25 * std::log(0.25))) / 6).margin(2e-6));
  fs::remove(file);
}
