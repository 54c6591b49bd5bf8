// One run at a time in a run folder: a lock file that says who holds it, and that lets a dead holder's be taken over.
//
//   <folder>/lock    {"host": "n1", "process": 4711, "machine": ..., "process_start": ..., "since": ..., "job": ...,
//                     "token": ..., "beat": "0000000042"}
//
// Three things are tried, in this order, and each message says which of them decided:
//   1. flock, which the system releases when its holder dies. Where the file system has none, or keeps it to one host
//      (Lustre's localflock, some NFS mounts), it says nothing, and so its being free is not believed alone;
//   2. on the same machine (boot and process namespace), whether the holder's process lives: number and start time;
//   3. from elsewhere, whether the holder's beat goes on: it rewrites the file every 2 s. Silent for 30 s by the file
//      system's own clock, it counts as dead. A run that was only held up for so long finds another's name in its lock
//      at its next beat, and ends before it writes anything more (require).
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace longhaul {

class RunLock {
 public:
  struct Times {
    double beat = 2;      ///< seconds between the holder's signs of life
    double silence = 30;  ///< seconds without one after which a holder elsewhere counts as dead
    bool flock = true;    ///< false: as on a file system without it, for tests
  };

  /// Takes the lock of an existing folder. Throws Error naming its holder when there is one; waits up to Times::silence
  /// for that when the holder is on another machine.
  explicit RunLock(const std::string& folder) : RunLock(folder, Times()) {}
  RunLock(const std::string& folder, const Times& times);
  /// Gives it up: removes the file, unless it is another's by now.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// What a user should know: whose lock was taken over and why; empty: it was free.
  const std::string& taken_over() const { return taken_over_; }
  static constexpr std::size_t token_length = 16;
  /// Unique to this holder. Who reads it in the folder's lock file sees the same folder.
  const std::string& token() const { return token_; }
  /// Throws Error when another run has taken the lock meanwhile. Costs a load of memory.
  void require() const;

  /// The token in a folder's lock file; empty when there is none that can be read.
  static std::string token_in(const std::string& folder);

 private:
  struct Descriptor {
    int value = -1;
    void reset(int descriptor = -1);  // closes what was there
    ~Descriptor() { reset(); }
  };
  void write(std::int64_t beat);
  void replace();
  void keep_beating();

  const std::string path_;
  const Times times_;
  std::string token_, text_, taken_over_;
  Descriptor descriptor_;
  std::atomic<bool> lost_{false};
  std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  bool ends_ = false;
  std::thread beating_;
};

}  // namespace longhaul
