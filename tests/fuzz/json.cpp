// JSON as users write it: what is taken, nlohmann::json's own parser takes too and gives the same.
#include "base/json.h"

#include <nlohmann/json.hpp>

#include "fuzz.h"

using namespace longhaul;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::text(data, size);
  fuzz::taken([&] {
    JsonLines lines;
    const auto ours = parse_json(text, "fuzz", &lines);
    const auto theirs = nlohmann::json::parse(text, nullptr, false);
    fuzz::require(!theirs.is_discarded() && ours == theirs, "the same as the library's own parser");
  });
  return 0;
}
