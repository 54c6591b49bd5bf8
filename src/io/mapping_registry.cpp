#include "io/mapping_registry.h"

#include <unistd.h>
#include <csignal>
#include <cstring>

#include "io/file.h"

namespace longhaul {
namespace {

std::atomic<MappingEntry*> newest{nullptr};

// Only what is allowed in a signal handler: no allocation, no formatting library.
class Line {
 public:
  void add(const char* text) {
    while (*text && length_ < sizeof text_) text_[length_++] = *text++;
  }
  void add(std::int64_t number) {
    char digits[24];
    std::size_t count = 0;
    do digits[count++] = static_cast<char>('0' + number % 10);
    while ((number /= 10) > 0);
    while (count > 0 && length_ < sizeof text_) text_[length_++] = digits[--count];
  }
  void write() const {
    for (std::size_t done = 0; done < length_;) {
      const ssize_t written = ::write(STDERR_FILENO, text_ + done, length_ - done);
      if (written <= 0) return;
      done += static_cast<std::size_t>(written);
    }
  }

 private:
  char text_[PATH_MAX + 512];
  std::size_t length_ = 0;
};

void on_bus_error(int, siginfo_t* information, void*) {
  const auto* entry = MappingRegistry::find(information->si_addr);
  if (!entry) {
    // Not ours to explain: with the default action the instruction is tried again and ends the process.
    std::signal(SIGBUS, SIG_DFL);
    return;
  }
  Line line;
  line.add("longhaul: cannot read ");
  line.add(entry->path);
  line.add(" at byte ");
  line.add(static_cast<const std::byte*>(information->si_addr) - entry->begin.load());
  line.add(": the file was shortened while the run was reading it, or its disk or network failed (SIGBUS)\n");
  line.write();
  ::_exit(1);
}

}  // namespace

MappingEntry* MappingRegistry::add(const std::byte* begin, std::int64_t size, const std::string& path) {
  MappingEntry* entry = newest.load();
  for (; entry; entry = entry->next) {
    bool expected = false;
    if (!entry->used.load() && entry->used.compare_exchange_strong(expected, true)) break;
  }
  if (!entry) {
    entry = new MappingEntry;
    entry->used = true;
    entry->next = newest.load();
    while (!newest.compare_exchange_weak(entry->next, entry)) {
    }
  }
  std::strncpy(entry->path, path.c_str(), sizeof entry->path - 1);
  entry->begin = begin;
  entry->size = size;
  return entry;
}

void MappingRegistry::remove(MappingEntry* entry) noexcept {
  entry->size = 0;
  entry->used = false;
}

const MappingEntry* MappingRegistry::find(const void* address) noexcept {
  for (const MappingEntry* entry = newest.load(); entry; entry = entry->next) {
    const std::byte* begin = entry->begin.load();
    if (entry->used.load() && address >= begin && address < begin + entry->size.load()) return entry;
  }
  return nullptr;
}

void report_unreadable_mappings() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace longhaul
