// TCP connections: opened, accepted, and used until a deadline.
#pragma once
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

namespace longhaul::sockets {

using Deadline = std::chrono::steady_clock::time_point;

/// A descriptor that is closed at the end.
class Socket {
 public:
  explicit Socket(int descriptor = -1) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket();

  int descriptor() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

/// Listens on a port of every address of this host; 0: any free one. Nothing when the port is taken; throws Error when
/// the system has no sockets to give.
std::optional<Socket> listen_on(int port);
/// The port that a socket listens on.
int port_of(const Socket& listener);
/// The next connection, with who is at its other end; nothing at the deadline.
struct Accepted {
  Socket socket;
  std::string address;
};
std::optional<Accepted> accept_until(const Socket& listener, Deadline deadline);
/// One attempt. Nothing when nobody listens there, or the host cannot be reached before the deadline; `why` says so.
/// Throws Error for a name that stands for no host.
std::optional<Socket> connect_to(const std::string& address, int port, Deadline deadline, std::string& why);

/// All bytes or false: at the deadline, or when the other end closed.
bool send_all(const Socket& socket, const void* from, std::size_t bytes, Deadline deadline);
bool receive_all(const Socket& socket, void* to, std::size_t bytes, Deadline deadline);

}  // namespace longhaul::sockets
