#include "report/page.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "report/page_parts.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t most_points = 3000;  // of a curve: more than a figure has pixels

struct Figure {
  const char* title;
  const char* note;
  std::vector<std::string> keys;  // the first solid, others dashed
  bool logarithmic = false, smoothed = false, from_zero = false;
  bool positions = false;  // not against steps: against the context of a token
};

// Series whose names begin with `prefix`, of any run; "validation_loss.books" before "validation_loss.code".
void add_names(const std::vector<RunData>& runs, const std::string& prefix, std::vector<std::string>& names) {
  std::set<std::string> found;
  for (const RunData& run : runs)
    for (const auto& [name, series] : run.series)
      if (name.starts_with(prefix)) found.insert(name);
  names.insert(names.end(), found.begin(), found.end());
}

std::vector<Figure> figures(const std::vector<RunData>& runs) {
  std::vector<std::string> losses = {"loss", "validation_loss"}, positions;
  add_names(runs, "validation_loss.", losses);
  std::vector<std::string> sources;
  add_names(runs, "loss.", sources);
  std::set<std::string> sets;
  for (const RunData& run : runs)
    for (const auto& [set, curve] : run.by_position) sets.insert("positions." + set);
  positions.assign(sets.begin(), sets.end());
  return {{"Loss", "mean over a step's labels; dashed: validation", losses, false, true, false},
          {"Loss by context", "of the last validation, against the tokens before a label: from 1, 2, 4, ... on",
           positions, false, false, false, true},
          {"Loss by source", "of data.sources", sources, false, true, false},
          {"Gradient norm", "before clipping", {"grad_norm"}, true, true, false},
          {"Learning rate", "", {"lr"}, false, false, true},
          {"Tokens per second", "all ranks", {"tokens_per_second"}, false, false, true},
          {"Model FLOPs utilisation", "of the ranks' measured peak", {"mfu"}, false, false, true},
          {"Memory of rank 0's process",
           "what the system counts; dashed: planned for the ranks in it",
           {"process_memory_bytes", "planned_memory_bytes"},
           false,
           false,
           true},
          {"Seconds a step", "", {"step_seconds"}, false, false, true},
          {"Labels a step", "tokens that are learned from", {"valid_tokens"}, false, false, true},
          {"Attention imbalance",
           "the busiest rank's work over the mean; dashed: along the longest path",
           {"attention_imbalance", "attention_path"},
           false,
           false,
           false}};
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

// "12.3 M": three or four digits and a unit's letter.
std::string number(double value, const char* unit = "") {
  if (!std::isfinite(value)) return "–";
  for (const auto& [size, letter] : {std::pair{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}})
    if (std::abs(value) >= size)
      return fmt::format("{:.4g} {}{}", value / (std::string(letter) == "k" ? 1e3 : size), letter, unit);
  return fmt::format("{:.5g}{}{}", value, *unit ? " " : "", unit);
}

std::string bytes_text(double bytes) {
  if (!std::isfinite(bytes)) return "–";
  return bytes < 1e9 ? fmt::format("{:.1f} MB", bytes * 1e-6) : fmt::format("{:.2f} GB", bytes * 1e-9);
}

// The series that figures show and the axes that they may be drawn against: labels learned, and hours spent in steps.
ordered_json curves_of(const RunData& run, const std::vector<Figure>& all_figures) {
  ordered_json all;
  std::set<std::string> wanted = {"tokens"};
  for (const Figure& figure : all_figures) wanted.insert(figure.keys.begin(), figure.keys.end());
  for (const auto& [name, series] : run.series) {
    if (!wanted.contains(name)) continue;
    const Series thin = thinned(series, most_points);
    all[name] = {{"step", thin.step}, {"value", thin.value}};
  }
  if (const auto seconds = run.series.find("step_seconds"); seconds != run.series.end()) {
    Series hours = seconds->second;
    double sum = 0;
    for (double& value : hours.value) value = sum += value / 3600;
    const Series thin = thinned(hours, most_points);
    all["hours"] = {{"step", thin.step}, {"value", thin.value}};
  }
  for (const auto& [set, curve] : run.by_position)
    all["positions." + set] = {{"step", curve.first}, {"value", curve.loss}, {"after", curve.step}};
  return all;
}

ordered_json marks_of(const RunData& run) {
  ordered_json marks = ordered_json::array();
  for (const auto& [step, why] : run.skipped)
    marks.push_back({{"step", step}, {"bad", true}, {"text", fmt::format("step {} skipped: {}", step, why)}});
  for (const RunStart& start : run.starts)
    if (start.from_step > 0)
      marks.push_back({{"step", start.from_step},
                       {"bad", false},
                       {"text", fmt::format("{}: resumed from step {}, {}", run.name, start.from_step, start.begin)}});
  return marks;
}

std::string data_text(const std::vector<RunData>& runs) {
  ordered_json data;
  const std::vector<Figure> all = figures(runs);
  for (const RunData& run : runs)
    data["runs"].push_back({{"name", run.name}, {"series", curves_of(run, all)}, {"marks", marks_of(run)}});
  for (const Figure& figure : all)
    data["figures"].push_back({{"title", figure.title},
                               {"note", figure.note},
                               {"keys", figure.keys},
                               {"log", figure.logarithmic},
                               {"smooth", figure.smoothed},
                               {"zero", figure.from_zero},
                               {"positions", figure.positions}});
  // Inside a page nothing of the data may look like the script's end.
  std::string text;
  for (const char c : data.dump(-1, ' ', false, ordered_json::error_handler_t::replace))
    text += c == '<' ? "\\u003c" : std::string(1, c);
  return text;
}

std::string swatch(std::size_t run) {
  return fmt::format("<span class=\"swatch\" data-run=\"{}\"></span>", run);
}

std::string summary(const std::vector<RunData>& runs) {
  std::string text =
      "<div class=\"wide\"><table><tr><th>run</th><th>step</th><th>labels</th><th>last loss</th><th>lowest "
      "validation</th><th>tokens/s (median)</th><th>MFU</th><th>planned memory a rank</th><th>hours in "
      "steps</th><th>ranks</th><th>starts</th><th>ended</th></tr>\n";
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const RunData& run = runs[r];
    const auto seconds = run.series.find("step_seconds");
    double hours = 0;
    if (seconds != run.series.end())
      for (const double one : seconds->second.value) hours += one / 3600;
    const RunStart last = run.starts.empty() ? RunStart{} : run.starts.back();
    text += fmt::format(
        "<tr><td>{}{}</td><td>{}</td><td>{}</td><td>{:.5f}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.3g}</"
        "td>"
        "<td>{}</td><td>{}</td><td{}>{}</td></tr>\n",
        swatch(r), escaped(run.name), run.series.at("tokens").step.back(), number(run.last("tokens")), run.last("loss"),
        std::isfinite(run.least("validation_loss")) ? fmt::format("{:.5f}", run.least("validation_loss")) : "–",
        number(run.median("tokens_per_second")),
        std::isfinite(run.median("mfu")) ? fmt::format("{:.1f} %", 100 * run.median("mfu")) : "–",
        bytes_text(run.last("peak_memory_bytes")), hours, last.ranks ? std::to_string(last.ranks) : "–",
        run.starts.empty() ? "–" : std::to_string(run.starts.size()), last.outcome == "failed" ? " class=\"bad\"" : "",
        last.outcome.empty() ? "not yet, or not known" : escaped(last.outcome));
  }
  return text + "</table></div>\n";
}

