#include "io/checkpoint_manifest.h"

#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "io/ranges.h"

namespace longhaul {
namespace {

using nlohmann::json;

constexpr int format_version = 1;
constexpr std::int64_t largest_chunk_bytes = std::int64_t{1} << 30;
constexpr const char* format_name = "longhaul-checkpoint";

std::string hex(std::uint64_t value) {
  return fmt::format("{:016x}", value);
}

std::uint64_t from_hex(const std::string& text) {
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    fail("'{}' is not a checksum of 16 hexadecimal digits", text);
  return std::stoull(text, nullptr, 16);
}

// Whole numbers only: get<int64_t> would quietly take 1.5, true, or a number past 64 bits.
std::int64_t whole(const json& value) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX))
    fail("{} is not a whole number of 63 bits", value.dump());
  return value.get<std::int64_t>();
}

json to_json(const ManifestFile& file) {
  json entries = json::array();
  for (const auto& entry : file.entries) {
    json ranges = json::array();
    for (const auto& range : entry.ranges) ranges.push_back({range.begin, range.end});
    json hashes = json::array();
    for (const auto hash : entry.hashes) hashes.push_back(hex(hash));
    entries.push_back({{"name", entry.name},
                       {"dtype", name_of(entry.tensor.dtype)},
                       {"shape", entry.tensor.shape},
                       {"ranges", std::move(ranges)},
                       {"offset", entry.offset},
                       {"xxh3", std::move(hashes)}});
  }
  return {{"file", file.name}, {"bytes", file.bytes}, {"entries", std::move(entries)}};
}

ManifestEntry entry_from_json(const json& value) {
  ManifestEntry entry;
  entry.name = value.at("name").get<std::string>();
  const auto dtype = value.at("dtype").get<std::string>();
  const auto parsed = parse_dtype(dtype);
  if (!parsed) fail("tensor '{}' has the unknown dtype '{}'", entry.name, dtype);
  entry.tensor.dtype = *parsed;
  for (const auto& size : value.at("shape")) entry.tensor.shape.push_back(whole(size));
  const std::int64_t count = element_count(entry.tensor.shape);
  std::int64_t previous = 0;
  for (const auto& range : value.at("ranges")) {
    const ElementRange next{whole(range.at(0)), whole(range.at(1))};
    if (next.begin < previous || next.end <= next.begin || next.end > count)
      fail("range [{}, {}) of tensor '{}' of {} elements is empty, out of order or out of bounds", next.begin, next.end,
           entry.name, count);
    previous = next.end;
    entry.ranges.push_back(next);
  }
  entry.offset = whole(value.at("offset"));
  for (const auto& hash : value.at("xxh3")) entry.hashes.push_back(from_hex(hash.get<std::string>()));
  return entry;
}

ManifestFile file_from_json(const json& value) {
  ManifestFile file;
  file.name = value.at("file").get<std::string>();
  if (file.name.empty() || file.name.find('/') != std::string::npos)
    fail("'{}' is not the name of a file in the checkpoint's own folder", file.name);
  file.bytes = whole(value.at("bytes"));
  for (const auto& entry : value.at("entries")) {
    file.entries.push_back(entry_from_json(entry));
    const auto& last = file.entries.back();
    if (last.offset < 0 || last.offset > file.bytes || last.bytes() > file.bytes - last.offset)
      fail("tensor '{}' lies outside {} ({} bytes)", last.name, file.name, file.bytes);
  }
  return file;
}

}  // namespace

std::int64_t ManifestEntry::bytes() const {
  std::int64_t count = 0;
  for (const auto& range : ranges) count += range.end - range.begin;
  std::int64_t result = 0;
  if (__builtin_mul_overflow(count, static_cast<std::int64_t>(size_of(tensor.dtype)), &result))
    fail("tensor '{}' has more bytes than 64 bits count", name);
  return result;
}

std::map<std::string, CheckpointTensor, std::less<>> Manifest::check() const {
  std::map<std::string, CheckpointTensor, std::less<>> tensors;
  std::map<std::string, RangeSet, std::less<>> seen;
  for (const auto& file : files) {
    for (const auto& entry : file.entries) {
      const auto [known, added] = tensors.emplace(entry.name, entry.tensor);
      if (!added && (known->second.dtype != entry.tensor.dtype || known->second.shape != entry.tensor.shape))
        fail("tensor '{}' is {} [{}] in {} but {} [{}] before", entry.name, name_of(entry.tensor.dtype),
             fmt::join(entry.tensor.shape, ", "), file.name, name_of(known->second.dtype),
             fmt::join(known->second.shape, ", "));
      auto& covered = seen[entry.name];
      for (const auto& range : entry.ranges) {
        if (covered.overlaps(range.begin, range.end))
          fail("elements [{}, {}) of tensor '{}' are in {} and in another file or range too", range.begin, range.end,
               entry.name, file.name);
        covered.add(range.begin, range.end);
      }
    }
  }
  for (const auto& [name, tensor] : tensors) {
    const std::int64_t count = element_count(tensor.shape);
    if (!seen[name].covers(0, count))
      fail("tensor '{}' has {} elements, but no rank wrote element {}", name, count, seen[name].first_missing(0));
  }
  return tensors;
}

