// TensorBoard's event files: records of a length, a checksum, bytes and their checksum (TFRecord), the bytes being an
// Event of event.proto with scalars. Both formats are TensorFlow's; a few fields of them are all that is needed.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace longhaul {

/// CRC-32C (Castagnoli) of some bytes.
std::uint32_t crc32c(std::string_view bytes);

/// A TFRecord: the bytes with their length before them and masked checksums of both.
std::string event_record(std::string_view bytes);

/// Events, without what event_record puts around them. `time`: seconds since 1970.
std::string version_event(double time);
/// The first event of a process that goes on after `step`: TensorBoard forgets what it has of later steps.
std::string start_event(double time, std::int64_t step);
std::string scalar_event(double time, std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

/// The numbers of a line of metrics.jsonl by TensorBoard's tags: key "validation_loss.books" is validation_loss/books,
/// a bucket of validation_loss_by_position from 8 tokens of context on validation_loss_by_position/8. Step and time are
/// no numbers of a step.
std::vector<std::pair<std::string, double>> event_scalars(const nlohmann::ordered_json& line);

class EventFile {
 public:
  /// Makes a new file in `folder`, which is made when missing: every start of a run has its own, and TensorBoard reads
  /// them all. Throws SystemError.
  EventFile(const std::filesystem::path& folder, std::int64_t resumed_step);
  EventFile(const EventFile&) = delete;
  ~EventFile();
  /// Adds what a line of metrics.jsonl says. What the disk refuses waits, and is tried again with the next; that is
  /// said once, as a warning.
  void add(const nlohmann::ordered_json& line);

 private:
  void write(const std::string& record);
  std::string path_, waiting_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;  // of whole records
  bool complained_ = false;
};

}  // namespace longhaul
