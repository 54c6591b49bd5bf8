// export_model: parameter by parameter, piece by piece, to rank 0.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "model/huggingface.h"
#include "run/weights.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

// Both files are finished here, inside the target folder (so that they can be renamed), before one is moved.
constexpr const char* temporary_name = ".export.partial";

constexpr const char* exported_names[] = {"config.json", "model.safetensors"};

// Where the metadata of model.safetensors keeps the step.
constexpr const char* step_key = "longhaul_step";

// Elements of a piece: 4 MiB of float64 at most.
constexpr std::int64_t piece_elements = 1 << 19;

void convert(const char* from, DType from_type, std::int64_t count, char* to, DType to_type) {
  dispatch_floating(from_type, [&](auto from_zero) {
    dispatch_floating(to_type, [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      for (std::int64_t i = 0; i < count; ++i) {
        From value;
        std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(From), sizeof(From));
        const To converted = static_cast<To>(static_cast<accumulate_t<To>>(static_cast<accumulate_t<From>>(value)));
        std::memcpy(to + static_cast<std::size_t>(i) * sizeof(To), &converted, sizeof(To));
      }
    });
  });
}

// Who holds which elements of a parameter, in order, each element once.
struct Segment {
  std::int64_t begin = 0, end = 0;
  int rank = 0;
};

std::vector<Segment> segments_of(const std::vector<std::int64_t>& ranges, std::int64_t count, const std::string& name) {
  std::vector<Segment> segments;
  for (std::int64_t at = 0; at < count;) {
    Segment next;
    for (std::size_t rank = 0; rank * 2 < ranges.size(); ++rank) {
      const std::int64_t begin = ranges[rank * 2], end = ranges[rank * 2 + 1];
      if (begin > at || end <= at) continue;
      next = {at, end, static_cast<int>(rank)};  // the lowest rank that holds it: rank 0 sends itself nothing
      break;
    }
    LONGHAUL_CHECK(next.end > at, "no rank holds element {} of {}", at, name);
    segments.push_back(next);
    at = next.end;
  }
  return segments;
}

class Exporter {
 public:
  Exporter(Session& session, const TransformerSpec& spec, fs::path folder, const ExportOptions& options)
      : session_(session), world_(session.world()), spec_(spec), folder_(std::move(folder)), options_(options) {
    for (const Parameter& parameter : parameters(spec)) {
      const StateTensor& tensor = session.state(parameter.name);
      LONGHAUL_CHECK(tensor.shape == parameter.shape && tensor.key.role == Role::parameter,
                     "the session's {} is not the spec's", parameter.name);
      tensors_.push_back(&tensor);
    }
    stored_ = options.dtype.value_or(tensors_.front()->dtype);
  }

  ExportedModel run() {
    try {
      write();
    } catch (...) {
      if (world_.rank() == 0) clean_up();
      throw;
    }
    if (world_.rank() == 0) clean_up();
    log_info("exported the model to {} as {} ({}, {:.3f} MB)", folder_.string(), config_.family, name_of(stored_),
             static_cast<double>(bytes_) * 1e-6);
    if (config_.family == own_family && !config_.why_not.empty())
      log_warn("{}: this is our own format: no Hugging Face family can express the model ({})", folder_.string(),
               config_.why_not);
    return {config_.family, bytes_};
  }

 private:
  void write() {
    phase(world_, [&] { prepare(); });
    gather_ranges();
    for (std::size_t i = 0; i < tensors_.size(); ++i) agree(world_, export_parameter(i));
    phase(world_, [&] {
      if (world_.rank() == 0) finish();
    });
  }

