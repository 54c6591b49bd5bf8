#include "planner/timeline_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace longhaul {
namespace {

using Bytes = MemoryTimeline::Bytes;

constexpr double width = 1200, height = 560, left = 84, right = 232, top = 62, bottom = 66;
constexpr double inner_width = width - left - right, inner_height = height - top - bottom;
// By category, told apart by those who see fewer colours as well: what stays is dark, what comes and goes is bright.
constexpr const char* colours[memory_categories] = {"#1b3a5c", "#5b7fa6", "#8fa9c4", "#b8c4cf",
                                                    "#e08a1e", "#c93c2b", "#3f9b6c", "#8b5fb0"};

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text)
    safe += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return safe;
}

std::int64_t sum_of(const Bytes& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

// "12.3 GB", decimal as the axis.
std::string amount(double bytes) {
  static constexpr const char* units[] = {"B", "KB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) {
    bytes /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2, units[unit]);
}

// A step of 1, 2 or 5 times a power of ten that gives four to nine of them.
double tick_step(double most) {
  const double power = std::pow(10, std::floor(std::log10(most / 4)));
  for (const double step : {5.0, 2.0, 1.0})
    if (most / (step * power) >= 4) return step * power;
  return power;
}

struct Picture {
  std::string text;
  template <typename... Arguments>
  void add(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    text += fmt::format(format, std::forward<Arguments>(arguments)...);
    text += '\n';
  }
  void label(double x, double y, const std::string& words, const char* style) {
    add(R"(<text x="{:.1f}" y="{:.1f}" {}>{}</text>)", x, y, style, escaped(words));
  }
};

}  // namespace

