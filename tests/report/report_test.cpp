// The report of runs: what is read of a run folder, and a page that holds all of it and nothing that it should not.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "../io/temporary.h"
#include "base/error.h"
#include "report/page.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

std::string line(int step, double loss, const std::string& more = "") {
  return fmt::format(R"({{"step": {}, "loss": {}, "lr": 0.001, "valid_tokens": 64, "step_seconds": 2{}}})", step, loss,
                     more) +
         "\n";
}

nlohmann::json data_of(const std::string& page) {
  const std::string begin = "id=\"data\">", end = "</script>";
  const auto from = page.find(begin) + begin.size();
  return nlohmann::json::parse(page.substr(from, page.find(end, from) - from));
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("a run folder is read as it stands while the run writes it") {
  TemporaryFolder folder;
  write_bytes(folder / "metrics.jsonl", line(1, 4) + line(2, 3, R"(, "validation_loss": 3.5)") +
                                            line(3, 9, R"(, "skipped": "loss 9")") + line(4, 2) + R"({"step": 5, "lo)");
  const RunData run = read_run(folder.path());
  CHECK(run.series.at("loss").step == std::vector<std::int64_t>{1, 2, 3, 4});
  CHECK(run.series.at("loss").value == std::vector<double>{4, 3, 9, 2});
  CHECK(run.series.at("validation_loss").step == std::vector<std::int64_t>{2});
  CHECK(run.series.at("tokens").value == std::vector<double>{64, 128, 192, 256});
  CHECK(run.skipped == std::vector<std::pair<std::int64_t, std::string>>{{3, "loss 9"}});
  CHECK(run.last("loss") == 2);
  CHECK(run.least("loss") == 2);
  CHECK(run.median("loss") == 4);
  CHECK(std::isnan(run.last("mfu")));
  CHECK(run.starts.empty());

  // Sets by name, losses by context: the newest stay.
  write_bytes(
      folder / "metrics.jsonl",
      "{\"step\": 0, \"validation_loss.books\": 6, \"validation_loss_by_position.books\": [[1, 6, 3]]}\n" +
          line(1, 4,
               R"(, "validation_loss.books": 5, "validation_loss_by_position.books": [[1, 5.5, 3], [2, 4.5, 6]])"));
  const RunData sets = read_run(folder.path());
  CHECK(sets.series.at("validation_loss.books").step == std::vector<std::int64_t>{0, 1});
  CHECK(sets.by_position.at("books").step == 1);
  CHECK(sets.by_position.at("books").first == std::vector<std::int64_t>{1, 2});
  CHECK(sets.by_position.at("books").loss == std::vector<double>{5.5, 4.5});
  write_bytes(folder / "metrics.jsonl", line(1, 4) + "garbled\n" + line(2, 3));
  CHECK_THAT(message_of([&] { read_run(folder.path()); }), Contains("metrics.jsonl:2 is no line of metrics: garbled"));
  write_bytes(folder / "metrics.jsonl", "");
  CHECK_THAT(message_of([&] { read_run(folder.path()); }), Contains("holds no step yet"));
  CHECK_THAT(message_of([&] { read_run(folder / "none"); }), Contains("holds no metrics.jsonl"));
  write_bytes(folder / "metrics.jsonl", line(1, 4));
  write_bytes(folder / "run.json", R"({"version": 1})");
  CHECK_THAT(message_of([&] { read_run(folder.path()); }), Contains("run.json is no record"));
}

TEST_CASE("memory is planned for the ranks in rank 0's process, as each start had them") {
  TemporaryFolder folder;
  std::string lines;
  for (int step = 1; step <= 3; ++step)
    lines += line(step, 4, R"(, "peak_memory_bytes": 10, "process_memory_bytes": 35)");
  write_bytes(folder / "metrics.jsonl", lines);
  CHECK(read_run(folder.path()).series.at("planned_memory_bytes").value == std::vector<double>{10, 10, 10});
  write_bytes(folder / "run.json", R"({"version": 1, "starts": [
      {"from_step": 0, "hosts": [{"host": "a", "processes": [7, 7, 8]}, {"host": "b", "processes": [7]}]},
      {"from_step": 2, "hosts": [{"host": "a", "processes": [5, 5, 5, 5]}]}]})");
  const RunData run = read_run(folder.path());
  CHECK(run.series.at("planned_memory_bytes").value == std::vector<double>{20, 20, 40});
  CHECK(data_of(report_page({run}))["runs"][0]["series"]["process_memory_bytes"]["value"][2] == 35);
}

