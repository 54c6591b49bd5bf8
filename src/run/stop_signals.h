// Signals that ask a run to stop: the step is finished, a checkpoint is written, and the program ends with a code that
// a script can tell (RunControl decides, on all ranks together).
#pragma once
#include <csignal>
#include <cstddef>
#include <string>
#include <vector>

namespace longhaul {

/// While it lives, TERM, INT, USR1 and HUP are only noted. A second TERM, INT or USR1, at least 0.1 s after the first
/// of its kind (launchers deliver one twice), has its default effect and ends the process at once; a closing terminal
/// sends HUP more often than once. PIPE is ignored: a reader of the log that goes away must not end the run. A HUP that
/// was ignored before stays so (nohup). Handlers run on a stack of their own: they come to the thread that makes this
/// object, the program's first, which may be in a library's product whose code uses its stack pointer for something
/// else. Signal handlers belong to the process: one object at a time, in one thread, before ranks start; a second one
/// throws std::logic_error. The destructor puts everything back.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  struct Former {
    int signal;
    struct sigaction action;
  };
  std::vector<Former> former_;
  std::vector<std::byte> stack_;
  stack_t former_stack_{};
};

/// The first of these signals that came since a StopSignals lives; 0: none. Any thread.
int stop_signal();

/// "SIGTERM"; "signal 5" for one that is none of them.
std::string signal_name(int signal);

}  // namespace longhaul
