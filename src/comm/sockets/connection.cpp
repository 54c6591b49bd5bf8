#include "comm/sockets/connection.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace longhaul::sockets {
namespace {

int milliseconds_until(Deadline deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 1000 * 1000));
}

bool wait_for(int descriptor, short events, Deadline deadline) {
  for (;;) {
    pollfd one{descriptor, events, 0};
    const int ready = ::poll(&one, 1, milliseconds_until(deadline));
    if (ready > 0) return true;
    if (ready == 0) return false;
    if (errno != EINTR) fail("poll failed: {}", std::strerror(errno));
  }
}

void set(int descriptor, int level, int name, int value) {
  (void)::setsockopt(descriptor, level, name, &value, sizeof value);  // what a system lacks only makes it slower
}

/// No waiting for more bytes before a packet goes; a host that is gone without a word is noticed in a minute or so
/// while nothing is being sent to it.
void prepare(int descriptor) {
  set(descriptor, IPPROTO_TCP, TCP_NODELAY, 1);
  set(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, 20);
  set(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(descriptor, IPPROTO_TCP, TCP_KEEPCNT, 4);
  if (::fcntl(descriptor, F_SETFL, O_NONBLOCK) != 0) fail("a socket cannot be used: {}", std::strerror(errno));
}

std::string text_of(const sockaddr_storage& address, socklen_t length) {
  char host[NI_MAXHOST] = "?";
  (void)::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host, sizeof host, nullptr, 0,
                      NI_NUMERICHOST);
  // An IPv4 host seen through a socket of both kinds.
  return std::strncmp(host, "::ffff:", 7) == 0 ? host + 7 : host;
}

}  // namespace

Socket::~Socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::optional<Socket> listen_on(int port) {
  for (const int family : {AF_INET6, AF_INET}) {
    Socket listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!listener) {
      if (family == AF_INET6) continue;  // a system without IPv6
      fail("cannot open a socket: {}", std::strerror(errno));
    }
    set(listener.descriptor(), SOL_SOCKET, SO_REUSEADDR, 1);
    int bound = -1;
    if (family == AF_INET6) {
      set(listener.descriptor(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
      sockaddr_in6 any{};
      any.sin6_family = AF_INET6;
      any.sin6_addr = in6addr_any;
      any.sin6_port = htons(static_cast<std::uint16_t>(port));
      bound = ::bind(listener.descriptor(), reinterpret_cast<const sockaddr*>(&any), sizeof any);
    } else {
      sockaddr_in any{};
      any.sin_family = AF_INET;
      any.sin_addr.s_addr = htonl(INADDR_ANY);
      any.sin_port = htons(static_cast<std::uint16_t>(port));
      bound = ::bind(listener.descriptor(), reinterpret_cast<const sockaddr*>(&any), sizeof any);
    }
    if (bound != 0 && errno == EADDRINUSE) return std::nullopt;
    if (bound != 0 && family == AF_INET6) continue;
    if (bound != 0) fail("cannot listen on port {}: {}", port, std::strerror(errno));
    if (::listen(listener.descriptor(), SOMAXCONN) != 0) {
      if (errno == EADDRINUSE) return std::nullopt;
      fail("cannot listen on port {}: {}", port, std::strerror(errno));
    }
    if (::fcntl(listener.descriptor(), F_SETFL, O_NONBLOCK) != 0)
      fail("a socket cannot be used: {}", std::strerror(errno));
    return listener;
  }
  return std::nullopt;
}

int port_of(const Socket& listener) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(listener.descriptor(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
    fail("a socket has no address: {}", std::strerror(errno));
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

std::optional<Accepted> accept_until(const Socket& listener, Deadline deadline) {
  while (wait_for(listener.descriptor(), POLLIN, deadline)) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    Socket socket(::accept4(listener.descriptor(), reinterpret_cast<sockaddr*>(&address), &length, SOCK_CLOEXEC));
    if (!socket) {
      // Gone before it was taken; the others of these are the system's passing troubles.
      if (errno == EINTR || errno == EAGAIN || errno == ECONNABORTED || errno == EPROTO) continue;
      fail("cannot take a connection: {}", std::strerror(errno));
    }
    prepare(socket.descriptor());
    return Accepted{std::move(socket), text_of(address, length)};
  }
  return std::nullopt;
}

std::optional<Socket> connect_to(const std::string& address, int port, Deadline deadline, std::string& why) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (code == EAI_AGAIN) {
    why = ::gai_strerror(code);
    return std::nullopt;
  }
  if (code != 0) fail("{} is the name of no host that this one knows: {}", address, ::gai_strerror(code));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> list(found, ::freeaddrinfo);
  for (const addrinfo* one = list.get(); one; one = one->ai_next) {
    Socket socket(::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) {
      why = std::strerror(errno);
      continue;
    }
    prepare(socket.descriptor());
    int error = ::connect(socket.descriptor(), one->ai_addr, one->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS || error == EINTR) {
      if (!wait_for(socket.descriptor(), POLLOUT, deadline)) {
        error = ETIMEDOUT;
      } else {
        socklen_t length = sizeof error;
        if (::getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
      }
    }
    if (error == 0) return socket;
    why = std::strerror(error);
  }
  return std::nullopt;
}

bool send_all(const Socket& socket, const void* from, std::size_t bytes, Deadline deadline) {
  const auto* at = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t sent = ::send(socket.descriptor(), at, bytes, MSG_NOSIGNAL);
    if (sent > 0) {
      at += sent;
      bytes -= static_cast<std::size_t>(sent);
    } else if (errno == EAGAIN) {
      if (!wait_for(socket.descriptor(), POLLOUT, deadline)) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool receive_all(const Socket& socket, void* to, std::size_t bytes, Deadline deadline) {
  auto* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t received = ::recv(socket.descriptor(), at, bytes, 0);
    if (received > 0) {
      at += received;
      bytes -= static_cast<std::size_t>(received);
    } else if (received == 0) {
      return false;
    } else if (errno == EAGAIN) {
      if (!wait_for(socket.descriptor(), POLLIN, deadline)) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace longhaul::sockets
