// Names of data files as users write them: for what reads them, and what compares them between ranks.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace longhaul {

/// Every file that the names stand for, in order. A name that exists and is no folder stands for itself, whatever
/// characters it has. A pattern (`*` any characters but '/', `?` one, `[a-z]` one of them; also in folders' names)
/// stands for the files that match it, a folder for those in it whose ending is one of the format's (not in folders
/// inside), both sorted by their bytes, hidden ones left out. Of files that are opened together the one with the tokens
/// is named. Throws Error for an unknown format, a pattern or a folder that stands for nothing, saying what the folder
/// holds instead, and for a file that is meant twice.
std::vector<std::string> expand_files(const std::vector<std::string>& names, const std::string& format);

struct MisnamedText {
  std::string file, format;
};
/// Of files of text that are read as `format`, one whose ending is that of another format of text and not its own, and
/// that other format; nothing when there is none.
std::optional<MisnamedText> misnamed_text(const std::vector<std::string>& names, const std::string& format);

/// Every existing file that reading `file` as one of `format` opens. Throws Error for an unknown format.
std::vector<std::string> files_of_data(const std::string& file, const std::string& format);

}  // namespace longhaul