std::string write_fragment(const ManifestFile& file) {
  try {
    return to_json(file).dump();
  } catch (const json::exception& error) {
    fail("cannot describe {}: a tensor name is not UTF-8: {}", file.name, error.what());
  }
}

ManifestFile read_fragment(const std::string& text, const std::string& source) {
  try {
    return file_from_json(json::parse(text));
  } catch (const json::exception& error) {
    fail("{}: {}", source, error.what());
  } catch (const Error& error) {
    fail("{}: {}", source, error.what());
  }
}

std::string write_manifest(const Manifest& manifest) {
  json files = json::array();
  for (const auto& file : manifest.files) files.push_back(to_json(file));
  json value = {{"format", format_name},          {"version", format_version},           {"step", manifest.step},
                {"world", manifest.files.size()}, {"chunk_bytes", manifest.chunk_bytes}, {"files", std::move(files)},
                {"state", manifest.state}};
  try {
    // The checksum covers the canonical text (keys sorted, no spaces) without itself.
    value["xxh3"] = manifest_checksum(value.dump());
    return value.dump(1) + "\n";
  } catch (const json::exception& error) {
    fail("cannot write the manifest: the trainer's state is not UTF-8: {}", error.what());
  }
}

Manifest read_manifest(const std::string& text, const std::string& source) {
  json value = parse_json(text, source);  // within limits of depth, which dump() needs
  try {
    if (value.value("format", "") != format_name) fail("it is not a longhaul checkpoint");
    // Before the checksum, whose rule a newer version may have changed: to pass over a newer checkpoint would lose more
    // than to refuse one whose version number was damaged.
    const auto version = whole(value.at("version"));
    if (version > format_version)
      throw NewerFormat(
          fmt::format("it has format version {}, but this program reads version {}: a newer longhaul wrote "
                      "it; resume with that one, or move the folder away to go on from an older checkpoint",
                      version, format_version));
    if (version != format_version)
      fail("it has format version {}; this program reads version {}", version, format_version);
    const auto stated = value.at("xxh3").get<std::string>();
    value.erase("xxh3");
    if (manifest_checksum(value.dump()) != stated) fail("its checksum does not match: it is corrupted");
    Manifest manifest;
    manifest.step = whole(value.at("step"));
    manifest.chunk_bytes = whole(value.at("chunk_bytes"));
    if (manifest.chunk_bytes < 1 || manifest.chunk_bytes > largest_chunk_bytes)
      fail("chunk_bytes is {}", manifest.chunk_bytes);
    for (const auto& file : value.at("files")) manifest.files.push_back(file_from_json(file));
    if (whole(value.at("world")) != static_cast<std::int64_t>(manifest.files.size()))
      fail("it names {} files for {} ranks", manifest.files.size(), whole(value.at("world")));
    for (const auto& file : manifest.files)
      for (const auto& entry : file.entries)
        if ((entry.bytes() + manifest.chunk_bytes - 1) / manifest.chunk_bytes !=
            static_cast<std::int64_t>(entry.hashes.size()))
          fail("tensor '{}' in {} has {} checksums", entry.name, file.name, entry.hashes.size());
    manifest.state = value.at("state").get<std::string>();
    return manifest;
  } catch (const NewerFormat& error) {
    throw NewerFormat(fmt::format("{}: {}", source, error.what()));
  } catch (const json::exception& error) {
    fail("{}: {}", source, error.what());
  } catch (const Error& error) {
    fail("{}: {}", source, error.what());
  }
}

std::string manifest_checksum(const std::string& canonical) {
  return hex(XXH3_64bits(canonical.data(), canonical.size()));
}

std::string checkpoint_folder_name(std::int64_t step) {
  return fmt::format("step-{:08}", step);
}

std::string shard_file_name(int rank) {
  return fmt::format("rank-{:05}.bin", rank);
}

}  // namespace longhaul