  // Every rank finds the same family and mappings; rank 0 makes the files, at their full size, so that a full disk is
  // noticed before anything is sent.
  void prepare() {
    if (!is_floating(stored_))
      fail("a model cannot be exported as {}; use float32, float64 or bfloat16", name_of(stored_));
    config_ = export_config(spec_, options_.family, stored_, options_.source_config);
    mappings_ = weight_mappings(spec_, config_.family);
    std::vector<SafetensorsDeclaration> declarations;
    for (const WeightMapping& mapping : mappings_) {
      const bool known = std::any_of(declarations.begin(), declarations.end(),
                                     [&](const auto& one) { return one.name == mapping.tensor; });
      if (!known)
        declarations.push_back({mapping.tensor, std::string(safetensors_name(stored_)), mapping.tensor_shape});
    }
    if (world_.rank() != 0) return;
    const fs::path temporary = folder_ / temporary_name;
    made_folder_ = make_folders(folder_.string());
    for (const char* name : exported_names)
      if (fs::exists(folder_ / name) && !fs::is_regular_file(folder_ / name))
        fail("{} is not a regular file: an export cannot replace it", (folder_ / name).string());
    fs::remove_all(temporary);  // of a run that was killed
    fs::create_directory(temporary);
    std::map<std::string, std::string> metadata = {{"format", "pt"}};
    if (options_.step >= 0) metadata[step_key] = std::to_string(options_.step);
    writer_ = std::make_unique<SafetensorsWriter>((temporary / "model.safetensors").string(), declarations, metadata);
    write_text_atomically((temporary / "config.json").string(), config_.text);
    bytes_ = writer_->file_bytes();
  }

