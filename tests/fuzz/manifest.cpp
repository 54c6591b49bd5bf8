// The manifest of a checkpoint. Its checksum is made right first, so that what lies behind it is reached; a first byte
// 'r' leaves the text raw.
#include "io/checkpoint_manifest.h"

#include <nlohmann/json.hpp>

#include "fuzz.h"

using namespace longhaul;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string text(fuzz::text(data + 1, size - 1));
  if (data[0] != 'r') {
    nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
    if (!value.is_object()) return 0;
    value.erase("xxh3");
    try {
      value["xxh3"] = manifest_checksum(value.dump());
      text = value.dump(1);
    } catch (const nlohmann::json::exception&) {  // not UTF-8
      return 0;
    }
  }
  fuzz::taken([&] {
    const Manifest manifest = read_manifest(text, "fuzz");
    (void)manifest.check();
    const Manifest again = read_manifest(write_manifest(manifest), "again");
    fuzz::require(again.files.size() == manifest.files.size() && again.state == manifest.state,
                  "a manifest that is written reads back");
  });
  return 0;
}
