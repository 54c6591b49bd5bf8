// The manifest of a checkpoint as a value, and its text. Private to src/io.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"

namespace longhaul {

/// Bytes that one checksum covers.
inline constexpr std::int64_t checkpoint_chunk_bytes = std::int64_t{4} << 20;

struct ManifestEntry {
  std::string name;
  CheckpointTensor tensor;
  std::vector<ElementRange> ranges;
  std::int64_t offset = 0;            // byte of the entry in its file; its ranges follow each other
  std::vector<std::uint64_t> hashes;  // XXH3 of each chunk_bytes of the entry
  std::int64_t bytes() const;
};

struct ManifestFile {
  std::string name;
  std::int64_t bytes = 0;
  std::vector<ManifestEntry> entries;
};

struct Manifest {
  std::int64_t step = 0;
  std::int64_t chunk_bytes = checkpoint_chunk_bytes;
  std::vector<ManifestFile> files;  // by rank
  std::string state;

  /// Tensors by name. Throws Error when ranks disagree on dtype or shape, or the ranges of a tensor overlap or leave
  /// something out.
  std::map<std::string, CheckpointTensor, std::less<>> check() const;
};

/// Text of one rank's part.
std::string write_fragment(const ManifestFile& file);
/// `source` is for messages. Throws Error for anything malformed.
ManifestFile read_fragment(const std::string& text, const std::string& source);
/// Text with a checksum of itself.
std::string write_manifest(const Manifest& manifest);
/// Throws Error for a wrong checksum, format, version, or anything malformed.
Manifest read_manifest(const std::string& text, const std::string& source);

/// The checksum of a manifest whose text without it, keys sorted and without spaces, is `canonical`.
std::string manifest_checksum(const std::string& canonical);

std::string checkpoint_folder_name(std::int64_t step);
inline constexpr std::string_view manifest_name = "manifest.json";
inline constexpr std::string_view temporary_prefix = ".tmp-";
std::string shard_file_name(int rank);

}  // namespace longhaul
