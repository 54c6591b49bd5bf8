// longhaul report
#include <memory>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "cli/command.h"
#include "io/file.h"
#include "report/page.h"

namespace longhaul::cli {

std::function<int()> add_report(CLI::App& app) {
  struct Arguments {
    std::vector<std::filesystem::path> runs;
    std::filesystem::path output;
  };
  auto arguments = std::make_shared<Arguments>();
  app.add_option("runs", arguments->runs, "run folders; several are drawn over each other")->required();
  app.add_option("-o,--output", arguments->output, "the page to write, an .html file; an earlier one is replaced")
      ->required();
  return [arguments] {
    std::vector<RunData> runs;
    std::set<std::string> names;
    for (const auto& folder : arguments->runs) {
      RunData run = read_run(folder);
      if (!names.insert(run.name).second) run.name = folder.string();
      runs.push_back(std::move(run));
    }
    write_text_atomically(arguments->output.string(), report_page(runs));
    log_info("wrote {}", arguments->output.string());
    return 0;
  };
}

}  // namespace longhaul::cli
