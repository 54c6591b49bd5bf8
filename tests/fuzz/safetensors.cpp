// Safetensors files and indices. Of what is taken every byte can be read. The first byte says what the rest is: 'i' an
// index beside one fixed shard, 'h' a header whose length and data are added, anything else a whole file.
#include "io/safetensors.h"

#include <algorithm>

#include "fuzz.h"

using namespace longhaul;

namespace {

void read_all(const std::string& path) {
  const SafetensorsReader reader(path);
  for (const auto& [name, tensor] : reader.tensors()) {
    fuzz::require(tensor.bytes >= 0 && tensor.bytes <= std::int64_t{1} << 24, "tensors lie in their file");
    std::string bytes(static_cast<std::size_t>(tensor.bytes), '\0');
    reader.read(tensor, 0, bytes.data(), tensor.bytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(fuzz::text(data + 1, size - 1));
  if (data[0] == 'i') {
    fuzz::write("a.safetensors", std::string("\x38\0\0\0\0\0\0\0", 8) +
                                     R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  )" + "abcd");
    const std::string path = fuzz::write("model.safetensors.index.json", text);
    fuzz::taken([&] { read_all(path); });
    return 0;
  }
  std::string file = text;
  if (data[0] == 'h') {
    const std::uint64_t length = text.size();
    file = std::string(reinterpret_cast<const char*>(&length), 8) + text + std::string(16, 'x');
  }
  const std::string path = fuzz::write("one.safetensors", file);
  fuzz::taken([&] { read_all(path); });
  return 0;
}
