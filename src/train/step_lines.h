// Files of a run folder with a JSON line a step, or for some steps.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace longhaul {

/// Keeps the lines of steps up to `last`. The others (steps that will be done again, a line that a crash tore) are not
/// thrown away but moved to the file `replaced` beside it. A file that cannot be read is left as it is: throws Error.
void move_later_lines(const std::filesystem::path& file, std::int64_t last, const std::string& replaced);

}  // namespace longhaul
