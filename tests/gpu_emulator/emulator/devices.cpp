// The devices of a process, and how they wait for each other: a device that cannot go on before another has signalled
// lets its thread sleep, holding nothing that others need.
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>

#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::emulator {
namespace {

std::mutex devices_lock;
std::array<std::unique_ptr<Device>, kDevices> devices;
std::atomic<int> in_use = 0;
thread_local constinit Device* selected = nullptr;

void leave() {
  if (selected && --selected->threads == 0) in_use--;
  selected = nullptr;
}
// A device that no thread has selected any more waits for nothing and signals nobody.
struct LeaveAtExit {
  ~LeaveAtExit() {
    const std::lock_guard guard(devices_lock);
    leave();
  }
};

std::mutex signals_lock;
std::condition_variable signalled;
long signals = 0;    // flags set so far
long deadlocks = 0;  // seen so far: whoever waits meanwhile gives up too
int idle = 0;        // devices that have looked since the last signal and found nothing

}  // namespace

void select_device(int index) {
  const std::lock_guard guard(devices_lock);
  auto& slot = devices.at(static_cast<std::size_t>(index));
  if (!slot) slot = std::make_unique<Device>();
  static thread_local LeaveAtExit at_exit;
  leave();
  selected = slot.get();
  if (++selected->threads == 1) in_use++;
}
Device& device() {
  if (!selected) select_device(0);
  return *selected;
}

void signal_flag(std::uint32_t* flag, std::uint32_t value) {
  __atomic_store_n(flag, value, __ATOMIC_RELEASE);
  if (in_use < 2) return;
  const std::lock_guard guard(signals_lock);
  signals++, idle = 0;
  signalled.notify_all();
}

bool wait_for_devices(const std::function<bool()>& ready) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(options.patience_ms);
  std::unique_lock guard(signals_lock);
  const long deadlocks_before = deadlocks;
  long seen = -1;
  for (;;) {
    if (ready()) {
      if (seen == signals) idle--;
      return true;
    }
    if (seen != signals) seen = signals, idle++;
    if (idle >= in_use) {  // all wait, and nobody has signalled since each of them looked
      deadlocks++, idle = 0, signals++;
      signalled.notify_all();
    }
    if (deadlocks != deadlocks_before) return false;
    if (signalled.wait_until(guard, deadline) == std::cv_status::timeout) {
      if (seen == signals) idle--;
      return ready();
    }
  }
}

}  // namespace longhaul::emulator
