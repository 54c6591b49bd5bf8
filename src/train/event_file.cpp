#include "train/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "io/file.h"

namespace longhaul {
namespace {

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ 0x82F63B78u : value >> 1;
    table[i] = value;
  }
  return table;
}

// A checksum of bytes that hold checksums is weak: so it is turned and shifted.
std::uint32_t masked(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return std::rotr(crc, 15) + 0xA282EAD8u;
}

template <typename T>
std::string little_endian(T value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof(T); ++i) bytes += static_cast<char>(value >> (8 * i) & 0xFF);
  return bytes;
}

// ---- protocol buffers: a key of field number and wire type, then the value

enum Wire : std::uint64_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

std::string varint_of(std::uint64_t value) {
  std::string text;
  for (; value >= 0x80; value >>= 7) text += static_cast<char>((value & 0x7F) | 0x80);
  return text + static_cast<char>(value);
}
std::string key_of(std::uint64_t field, Wire wire) {
  return varint_of(field << 3 | wire);
}
std::string message(std::uint64_t field, std::string_view contents) {
  return key_of(field, Wire::bytes) + varint_of(contents.size()) + std::string(contents);
}

// Fields of Event, Summary, Summary.Value and SessionLog.
constexpr std::uint64_t event_time = 1, event_step = 2, event_version = 3, event_summary = 5, event_session = 7;
constexpr std::uint64_t summary_value = 1, value_tag = 1, value_number = 2, session_status = 1, session_start = 1;

std::string event(double time, std::int64_t step) {
  std::string text = key_of(event_time, Wire::fixed64) + little_endian(std::bit_cast<std::uint64_t>(time));
  if (step != 0) text += key_of(event_step, Wire::varint) + varint_of(static_cast<std::uint64_t>(step));
  return text;
}

}  // namespace

std::uint32_t crc32c(std::string_view text) {
  static constexpr std::array<std::uint32_t, 256> table = make_table();
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char one : text) crc = crc >> 8 ^ table[(crc ^ static_cast<unsigned char>(one)) & 0xFF];
  return ~crc;
}

std::string event_record(std::string_view contents) {
  const std::string length = little_endian(static_cast<std::uint64_t>(contents.size()));
  return length + little_endian(masked(length)) + std::string(contents) + little_endian(masked(contents));
}

std::string version_event(double time) {
  return event(time, 0) + message(event_version, "brain.Event:2");
}

std::string start_event(double time, std::int64_t step) {
  return event(time, step) + message(event_session, key_of(session_status, Wire::varint) + varint_of(session_start));
}

std::string scalar_event(double time, std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars)
    summary += message(summary_value, message(value_tag, tag) + key_of(value_number, Wire::fixed32) +
                                          little_endian(std::bit_cast<std::uint32_t>(static_cast<float>(number))));
  return event(time, step) + message(event_summary, summary);
}

std::vector<std::pair<std::string, double>> event_scalars(const nlohmann::ordered_json& line) {
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [key, value] : line.items()) {
    if (key == "step" || key == "time") continue;
    std::string tag = key;
    if (const std::size_t dot = tag.find('.'); dot != std::string::npos) tag[dot] = '/';
    if (value.is_number()) scalars.emplace_back(tag, value.get<double>());
    if (value.is_array())  // [first, loss, labels]
      for (const auto& bucket : value)
        scalars.emplace_back(fmt::format("{}/{}", tag, bucket.at(0).get<std::int64_t>()), bucket.at(1).get<double>());
  }
  return scalars;
}

EventFile::EventFile(const std::filesystem::path& folder, std::int64_t resumed_step) {
  make_folders(folder.string());
  const double now = static_cast<double>(std::time(nullptr));
  // TensorBoard reads files in the order of their names, which begin with the time.
  for (int number = 0; descriptor_ < 0; ++number) {
    path_ =
        (folder / fmt::format("events.out.tfevents.{:010.0f}.{}.{}.{}", now, host_name(), ::getpid(), number)).string();
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST && errno != EINTR) fail_system("create", path_, -1, errno);
  }
  write(event_record(version_event(now)) + event_record(start_event(now, resumed_step + 1)));
}

EventFile::~EventFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void EventFile::add(const nlohmann::ordered_json& line) {
  write(event_record(scalar_event(line.value("time", 0.0), line.at("step").get<std::int64_t>(), event_scalars(line))));
}

void EventFile::write(const std::string& record) {
  waiting_ += record;
  try {
    write_fully(descriptor_, path_, size_, waiting_.data(), static_cast<std::int64_t>(waiting_.size()));
    size_ += static_cast<std::int64_t>(waiting_.size());
    waiting_.clear();
  } catch (const Error& error) {
    // Readers stop at half a record.
    if (::ftruncate(descriptor_, size_) != 0) log_debug("{} holds half a record (error {})", path_, errno);
    if (!complained_) log_warn("{}; its numbers wait in memory and are tried again at every step", error.what());
    complained_ = true;
  }
}

}  // namespace longhaul
