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
#include "data/format.h"
#include "io/file.h"
#include "io/uninterrupted.h"

namespace longhaul {
namespace {

constexpr std::size_t buffer_bytes = std::size_t{1} << 22;

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

const FormatWriter& traits_of(const std::string& name) {
  const std::vector<std::string> all = written_formats();
  if (std::find(all.begin(), all.end(), name) == all.end())
    fail("the format {} is none of {}", name, fmt::join(all, ", "));
  return *find_format(name).writer;
}

}  // namespace

std::vector<std::string> TokenWriter::formats() {
  return written_formats();
}

std::string TokenWriter::output_file(const std::string& format, const std::string& prefix) {
  return prefix + traits_of(format).ending;
}

TokenWriter::TokenWriter(std::string format, std::string prefix, std::int64_t vocabulary, std::string tokenizer,
                         TokenCounts from)
    : format_(std::move(format)),
      prefix_(std::move(prefix)),
      tokenizer_(std::move(tokenizer)),
      traits_(traits_of(format_)),
      width_(vocabulary <= traits_.narrow_vocabulary ? 2 : 4),
      counts_(from) {
  open(tokens_, prefix_ + ".tokens.partial", counts_.tokens * width_ + traits_.header_bytes);
  open(ends_, prefix_ + ".ends.partial", counts_.documents * 8);
  if (traits_.loss_mask) open(loss_, prefix_ + ".loss.partial", counts_.tokens);
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
  if (prompt > 0 && !traits_.loss_mask)
    fail(
        "a document has tokens that are no labels (a prompt, or what is not the assistant's), and the format {} has no "
        "place to say so; use {}",
        format_, fmt::join(written_formats(true), " or "));
  counts_.documents += 1;
  counts_.tokens += static_cast<std::int64_t>(tokens.size());
  counts_.prompt_tokens += prompt;
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (counts_.tokens > traits_.most_tokens)
    fail("a file of {} counts at most {} tokens; tokenize fewer files at a time, or use another format", format_,
         traits_.most_tokens);
  if (static_cast<std::int64_t>(tokens.size()) > most)
    fail("a document has {} tokens; at most {} can be", tokens.size(), most);
  for (const std::int32_t token : tokens) {
    if (width_ == 2)
      append(tokens_.buffer, static_cast<std::uint16_t>(token));
    else
      append(tokens_.buffer, token);
  }
  append(ends_.buffer, static_cast<std::uint64_t>(counts_.tokens));
  if (traits_.loss_mask) {
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

void TokenWriter::finish() {
  if (counts_.tokens == 0) fail("there is nothing to write: the files hold no text");
  flush();
  const WrittenTokens written{.output = output_file(format_, prefix_),
                              .prefix = prefix_,
                              .ends_file = ends_.path,
                              .loss_file = loss_.path,
                              .tokenizer = tokenizer_,
                              .width = width_,
                              .documents = counts_.documents,
                              .tokens = counts_.tokens,
                              .no_labels = counts_.prompt_tokens,
                              .write_header = [this](const std::string& bytes) {
                                LONGHAUL_CHECK(static_cast<std::int64_t>(bytes.size()) == traits_.header_bytes,
                                               "a header of {} bytes", bytes.size());
                                write_fully(tokens_.descriptor, tokens_.path, 0, bytes.data(), traits_.header_bytes);
                              }};
  if (traits_.finish) traits_.finish(written);
  if (::fsync(tokens_.descriptor) != 0) fail_system("flush", tokens_.path, -1, errno);
  for (const std::string& rest : {ends_.path, loss_.path})
    if (!rest.empty()) std::filesystem::remove(rest);
  if (std::rename(tokens_.path.c_str(), written.output.c_str()) != 0)
    fail_system("rename to " + written.output, tokens_.path, -1, errno);
}

}  // namespace longhaul
