#include "data/expand_files.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "base/error.h"
#include "data/format.h"
#include "io/file.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

std::string examples(const std::vector<std::string>& names) {
  constexpr std::size_t most = 8;
  std::vector<std::string> shown(names.begin(),
                                 names.begin() + static_cast<std::ptrdiff_t>(std::min(most, names.size())));
  return names.empty() ? "nothing"
                       : fmt::format("{}{}", fmt::join(shown, ", "),
                                     names.size() > most ? fmt::format(" and {} more", names.size() - most) : "");
}

std::vector<std::string> files_in(const std::string& folder, const FormatReader& format) {
  std::vector<std::string> found, others;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error)) {
    const std::string name = item->path().filename().string();
    if (name.starts_with('.')) continue;
    const bool wanted =
        std::any_of(format.endings.begin(), format.endings.end(), [&](const auto& one) { return name.ends_with(one); });
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
    fail("{} is a folder without files of data.format {} (names that end in {}); it holds {}", folder, format.name,
         fmt::join(format.endings, ", "), examples(others));
  return found;
}

// Files beside the tokens are opened with them: a pattern as "shards/*" means them not again.
void drop_companions(std::vector<std::string>& names, const FormatReader& format) {
  std::set<std::string> companions;
  for (const auto& name : names) {
    const std::vector<std::string> files = format.files(name);
    for (auto file = std::next(files.begin()); file != files.end(); ++file)
      if (*file != name) companions.insert(*file);
  }
  std::erase_if(names, [&](const auto& one) { return companions.contains(one); });
}

std::vector<std::string> files_matching(const std::string& pattern, const FormatReader& format) {
  glob_t matches{};
  const int code = ::glob(pattern.c_str(), GLOB_ERR, nullptr, &matches);
  std::vector<std::string> found;
  for (std::size_t i = 0; code == 0 && i < matches.gl_pathc; ++i) found.emplace_back(matches.gl_pathv[i]);
  ::globfree(&matches);
  if (code == GLOB_ABORTED) fail("the folders of the pattern {} cannot all be read", pattern);
  if (code == GLOB_NOSPACE) fail("the pattern {} matches more than memory holds", pattern);
  std::error_code ignored;
  std::erase_if(found, [&](const auto& one) { return fs::is_directory(one, ignored); });
  drop_companions(found, format);
  if (found.empty()) fail("no file matches the pattern {}", pattern);
  std::sort(found.begin(), found.end());  // glob sorts by the locale
  return found;
}

}  // namespace

std::vector<std::string> expand_files(const std::vector<std::string>& names, const std::string& format_name) {
  const FormatReader& format = find_format(format_name);
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

std::optional<MisnamedText> misnamed_text(const std::vector<std::string>& names, const std::string& format_name) {
  const FormatReader& own = find_format(format_name);
  if (!own.text) return std::nullopt;
  const auto ends_as = [](const FormatReader& format, std::string name) {
    for (const char* compressed : {".gz", ".zst"})
      if (name.ends_with(compressed)) name.resize(name.size() - std::string(compressed).size());
    return std::any_of(format.endings.begin(), format.endings.end(),
                       [&](const auto& ending) { return name.ends_with(ending); });
  };
  for (const auto& file : expand_files(names, format_name))
    for (const DataFormat* other : data_formats())
      if (other->text && other->name != own.name && !ends_as(own, file) && ends_as(find_format(other->name), file))
        return MisnamedText{file, std::string(other->name)};
  return std::nullopt;
}

std::vector<std::string> files_of_data(const std::string& file, const std::string& format) {
  std::vector<std::string> files;
  std::error_code none;
  for (const auto& one : find_format(format).files(file))
    if (fs::is_regular_file(one, none)) files.push_back(one);
  return files;
}

}  // namespace longhaul