std::string timeline_svg(const MemoryTimeline& timeline, const std::string& title, std::int64_t limit) {
  const auto count = std::max<std::size_t>(1, timeline.live.size());
  const double most =
      1.06 * static_cast<double>(std::max({timeline.peak_bytes, timeline.arena_bytes, limit, std::int64_t{1}}));
  const auto x_of = [&](double place) { return left + inner_width * place / static_cast<double>(count); };
  const auto y_of = [&](double bytes) { return top + inner_height * (1 - bytes / most); };
  Picture picture;
  picture.add(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0:.0f}" height="{1:.0f}" viewBox="0 0 {0:.0f} {1:.0f}" font-family="sans-serif" font-size="13" fill="#1c2733">)",
      width, height);
  picture.add(R"(<rect width="{:.0f}" height="{:.0f}" fill="#ffffff"/>)", width, height);
  picture.label(left, 24, title, R"(font-size="17" font-weight="bold")");
  picture.label(left, 44,
                "bytes that live in a rank's arena, instruction by instruction through the programs of a step",
                R"(fill="#5b6875")");

  const double step = tick_step(most);
  for (int i = 0; i * step <= most; ++i) {
    const double y = y_of(i * step);
    picture.add(R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#dde3e9"/>)", left, y,
                left + inner_width, y);
    picture.label(left - 8, y + 4, amount(i * step), R"(text-anchor="end" fill="#5b6875")");
  }

  // Columns of instructions; the fullest stands for each.
  const std::size_t columns = std::min<std::size_t>(count, 900);
  std::vector<std::size_t> shown;
  for (std::size_t column = 0; column < columns && !timeline.live.empty(); ++column) {
    const std::size_t begin = column * count / columns, end = std::max(begin + 1, (column + 1) * count / columns);
    std::size_t fullest = begin;
    for (std::size_t i = begin; i < end; ++i)
      if (sum_of(timeline.live[i]) > sum_of(timeline.live[fullest])) fullest = i;
    shown.push_back(fullest);
  }
  std::vector<double> base(shown.size(), 0);
  for (std::size_t k = 0; k < memory_categories; ++k) {
    std::vector<double> next = base;
    bool any = false;
    for (std::size_t i = 0; i < shown.size(); ++i) {
      next[i] += static_cast<double>(timeline.live[shown[i]][k]);
      any |= timeline.live[shown[i]][k] > 0;
    }
    if (!any) continue;
    // Steps along the top, then back along the bottom; neighbours of one height are one step.
    std::string path = "M";
    const auto x_at = [&](std::size_t column) {
      return x_of(static_cast<double>(column * count) / static_cast<double>(columns));
    };
    for (std::size_t i = 0, j = 0; i < shown.size(); i = j) {
      for (j = i + 1; j < shown.size() && next[j] == next[i];) ++j;
      path += fmt::format("{}{:.1f} {:.1f}H{:.1f}", i ? "L" : "", x_at(i), y_of(next[i]), x_at(j));
    }
    for (std::size_t j = shown.size(), i = j; j > 0; j = i) {
      for (i = j - 1; i > 0 && base[i - 1] == base[j - 1];) --i;
      path += fmt::format("L{:.1f} {:.1f}H{:.1f}", x_at(j), y_of(base[j - 1]), x_at(i));
    }
    picture.add(R"(<path fill="{}" d="{}Z"/>)", colours[k], path);
    base = next;
  }

  // Programs, and where their backward passes begin.
  bool down = false;
  for (const auto& span : timeline.programs) {
    const double begin = x_of(static_cast<double>(span.begin)), end = x_of(static_cast<double>(span.end));
    picture.add(R"(<line x1="{0:.1f}" y1="{1:.1f}" x2="{0:.1f}" y2="{2:.1f}" stroke="#1c2733"/>)", begin, top,
                top + inner_height + 6);
    if (span.backward < span.end) {
      const double x = x_of(static_cast<double>(span.backward));
      picture.add(
          R"(<line x1="{0:.1f}" y1="{1:.1f}" x2="{0:.1f}" y2="{2:.1f}" stroke="#1c2733" stroke-dasharray="2 4"/>)", x,
          top, top + inner_height);
      picture.label((begin + x) / 2, top + inner_height + 18, "forward", R"(text-anchor="middle" fill="#5b6875")");
      picture.label((x + end) / 2, top + inner_height + 18, "backward", R"(text-anchor="middle" fill="#5b6875")");
    }
    // Narrow ones stand next to each other: their names at two heights.
    picture.label((begin + end) / 2, top + inner_height + (down ? 52 : 36), span.name, R"(text-anchor="middle")");
    down = !down;
  }
  picture.add(R"(<line x1="{0:.1f}" y1="{2:.1f}" x2="{1:.1f}" y2="{2:.1f}" stroke="#1c2733"/>)", left,
              left + inner_width, top + inner_height);

  // The arena and the limit.
  const auto line = [&](std::int64_t bytes, const char* colour, const std::string& words) {
    const double y = y_of(static_cast<double>(bytes));
    picture.add(
        R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-width="1.5" stroke-dasharray="7 4"/>)",
        left, y, left + inner_width, y, colour);
    picture.label(left + 6, y - 5, words, fmt::format(R"(fill="{}")", colour).c_str());
  };
  if (limit > 0) line(limit, "#a02316", fmt::format("{} that a rank may take", amount(static_cast<double>(limit))));
  const bool apart =
      limit <= 0 || std::abs(y_of(static_cast<double>(limit)) - y_of(static_cast<double>(timeline.arena_bytes))) > 16;
  if (apart)
    line(timeline.arena_bytes, "#1c2733", fmt::format("arena: {}", amount(static_cast<double>(timeline.arena_bytes))));

  // The peak.
  if (!timeline.live.empty()) {
    const double x = x_of(static_cast<double>(timeline.peak) + 0.5), y = y_of(static_cast<double>(timeline.peak_bytes));
    picture.add(R"(<line x1="{0:.1f}" y1="{1:.1f}" x2="{0:.1f}" y2="{2:.1f}" stroke="#000000" stroke-width="1.5"/>)", x,
                y, top + inner_height);
    picture.add(R"(<circle cx="{:.1f}" cy="{:.1f}" r="5" fill="#ffffff" stroke="#000000" stroke-width="2"/>)", x, y);
  }
  double y = top + 8;
  const double x = left + inner_width + 18;
  if (!timeline.live.empty()) {
    picture.label(x, y, fmt::format("peak: {}", amount(static_cast<double>(timeline.peak_bytes))),
                  R"(font-weight="bold")");
    picture.label(x, y + 18, timeline.peak_op, R"(fill="#5b6875")");
    y += 46;
    for (int k = memory_categories - 1; k >= 0; --k) {
      const auto bytes = timeline.live[timeline.peak][static_cast<std::size_t>(k)];
      const bool ever = std::any_of(timeline.live.begin(), timeline.live.end(),
                                    [&](const Bytes& one) { return one[static_cast<std::size_t>(k)] > 0; });
      if (!ever) continue;
      picture.add(R"(<rect x="{:.1f}" y="{:.1f}" width="13" height="13" rx="2" fill="{}"/>)", x, y - 11,
                  colours[static_cast<std::size_t>(k)]);
      picture.label(x + 20, y, std::string(name_of(static_cast<MemoryCategory>(k))), "");
      picture.label(width - 18, y, amount(static_cast<double>(bytes)), R"(text-anchor="end")");
      y += 22;
    }
  }
  picture.add("</svg>");
  return picture.text;
}

}  // namespace longhaul
