// Names of data files as users write them: for what reads them, and what compares them between ranks.
#pragma once
#include <string>
#include <vector>

namespace longhaul {

/// Every file that the names stand for, in order. A name that exists and is no folder stands for itself, whatever
/// characters it has. A pattern (`*` any characters but '/', `?` one, `[a-z]` one of them; also in folders' names)
/// stands for the files that match it, a folder for those in it whose ending is one of the format's (not in folders
/// inside), both sorted by their bytes, hidden ones left out. Of megatron's pairs the .bin is named. Throws Error for a
/// pattern or a folder that stands for nothing, saying what the folder holds instead, and for a file that is meant
/// twice.
std::vector<std::string> expand_files(const std::vector<std::string>& names, const std::string& format);

}  // namespace longhaul