  void gather_ranges() {
    const auto size = static_cast<std::size_t>(world_.size());
    std::vector<std::int64_t> mine;
    for (const StateTensor* tensor : tensors_) {
      mine.push_back(tensor->begin);
      mine.push_back(tensor->end);
    }
    const std::vector<std::int64_t> all = all_gather(world_, mine);
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      std::vector<std::int64_t> ranges;
      for (std::size_t rank = 0; rank < size; ++rank)
        for (std::size_t side : {0u, 1u}) ranges.push_back(all[rank * mine.size() + i * 2 + side]);
      segments_.push_back(segments_of(ranges, element_count(tensors_[i]->shape), tensors_[i]->name));
    }
  }

  // After a failure a rank still takes part in this parameter's exchanges: the others do not know of it yet.
  std::string export_parameter(std::size_t i) {
    const StateTensor& tensor = *tensors_[i];
    const WeightMapping& mapping = mappings_[i];
    const std::size_t size = size_of(tensor.dtype), stored_size = size_of(stored_);
    std::string failure = failure_of([&] {
      if (world_.rank() != 0) return;
      received_.resize(static_cast<std::size_t>(piece_elements) * size);
      converted_.resize(static_cast<std::size_t>(piece_elements) * stored_size);
      if (mapping.transposed) transposed_.resize(static_cast<std::size_t>(mapping.elements()) * stored_size);
    });
    // Without room to receive, rank 0 cannot take part: that has to be known first.
    agree(world_, failure);
    for (const Segment& segment : segments_[i])
      for (std::int64_t begin = segment.begin; begin < segment.end; begin += piece_elements) {
        const std::int64_t end = std::min(segment.end, begin + piece_elements);
        const char* data = fetch(tensor, segment.rank, begin, end);
        if (world_.rank() != 0 || !failure.empty()) continue;
        failure = failure_of([&] {
          convert(data, tensor.dtype, end - begin, converted_.data(), stored_);
          if (mapping.transposed)
            transpose(mapping, begin, end);
          else
            write_runs(mapping, begin, end);
        });
      }
    if (world_.rank() == 0 && failure.empty() && mapping.transposed)
      failure = failure_of([&] { write_transposed(mapping); });
    return failure;
  }

  // The piece's elements on rank 0; null on others.
  const char* fetch(const StateTensor& tensor, int owner, std::int64_t begin, std::int64_t end) {
    const std::size_t bytes = static_cast<std::size_t>(end - begin) * size_of(tensor.dtype);
    const int rank = world_.rank();
    const char* here = nullptr;
    if (rank == owner) here = reinterpret_cast<const char*>(session_.elements(tensor, begin, end, own_).data());
    if (owner == 0) return here;
    // Rank 0 and the owner are each other's partner, everybody else their own.
    const int partner = rank == 0 ? owner : rank == owner ? 0 : rank;
    char nothing = 0;
    world_.send_receive(here ? here : &nothing, here ? bytes : 0, partner, rank == 0 ? received_.data() : &nothing,
                        rank == 0 ? bytes : 0, partner);
    return rank == 0 ? received_.data() : nullptr;
  }

  // Elements [begin, end) of a parameter that is not transposed, from converted_.
  void write_runs(const WeightMapping& mapping, std::int64_t begin, std::int64_t end) {
    const auto size = static_cast<std::int64_t>(size_of(stored_));
    const char* from = converted_.data();
    while (begin < end) {
      const std::int64_t run = std::min(end - begin, mapping.run(begin));
      writer_->write(mapping.tensor, mapping.tensor_offset(begin) * size, from, run * size);
      from += run * size;
      begin += run;
    }
  }

  // Our rows are the file's columns: [out, in] to [in, out].
  void transpose(const WeightMapping& mapping, std::int64_t begin, std::int64_t end) {
    const std::size_t size = size_of(stored_);
    const std::int64_t inputs = mapping.tensor_shape[0], outputs = mapping.elements() / inputs;
    for (std::int64_t i = begin; i < end; ++i)
      std::memcpy(transposed_.data() + static_cast<std::size_t>(i % inputs * outputs + i / inputs) * size,
                  converted_.data() + static_cast<std::size_t>(i - begin) * size, size);
  }

  void write_transposed(const WeightMapping& mapping) {
    const auto size = static_cast<std::int64_t>(size_of(stored_));
    const std::int64_t inputs = mapping.tensor_shape[0], outputs = mapping.elements() / inputs;
    if (outputs == mapping.tensor_shape[1])
      return writer_->write(mapping.tensor, 0, transposed_.data(), inputs * outputs * size);
    for (std::int64_t in = 0; in < inputs; ++in)  // its part of each row of a fused tensor
      writer_->write(mapping.tensor, (in * mapping.tensor_shape[1] + mapping.begin) * size,
                     transposed_.data() + in * outputs * size, outputs * size);
  }

  void finish() {
    writer_->finish();
    const fs::path temporary = folder_ / temporary_name;
    for (const char* name : exported_names) fs::rename(temporary / name, folder_ / name);
    flush_folder(folder_.string());
  }

  void clean_up() noexcept {
    writer_.reset();
    std::error_code ignored;
    fs::remove_all(folder_ / temporary_name, ignored);
    if (made_folder_) fs::remove(folder_, ignored);  // only when it is empty: nothing was exported
  }

  Session& session_;
  Communicator& world_;
  const TransformerSpec& spec_;
  const fs::path folder_;
  const ExportOptions& options_;
  std::vector<const StateTensor*> tensors_;
  std::vector<std::vector<Segment>> segments_;
  DType stored_ = DType::float32;
  ExportedConfig config_;
  std::vector<WeightMapping> mappings_;
  std::unique_ptr<SafetensorsWriter> writer_;  // of rank 0
  std::int64_t bytes_ = 0;
  bool made_folder_ = false;
  std::vector<std::byte> own_;
  std::vector<char> received_, converted_, transposed_;
};

}  // namespace

ExportedModel export_model(Session& session, const TransformerSpec& spec, const fs::path& folder,
                           const ExportOptions& options) {
  return Exporter(session, spec, folder, options).run();
}

std::int64_t exported_step(const fs::path& folder) {
  const fs::path file = folder / exported_names[1];
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return -1;
  try {
    const SafetensorsReader reader(file.string());
    const auto stated = reader.metadata().find(step_key);
    return stated == reader.metadata().end() ? -1 : std::stoll(stated->second);
  } catch (const std::exception& error) {
    log_warn("{} is not a whole export: {}", folder.string(), error.what());
    return -1;
  }
}

}  // namespace longhaul
