// The longhaul program. The only place that turns exceptions into exit codes: 0 done, 1 a failed run or check, 2 a
// wrong command line, 3 a defect of ours; 85 (stopped, to be started again) comes from train as it is.
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <system_error>

#include "base/build_info.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "base/nearest_name.h"
#include "cli/command.h"
#include "cli/version.h"
#include "io/file.h"

namespace longhaul::cli {
const char* commit();  // commit.cpp
}

namespace {

// OpenMP (under oneDNN and OpenBLAS) reads its wait policy when it is loaded, and its default spins: milliseconds lost
// at every region when cores are shared. So set it, and start again.
void make_openmp_passive(char** argv) {
  if (longhaul::foreign_variable("OMP_WAIT_POLICY")) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);  // returns only when it failed: then all still works, only slower
}

// Started without one of them (a daemon, `>&-`), the next file that is opened would be number 0, 1 or 2, and what is
// printed would go into it: a checkpoint, say.
void open_standard_streams() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor)
    if (fcntl(descriptor, F_GETFD) == -1 && errno == EBADF &&
        open("/dev/null", descriptor == 0 ? O_RDONLY : O_WRONLY) != descriptor)
      std::_Exit(1);  // nobody can be told
}

int run(int argc, char** argv) {
  using namespace longhaul;
  CLI::App app{"Longhaul trains long-context transformers on many devices from a model config and an experiment file."};
  app.set_version_flag("--version", cli::version());
  app.failure_message(CLI::FailureMessage::help);
  std::vector<std::pair<CLI::App*, std::function<int()>>> subcommands;
  for (const auto& command : cli::commands()) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    subcommands.emplace_back(sub, command.add(*sub));
  }
  if (argc > 1 && argv[1][0] != '-') {
    std::vector<std::string> names;
    for (const auto& command : cli::commands()) names.push_back(command.name);
    if (std::find(names.begin(), names.end(), argv[1]) == names.end()) {
      const std::string nearest = nearest_name(argv[1], names);
      std::fprintf(stderr, "longhaul: there is no command '%s'%s; there are %s (see longhaul --help)\n", argv[1],
                   nearest.empty() ? "" : (" (did you mean " + nearest + "?)").c_str(), join_names(names).c_str());
      return 2;
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  for (const auto& [sub, body] : subcommands)
    if (sub->parsed())
      for (const auto& extra : sub->remaining())
        if (extra.find('=') == std::string::npos) {
          std::fprintf(
              stderr,
              "longhaul %s: '%s' is neither an option nor an override (section.key=value); see longhaul %s --help\n",
              sub->get_name().c_str(), extra.c_str(), sub->get_name().c_str());
          return 2;
        }
  refuse_unknown_environment();
  initialise_logging();
  for (auto& [sub, body] : subcommands)
    if (sub->parsed()) return body();
  std::fprintf(stderr, "longhaul: a command is missing\n%s", app.help().c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  make_openmp_passive(argv);
  longhaul::set_build_commit(longhaul::cli::commit());
  prctl(PR_SET_NAME, "longhaul");  // started again as /proc/self/exe, it would be called exe
  // A file that outgrows `ulimit -f` shall be a failed write with a path and a reason, not the end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  longhaul::report_unreadable_mappings();
  try {
    return run(argc, argv);
  } catch (const longhaul::Error& error) {
    std::fprintf(stderr, "longhaul: %s\n", error.what());
    return 1;
  } catch (const std::system_error& error) {  // of std::filesystem: names that are too long, links in a circle, ...
    std::fprintf(stderr, "longhaul: %s\n", error.what());
    return 1;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "longhaul: this machine has not the memory that the run asks for\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "longhaul: internal error, please report it: %s\n", error.what());
    return 3;
  }
}
