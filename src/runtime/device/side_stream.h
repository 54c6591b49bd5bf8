// A stream beside the one that computes: for what ops start here and wait for later (Half in ir/op_definition.h).
#pragma once
#include "runtime/device/kernel.h"

namespace longhaul {

/// Marks a place in a stream.
class StreamEvent {
 public:
  /// Throws Error when the device gives none.
  explicit StreamEvent(DeviceContext& context);
  ~StreamEvent();
  StreamEvent(const StreamEvent&) = delete;
  /// The place that the context's stream has come to.
  void record();
  /// The context's stream goes on when the place that was last marked has been reached.
  void wait();

 private:
  DeviceContext& context_;
  void* event_ = nullptr;
};

/// Its work goes before that of the computing stream where both could run.
class SideStream {
 public:
  explicit SideStream(DeviceContext& context);
  ~SideStream();
  SideStream(const SideStream&) = delete;
  /// Calls `work`, whose calls with the context's stream go to this one, behind all that the computing stream has been
  /// given until now; `done` marks where it ends.
  template <typename Work>
  void run(StreamEvent& done, Work&& work) {
    ready_.record();
    const Entered here(context_, stream_);
    ready_.wait();
    work();
    done.record();
  }
  /// Until all that it was given is done.
  void synchronize() const;

 private:
  struct Entered {
    Entered(DeviceContext& context, cuda::Stream stream) : device(context.device()) { device.enter_stream(stream); }
    ~Entered() { device.enter_stream(nullptr); }
    Entered(const Entered&) = delete;
    Device& device;
  };
  DeviceContext& context_;
  StreamEvent ready_;
  cuda::Stream stream_ = nullptr;
};

}  // namespace longhaul
