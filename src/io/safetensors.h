// The safetensors format: a strict reader and a writer that takes any byte range in any order.
//
// A file is: u64 little-endian header length N, N bytes of JSON, then the tensors' bytes without holes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace longhaul {

/// Safetensors' own spelling of our types: float64 "F64", float32 "F32", bfloat16 "BF16", int32 "I32".
std::string_view safetensors_name(DType type);
/// The type of that spelling, or nothing when we have no such type ("F16", "I64", ...).
std::optional<DType> from_safetensors_name(std::string_view name);
/// Bits of one element of a safetensors dtype, or 0 for a name that the format does not know.
int safetensors_bits(std::string_view dtype);

struct SafetensorsTensor {
  std::string name;
  std::string dtype;  // as written in the file, for example "BF16"
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0;  // of its first byte in the file; row-major, little-endian
  std::int64_t bytes = 0;
  std::string file;  // the file that holds it
  std::int64_t elements() const;
};

/// Tensors of one file or of a set of shards. Nothing stays mapped; a few of the files stay open.
class SafetensorsReader {
 public:
  /// `path`: a .safetensors file, a ...safetensors.index.json, or a folder with model.safetensors,
  /// model.safetensors.index.json, one other .safetensors file, or all shards of one set. Reads and checks every
  /// header; touches no tensor bytes. Throws Error for anything that the format forbids: a header longer than
  /// 100,000,000 bytes or than the file, garbled JSON, duplicate or unknown keys, unknown dtypes, shapes whose size
  /// overflows or does not match the offsets, overlaps, holes, bytes after the last tensor; for an index that disagrees
  /// with its shards; and for files of other kinds, saying which (a Git LFS pointer, pytorch_model.bin, ...), or what a
  /// folder holds instead.
  explicit SafetensorsReader(const std::string& path);
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;
  ~SafetensorsReader();

  /// By name, in lexical order.
  const std::map<std::string, SafetensorsTensor, std::less<>>& tensors() const { return tensors_; }
  /// nullptr when there is none of that name.
  const SafetensorsTensor* find(std::string_view name) const;
  /// Throws Error naming the path when there is none.
  const SafetensorsTensor& at(std::string_view name) const;
  /// Copies bytes [begin, begin + bytes) of a tensor of this reader. May be called from several threads. Throws Error
  /// when the file is shorter than it was, and as ReadFile does.
  void read(const SafetensorsTensor& tensor, std::int64_t begin, void* to, std::int64_t bytes) const;
  /// The "__metadata__" strings (of all shards together; the first shard's win).
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  struct Files;
  void add_file(const std::string& path);
  void add_index(const std::string& path);
  void add_folder(const std::string& path);
  std::string path_;
  std::unique_ptr<Files> files_;
  std::map<std::string, SafetensorsTensor, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsDeclaration {
  std::string name;
  std::string dtype;  // "F32", "BF16", ...; whole bytes only
  std::vector<std::int64_t> shape;
};

/// Writes one file. All tensors are declared first; their bytes may then come in any pieces and any order, so nobody
/// has to hold a whole tensor. The file appears at `path` only on finish().
class SafetensorsWriter {
 public:
  /// Lays the file out, reserves its space and writes the header. Throws Error on a full disk, a bad path, an unknown
  /// dtype, a duplicate or reserved name, a negative or overflowing shape.
  SafetensorsWriter(const std::string& path, const std::vector<SafetensorsDeclaration>& tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  /// Without finish() the partial file is removed and `path` is left as it was.
  ~SafetensorsWriter();

  /// Writes bytes [byte_offset, byte_offset + bytes) of a tensor. Throws Error when the disk refuses;
  /// std::logic_error for an undeclared name or a range outside the tensor.
  void write(std::string_view name, std::int64_t byte_offset, const void* data, std::int64_t bytes);
  /// Flushes to the disk and renames into place. std::logic_error when some declared byte was never written.
  void finish();
  /// Bytes of the finished file.
  std::int64_t file_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longhaul
