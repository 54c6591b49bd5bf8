#include "runtime/device/side_stream.h"

namespace longhaul {

StreamEvent::StreamEvent(DeviceContext& context) : context_(context) {
  context.succeed(context.api().event_create(&event_));
}

StreamEvent::~StreamEvent() {
  if (context_.api().device_select(context_.device().number()) == 0) context_.api().event_destroy(event_);
}

void StreamEvent::record() {
  context_.succeed(context_.api().event_record(event_, context_.stream()));
}

void StreamEvent::wait() {
  context_.succeed(context_.api().stream_wait(context_.stream(), event_));
}

SideStream::SideStream(DeviceContext& context) : context_(context), ready_(context) {
  context.succeed(context.api().urgent_stream_create(&stream_));
}

SideStream::~SideStream() {
  if (context_.api().device_select(context_.device().number()) == 0) context_.api().stream_destroy(stream_);
}

void SideStream::synchronize() const {
  context_.succeed(context_.api().stream_synchronize(stream_));
}

}  // namespace longhaul