TEST_CASE("a long curve keeps its spikes and its order") {
  Series series;
  for (int i = 0; i < 100000; ++i) {
    series.step.push_back(i + 1);
    series.value.push_back(i == 77777 ? 1000 : i == 12345 ? -1000 : std::sin(i * 1e-3));
  }
  const Series thin = thinned(series, 3000);
  CHECK(thin.step.size() <= 3000);
  CHECK(thin.step.size() > 2000);
  CHECK(std::is_sorted(thin.step.begin(), thin.step.end()));
  CHECK(std::count(thin.value.begin(), thin.value.end(), 1000) == 1);
  CHECK(std::count(thin.value.begin(), thin.value.end(), -1000) == 1);
  for (std::size_t i = 0; i < thin.step.size(); ++i)
    REQUIRE(thin.value[i] == series.value[static_cast<std::size_t>(thin.step[i] - 1)]);
  CHECK(thinned(series, 100000).step.size() == 100000);
}

TEST_CASE("a report is one page with every run, decision and warning, and asks for nothing from elsewhere") {
  TemporaryFolder folder;
  std::vector<RunData> runs;
  for (const char* name : {"a", "b"}) {
    const std::string place = folder / name;
    std::filesystem::create_directories(place);
    std::string lines;
    for (int step = 1; step <= 30; ++step)
      lines += line(
          step, 5.0 / step,
          step % 10 == 0
              ? R"(, "validation_loss": 1.5, "validation_loss.books": 2.5, "grad_norm": 2, "validation_loss_by_position": [[1, 2.5, 9], [2, 1.5, 18], [4, 1.25, 36]])"
              : R"(, "grad_norm": 3)");
    write_bytes(place + "/metrics.jsonl", lines + line(31, 7, R"(, "skipped": "it is an outlier")"));
    write_bytes(place + "/run.json", R"({"version": 1, "starts": [
      {"start": "S1", "end": "E1", "outcome": "stopped", "from_step": 0, "to_step": 12, "reason": "TERM", "commit": "abc",
       "ranks": 4, "hosts": [{"host": "node1", "cpu": "CPU"}], "decisions": ["old"], "warnings": ["</script><b>w1"]},
      {"start": "S2", "end": null, "outcome": "finished", "from_step": 12, "to_step": 31, "reason": null,
       "decisions": ["parallelism: <ulysses 4>"], "warnings": ["w2", "</script><b>w1"]}]})");
    write_bytes(place + "/experiment.yaml", "model: {config: a<b.json}\n");
    runs.push_back(read_run(place));
  }
  runs[1].name = "b</script><i>";
  const std::string page = report_page(runs);
  for (const char* text : {"TERM", "node1 (CPU)", "parallelism: &lt;ulysses 4&gt;", "&lt;/script&gt;&lt;b&gt;w1",
                           "a&lt;b.json", "step 31: it is an outlier", "Loss", "validation"})
    CHECK_THAT(page, Contains(text));
  CHECK(count_of(page, "<li class=\"bad\">&lt;/script&gt;&lt;b&gt;w1</li>") == 2);  // once a run
  CHECK(count_of(page, "</script>") == 2);                                          // data, script
  CHECK(count_of(page, "<i>") == 0);
  for (const char* asks : {"http://", "https://", "src=", "@import", "url(http"}) {
    INFO(asks);
    CHECK(count_of(page, asks) == (std::string(asks) == "http://" ? 1 : 0));  // the name of SVG's name space
  }
  const nlohmann::json data = data_of(page);
  REQUIRE(data.at("runs").size() == 2);
  CHECK(data["runs"][1]["name"] == "b</script><i>");
  CHECK(data["runs"][0]["series"]["loss"]["value"].size() == 31);
  CHECK(data["runs"][0]["series"]["validation_loss"]["step"] == std::vector<int>{10, 20, 30});
  CHECK(data["runs"][0]["series"]["validation_loss.books"]["value"].size() == 3);
  CHECK(data["figures"][0]["keys"] == std::vector<std::string>{"loss", "validation_loss", "validation_loss.books"});
  CHECK(data["figures"][1]["keys"] == std::vector<std::string>{"positions."});
  CHECK(data["runs"][0]["series"]["positions."]["step"] == std::vector<int>{1, 2, 4});
  CHECK(data["runs"][0]["series"]["hours"]["value"].back() == Approx(62 / 3600.0));
  CHECK(data["runs"][0]["marks"].size() == 2);  // skipped, resumed

  // Drawn, where there is a browser.
  if (std::system("command -v chromium >/dev/null 2>&1") != 0) {
    WARN("no chromium here: the page's script is not run");
    return;
  }
  write_bytes(folder / "report.html", page);
  const std::string command = "timeout 100 chromium --headless --no-sandbox --disable-gpu --dump-dom 'file://" +
                              (folder / "report.html") + "' > '" + (folder / "drawn.html") + "' 2>/dev/null";
  REQUIRE(std::system(command.c_str()) == 0);
  const std::string drawn = read_bytes(folder / "drawn.html");
  CHECK_THAT(drawn, Contains("data-drawn=\"6\""));  // loss, by context, norm, rate, seconds, labels
  CHECK(count_of(drawn, "<path") >= 6 * 2);
}