std::string list_of(const std::vector<std::string>& texts, const char* kind) {
  std::string text = "<ul>\n";
  for (const auto& one : texts) text += fmt::format("<li{}>{}</li>\n", kind, escaped(one));
  return text + "</ul>\n";
}

std::string record(const RunData& run, std::size_t r) {
  std::string text = fmt::format("<h2>{}{}</h2>\n", swatch(r), escaped(run.name));
  if (!run.starts.empty()) {
    text +=
        "<div class=\"wide\"><table><tr><th>start</th><th>end</th><th>steps</th><th>ended</th><th>ranks</th>"
        "<th>commit</th><th style=\"text-align:left\">hosts</th><th style=\"text-align:left\">why</th></tr>\n";
    for (const RunStart& start : run.starts)
      text += fmt::format(
          "<tr><td>{}</td><td>{}</td><td>{} to {}</td><td{}>{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td><td "
          "class=\"text\">{}</td></tr>\n",
          escaped(start.begin), escaped(start.end), start.from_step, start.to_step,
          start.outcome == "failed" ? " class=\"bad\"" : "", escaped(start.outcome), start.ranks, escaped(start.commit),
          escaped(start.hosts), escaped(start.reason));
    text += "</table></div>\n<p>What was decided at the last start:</p>\n" + list_of(run.starts.back().decisions, "");
    std::vector<std::string> warnings;
    for (const RunStart& start : run.starts)
      for (const auto& warning : start.warnings)
        if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end()) warnings.push_back(warning);
    text += warnings.empty() ? "<p>No warnings.</p>\n" : "<p>Warnings:</p>\n" + list_of(warnings, " class=\"bad\"");
  }
  std::vector<std::string> skipped;
  for (const auto& [step, why] : run.skipped) skipped.push_back(fmt::format("step {}: {}", step, why));
  if (!skipped.empty()) text += "<p>Steps that were not taken:</p>\n" + list_of(skipped, " class=\"bad\"");
  if (!run.experiment.empty())
    text +=
        "<details><summary>The experiment, resolved</summary><pre>" + escaped(run.experiment) + "</pre></details>\n";
  return text;
}

std::string controls(const std::vector<RunData>& runs) {
  std::string text = "<div class=\"bar\">";
  for (std::size_t r = 0; r < runs.size(); ++r)
    text += fmt::format("<label><input type=\"checkbox\" id=\"run{}\" checked>{}{}</label>", r, swatch(r),
                        escaped(runs[r].name));
  return text +
         "<label>against <select id=\"axis\"><option value=\"step\">steps</option><option value=\"tokens\">labels "
         "learned</option><option value=\"hours\">hours in steps</option></select></label><label>smoothing <input "
         "type=\"range\" id=\"smooth\" min=\"0\" max=\"10\" step=\"0.5\" value=\"2\"></label></div>\n";
}

}  // namespace

std::string report_page(const std::vector<RunData>& runs) {
  LONGHAUL_CHECK(!runs.empty(), "a report of no run");
  std::vector<std::string> names;
  for (const RunData& run : runs) names.push_back(escaped(run.name));
  std::string page = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n<style>{1}</style></head>\n<body>\n"
      "<h1>{0}</h1>\n<p>A report by Longhaul. A curve of more than {2} steps shows the smallest and the largest value "
      "of "
      "each stretch; vertical lines are resumes and steps that were not taken.</p>\n",
      fmt::join(names, ", "), report::style, most_points);
  page += summary(runs) + controls(runs) +
          "<div class=\"charts\" id=\"charts\"></div>\n<noscript><p>The curves are drawn "
          "by the page's own script.</p></noscript>\n";
  for (std::size_t r = 0; r < runs.size(); ++r) page += record(runs[r], r);
  return page + "<script type=\"application/json\" id=\"data\">" + data_text(runs) + "</script>\n<script>" +
         report::script + "</script>\n</body></html>\n";
}

}  // namespace longhaul
