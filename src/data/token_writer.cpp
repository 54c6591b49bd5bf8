#include "data/token_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "base/error.h"
#include "io/file.h"
#include "io/uninterrupted.h"

namespace longhaul {
namespace {

constexpr std::int64_t llmc_header = 1024;
constexpr std::size_t buffer_bytes = std::size_t{1} << 22;

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void rename_file(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail_system("rename to " + to, from, -1, errno);
}

}  // namespace

std::string TokenWriter::output_file(const std::string& format, const std::string& prefix) {
  return prefix + (format == "datatrove" ? ".ds" : ".bin");
}

TokenWriter::TokenWriter(std::string format, std::string prefix, std::int64_t vocabulary, std::string tokenizer,
                         TokenCounts from)
    : format_(std::move(format)), prefix_(std::move(prefix)), tokenizer_(std::move(tokenizer)), counts_(from) {
  if (format_ != "megatron" && format_ != "datatrove" && format_ != "llmc")
    fail("the format {} is none of megatron, datatrove, llmc", format_);
  // As the formats' own tools choose: Megatron's leaves some room above the vocabulary.
  width_ = vocabulary <= (format_ == "megatron" ? 65499 : 65536) ? 2 : 4;
  open(tokens_, prefix_ + ".tokens.partial", counts_.tokens * width_ + (format_ == "llmc" ? llmc_header : 0));
  open(ends_, prefix_ + ".ends.partial", counts_.documents * 8);
  if (format_ == "datatrove") open(loss_, prefix_ + ".loss.partial", counts_.tokens);
}

TokenWriter::~TokenWriter() {
  for (const Part* part : {&tokens_, &ends_, &loss_})
    if (part->descriptor >= 0) ::close(part->descriptor);
}

void TokenWriter::open(Part& part, const std::string& path, std::int64_t bytes) {
  part.path = path;
  part.descriptor = uninterrupted([&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666); });
  if (part.descriptor < 0) fail_system("create", path, -1, errno);
  struct stat status {};
  if (::fstat(part.descriptor, &status) != 0) fail_system("examine", path, -1, errno);
  if (counts_.tokens > 0 && status.st_size < bytes)
    fail("{} has {} bytes, but its progress file counts {}: remove both and begin again", path, status.st_size, bytes);
  if (::ftruncate(part.descriptor, bytes) != 0) fail_system("cut", path, bytes, errno);
  part.written = bytes;
}

void TokenWriter::write(Part& part) {
  if (part.descriptor < 0 || part.buffer.empty()) return;
  write_fully(part.descriptor, part.path, part.written, part.buffer.data(),
              static_cast<std::int64_t>(part.buffer.size()));
  part.written += static_cast<std::int64_t>(part.buffer.size());
  part.buffer.clear();
}

void TokenWriter::add(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> learned) {
  LONGHAUL_CHECK(learned.empty() || learned.size() == tokens.size(), "a mask of another length");
  const std::int64_t prompt = std::count(learned.begin(), learned.end(), 0);
  if (prompt > 0 && format_ != "datatrove")
    fail(
        "a document has tokens that are no labels (a prompt, or what is not the assistant's), and the format {} has no "
        "place to say so; use datatrove",
        format_);
  counts_.documents += 1;
  counts_.tokens += static_cast<std::int64_t>(tokens.size());
  counts_.prompt_tokens += prompt;
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (format_ == "llmc" && counts_.tokens > most)
    fail("an llm.c file counts at most {} tokens; tokenize fewer files at a time, or use another format", most);
  if (static_cast<std::int64_t>(tokens.size()) > most)
    fail("a document has {} tokens; at most {} can be", tokens.size(), most);
  for (const std::int32_t token : tokens) {
    if (width_ == 2)
      append(tokens_.buffer, static_cast<std::uint16_t>(token));
    else
      append(tokens_.buffer, token);
  }
  append(ends_.buffer, static_cast<std::uint64_t>(counts_.tokens));
  if (format_ == "datatrove") {
    if (learned.empty())
      loss_.buffer.append(tokens.size(), '\1');
    else
      loss_.buffer.append(reinterpret_cast<const char*>(learned.data()), learned.size());
  }
  for (Part* part : {&tokens_, &ends_, &loss_})
    if (part->buffer.size() >= buffer_bytes) write(*part);
}

void TokenWriter::flush() {
  for (Part* part : {&tokens_, &ends_, &loss_}) {
    write(*part);
    if (part->descriptor >= 0 && ::fsync(part->descriptor) != 0) fail_system("flush", part->path, -1, errno);
  }
}

void TokenWriter::write_megatron_index() {
  const MappedFile ends(ends_.path);
  const auto end_of = [&](std::int64_t document) {
    std::uint64_t end = 0;
    if (document >= 0) std::memcpy(&end, ends.data() + document * 8, 8);
    return static_cast<std::int64_t>(end);
  };
  AtomicFile file(prefix_ + ".idx");
  std::string bytes("MMIDIDX\0\0", 9);
  append(bytes, std::uint64_t{1});
  append(bytes, static_cast<std::uint8_t>(width_ == 2 ? 8 : 4));
  append(bytes, static_cast<std::uint64_t>(counts_.documents));
  append(bytes, static_cast<std::uint64_t>(counts_.documents + 1));
  std::int64_t offset = 0;
  const auto put = [&](bool force) {
    if (!force && bytes.size() < buffer_bytes) return;
    file.write_at(offset, bytes.data(), static_cast<std::int64_t>(bytes.size()));
    offset += static_cast<std::int64_t>(bytes.size());
    bytes.clear();
  };
  for (std::int64_t i = 0; i < counts_.documents; ++i, put(false))
    append(bytes, static_cast<std::int32_t>(end_of(i) - end_of(i - 1)));
  for (std::int64_t i = 0; i < counts_.documents; ++i, put(false)) append(bytes, end_of(i - 1) * width_);
  for (std::int64_t i = 0; i <= counts_.documents; ++i, put(false)) append(bytes, i);
  put(true);
  file.commit();
}

void TokenWriter::write_llmc_header() {
  std::vector<std::int32_t> header(256);
  header[0] = width_ == 2 ? 20240520 : 20240801;
  header[1] = width_ == 2 ? 1 : 7;
  header[2] = static_cast<std::int32_t>(counts_.tokens);
  write_fully(tokens_.descriptor, tokens_.path, 0, header.data(), llmc_header);
}

void TokenWriter::finish() {
  if (counts_.tokens == 0) fail("there is nothing to write: the files hold no text");
  flush();
  if (format_ == "llmc") write_llmc_header();
  if (format_ == "megatron") write_megatron_index();
  if (::fsync(tokens_.descriptor) != 0) fail_system("flush", tokens_.path, -1, errno);
  const std::string output = output_file(format_, prefix_);
  if (format_ == "datatrove") {
    rename_file(ends_.path, output + ".index");
    if (counts_.prompt_tokens > 0)
      rename_file(loss_.path, output + ".loss");
    else
      std::filesystem::remove(loss_.path);
    const double count = static_cast<double>(counts_.tokens);
    write_text_atomically(output + ".metadata", fmt::format("{}|{}\n{}\n{}", tokenizer_, width_, counts_.tokens,
                                                            count >= 1e9   ? fmt::format("{:.2f} GT", count / 1e9)
                                                            : count >= 1e6 ? fmt::format("{:.2f} MT", count / 1e6)
                                                                           : fmt::format("{:.2f} KT", count / 1e3)));
  } else {
    std::filesystem::remove(ends_.path);
  }
  rename_file(tokens_.path, output);
}

}  // namespace longhaul
