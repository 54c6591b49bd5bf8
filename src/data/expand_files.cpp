#include "data/expand_files.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>

#include "base/error.h"
#include "io/file.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string>& endings_of(const std::string& format) {
  static const std::map<std::string, std::vector<std::string>> table = {{"text", {".txt", ".text"}},
                                                                        {"jsonl", {".jsonl", ".json", ".ndjson"}},
                                                                        {"llmc", {".bin"}},
                                                                        {"megatron", {".bin"}},
                                                                        {"datatrove", {".ds", ".bin"}}};
  static const std::vector<std::string> none;
  const auto found = table.find(format);
  return found == table.end() ? none : found->second;
}

std::string examples(const std::vector<std::string>& names) {
  constexpr std::size_t most = 8;
  std::vector<std::string> shown(names.begin(),
                                 names.begin() + static_cast<std::ptrdiff_t>(std::min(most, names.size())));
  return names.empty() ? "nothing"
                       : fmt::format("{}{}", fmt::join(shown, ", "),
                                     names.size() > most ? fmt::format(" and {} more", names.size() - most) : "");
}

std::vector<std::string> files_in(const std::string& folder, const std::string& format) {
  std::vector<std::string> found, others;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error)) {
    const std::string name = item->path().filename().string();
    if (name.starts_with('.')) continue;
    const auto& endings = endings_of(format);
    const bool wanted =
        std::any_of(endings.begin(), endings.end(), [&](const auto& one) { return name.ends_with(one); });
    if (wanted && !item->is_directory(error))
      found.push_back(item->path().string());
    else
      others.push_back(name);
    if (error) fail_system("inspect", item->path().string(), -1, error.value());
  }
  if (error) fail_system("list folder", folder, -1, error.value());
  std::sort(found.begin(), found.end());
  std::sort(others.begin(), others.end());
  if (found.empty())
    fail("{} is a folder without files of data.format {} (names that end in {}); it holds {}", folder, format,
         fmt::join(endings_of(format), ", "), examples(others));
  return found;
}

// Files beside the tokens that are opened with them: a pattern as "shards/*" means them not again.
bool is_companion(const std::string& name, const std::vector<std::string>& all, const std::string& format) {
  const auto belongs = [&](std::string_view ending, std::string_view instead) {
    if (!name.ends_with(ending)) return false;
    const std::string owner = name.substr(0, name.size() - ending.size()) + std::string(instead);
    return std::find(all.begin(), all.end(), owner) != all.end();
  };
  if (format == "megatron") return belongs(".idx", ".bin");
  return format == "datatrove" && (belongs(".index", "") || belongs(".loss", "") || belongs(".metadata", ""));
}

std::vector<std::string> files_matching(const std::string& pattern, const std::string& format) {
  glob_t matches{};
  const int code = ::glob(pattern.c_str(), GLOB_ERR, nullptr, &matches);
  std::vector<std::string> found;
  for (std::size_t i = 0; code == 0 && i < matches.gl_pathc; ++i) found.emplace_back(matches.gl_pathv[i]);
  ::globfree(&matches);
  if (code == GLOB_ABORTED) fail("the folders of the pattern {} cannot all be read", pattern);
  if (code == GLOB_NOSPACE) fail("the pattern {} matches more than memory holds", pattern);
  std::error_code ignored;
  std::erase_if(found, [&](const auto& one) { return fs::is_directory(one, ignored); });
  const std::vector<std::string> all = found;
  std::erase_if(found, [&](const auto& one) { return is_companion(one, all, format); });
  if (found.empty()) fail("no file matches the pattern {}", pattern);
  std::sort(found.begin(), found.end());  // glob sorts by the locale
  return found;
}

}  // namespace

std::vector<std::string> expand_files(const std::vector<std::string>& names, const std::string& format) {
  std::vector<std::string> files;
  for (const auto& name : names) {
    std::error_code error;
    const auto status = fs::status(name, error);
    std::vector<std::string> found = {name};
    if (fs::is_directory(status))
      found = files_in(name, format);
    else if (!fs::exists(status) && name.find_first_of("*?[") != std::string::npos)
      found = files_matching(name, format);
    files.insert(files.end(), found.begin(), found.end());
  }
  std::set<std::string> seen;
  for (const auto& file : files)
    if (names.size() > 1 && files.size() > names.size() && !seen.insert(file).second)
      fail("{} is meant by more than one entry of the list; name it once", file);
  return files;
}

}  // namespace longhaul
