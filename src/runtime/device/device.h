// A device behind the table of functions of kernels/cuda/api.h: a GPU, or the emulator, which runs the same kernels on
// the host. Failed calls become Error in the device's words.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "base/dtype.h"
#include "kernels/cuda/api.h"
#include "kernels/cuda/loader.h"

namespace longhaul {

/// Looks on while a device is waited for.
class DeviceWatch {
 public:
  virtual ~DeviceWatch() = default;
  /// Returns when `done` does so; throws when it will not come.
  virtual void wait(const std::function<bool()>& done) = 0;
};

/// One rank's, used by that rank's thread. Plans can be made without a device; memory and work need one (select).
class Device {
 public:
  /// Opens the library. Throws Error with the reason and what to do when it cannot be opened.
  explicit Device(cuda::Backend backend);
  /// The same on a given table, which must outlive it: of a library that has less (tests).
  Device(cuda::Backend backend, const cuda::Api& api);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const cuda::Api& api() const { return api_; }
  bool is_emulated() const { return backend_ == cuda::Backend::emulator; }
  /// "cuda", "emulator"
  const char* kind() const { return api_.name; }
  /// What kernels are chosen for: the first device's properties, or where there is none those of sm_90.
  const cuda::DeviceInfo& info() const { return info_; }
  /// Which one it is, the same in every process, when this process sees a single device; else "".
  std::string only_device() const;
  bool has_hopper_kernels() const { return info_.capability_major == 9 && info_.capability_minor == 0; }

  /// Takes the device of this number, once; throws Error when there is no such device, or it is another model than the
  /// first. Later calls with any number keep the first one.
  void select(int number);
  /// Makes the selected device this thread's; everything below does so.
  void enter() const;
  int number() const { return number_; }

  /// In whose order work is done: the one that computes, or another that was entered.
  cuda::Stream stream() const { return entered_ ? entered_ : stream_; }
  /// From now on work goes to `stream`; null: to the one that computes.
  void enter_stream(cuda::Stream stream) { entered_ = stream; }
  /// Until all that the stream was given is done.
  void synchronize() const;
  /// From now on such waits are the watch's; null: the library's, which end with what is queued and nothing else.
  void set_watch(DeviceWatch* watch) { watch_ = watch; }
  /// Throws Error with the device's words when a call failed.
  void succeed(int status) const;

  std::int64_t free_bytes() const;

 private:
  const cuda::Backend backend_;
  const cuda::Api& api_;
  cuda::DeviceInfo info_{};
  int number_ = -1;
  cuda::Stream stream_ = nullptr, entered_ = nullptr;
  DeviceWatch* watch_ = nullptr;
};

/// Device or pinned host memory, asked for once.
class DeviceMemory {
 public:
  enum class Place : std::uint8_t { device, host };
  DeviceMemory(const Device& device, Place place, std::size_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  const Device& device_;
  Place place_;
  std::size_t bytes_;
  char* data_ = nullptr;
};

}  // namespace longhaul
