#include "train/step_lines.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/file.h"

namespace longhaul {

void move_later_lines(const std::filesystem::path& file, std::int64_t last, const std::string& replaced_name) {
  std::error_code error;
  if (!std::filesystem::exists(file, error) && !error) return;
  constexpr std::int64_t limit = std::int64_t{1} << 40;
  const std::string text = read_text(file.string(), limit);
  std::string kept, moved;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    const std::string line = text.substr(begin, end == std::string::npos ? end : end - begin);
    begin = end == std::string::npos ? text.size() : end + 1;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    const bool keep = json.is_object() && json.contains("step") && json["step"].is_number_integer() &&
                      json["step"].get<std::int64_t>() <= last;
    (keep ? kept : moved) += line + "\n";
  }
  if (kept == text) return;
  if (!moved.empty()) {
    const std::string beside = (file.parent_path() / replaced_name).string();
    LineFile replaced(beside);
    moved.pop_back();
    if (const std::string problem = replaced.append(moved); !problem.empty())
      fail("{} (lines of {} that will be written anew are kept there)", problem, file.string());
    replaced.finish();
  }
  write_text_atomically(file.string(), kept);
}

}  // namespace longhaul
