#include "comm/sockets/mesh.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"

namespace longhaul::sockets {
namespace {

constexpr std::uint32_t data_mark = 0x4c48444d, failure_mark = 0x4c484641, goodbye_mark = 0x4c484259;
constexpr std::size_t longest_failure = 4000;

}  // namespace

Mesh::Mesh(int rank, std::vector<Peer> peers)
    : rank_(rank),
      peers_(std::move(peers)),
      messages_(peers_.size()),
      progress_(peers_.size()),
      gone_(peers_.size()),
      polled_(peers_.size() + 1),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!wake_) fail("cannot make an eventfd: {}", std::strerror(errno));
}

Mesh::~Mesh() {
  bool failed = false;
  {
    const std::lock_guard lock(mutex_);
    failed = failed_;
  }
  if (failed) return;
  say(goodbye_mark, "");
  // A connection closed while something unread lies in it takes along what the other end has not read yet.
  const Deadline deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  for (std::size_t peer = 0; peer < peers_.size(); ++peer)
    if (peers_[peer].socket) (void)::shutdown(peers_[peer].socket.descriptor(), SHUT_WR);
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    char rest[256];
    if (peers_[peer].socket)
      while (receive_all(peers_[peer].socket, rest, 1, deadline)) {
      }
  }
}

void Mesh::say(std::uint32_t mark, const std::string& text, int code) noexcept {
  const std::size_t bytes = std::min(text.size(), longest_failure);
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    // In the midst of a message nothing else can be said; the connection's end is heard all the same.
    const Progress& progress = progress_[peer];
    if (!peers_[peer].socket || (progress.sending && progress.sent > 0)) continue;
    Head head{mark, static_cast<std::uint32_t>(code), bytes};
    iovec parts[2] = {{&head, sizeof head}, {const_cast<char*>(text.data()), bytes}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    (void)::sendmsg(peers_[peer].socket.descriptor(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  if (mark == failure_mark)
    for (const Peer& peer : peers_)
      if (peer.socket) (void)::shutdown(peer.socket.descriptor(), SHUT_WR);
}

void Mesh::abort(const std::string& message, int code) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    failed_ = true;
    code_ = code;
    failure_ = message;
    if (busy_) {
      const std::uint64_t one = 1;
      (void)!::write(wake_.descriptor(), &one, sizeof one);
    } else {
      say(failure_mark, message, code);
    }
  } catch (const std::exception&) {  // no memory for the message: the others hear the end of the process
  }
}

int Mesh::failure_code() {
  const std::lock_guard lock(mutex_);
  return code_;
}

void Mesh::throw_aborted() {
  const std::lock_guard lock(mutex_);
  if (failed_) throw PeerFailure(failure_);
}

void Mesh::end_exchange() noexcept {
  const std::lock_guard lock(mutex_);
  busy_ = false;
  if (failed_) say(failure_mark, failure_, code_);
  std::fill(progress_.begin(), progress_.end(), Progress{});
  std::fill(messages_.begin(), messages_.end(), Message{});
}

bool Mesh::send_some(std::size_t peer, const char* what) {
  Progress& progress = progress_[peer];
  const Message& message = messages_[peer];
  bool moved = false;
  while (progress.sending) {
    iovec parts[2];
    int count = 0;
    const std::size_t head = sizeof(Head), behind = progress.sent > head ? progress.sent - head : 0;
    if (progress.sent < head)
      parts[count++] = {reinterpret_cast<char*>(&progress.out) + progress.sent, head - progress.sent};
    if (behind < message.send_bytes)
      parts[count++] = {const_cast<char*>(static_cast<const char*>(message.send)) + behind,
                        message.send_bytes - behind};
    msghdr out{};
    out.msg_iov = parts;
    out.msg_iovlen = static_cast<std::size_t>(count);
    const ssize_t sent = ::sendmsg(peers_[peer].socket.descriptor(), &out, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return moved;
      // It reads no more. What it said last may lie here unread: told, where this rank waits for something of it too.
      progress.sending = false;
      if (progress.receiving) return true;
      look_at(peer, what);
      lost(peer, what);
    }
    moved = true;
    progress.sent += static_cast<std::size_t>(sent);
    progress.sending = progress.sent < head + message.send_bytes;
  }
  return moved;
}

bool Mesh::receive_some(std::size_t peer, std::uint32_t group, const char* what) {
  Progress& progress = progress_[peer];
  const Message& message = messages_[peer];
  const std::size_t head = sizeof(Head);
  bool moved = false;
  while (progress.receiving) {
    iovec parts[2];
    int count = 0;
    // The head first: what comes behind another one than is waited for must not go where this message would.
    if (progress.received < head)
      parts[count++] = {reinterpret_cast<char*>(&progress.in) + progress.received, head - progress.received};
    else
      parts[count++] = {static_cast<char*>(message.receive) + (progress.received - head),
                        message.receive_bytes - (progress.received - head)};
    msghdr in{};
    in.msg_iov = parts;
    in.msg_iovlen = static_cast<std::size_t>(count);
    const ssize_t received = ::recvmsg(peers_[peer].socket.descriptor(), &in, MSG_DONTWAIT);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && errno == EAGAIN) return moved;
    if (received <= 0) lost(peer, what);
    moved = true;
    progress.received += static_cast<std::size_t>(received);
    if (progress.received == head) {
      if (progress.in.mark == failure_mark) told(peer);
      if (progress.in.mark == goodbye_mark)
        fail("{} has ended its run and rank {} waits for it in {}: ranks ran different programs", peers_[peer].name,
             rank_, what);
      if (progress.in.mark != data_mark || progress.in.group != group || progress.in.bytes != message.receive_bytes)
        throw std::logic_error(fmt::format(
            "in {} rank {} waits for {} bytes of group {:08x} from {} and gets {} of {:08x}: ranks issued different "
            "collectives",
            what, rank_, message.receive_bytes, group, peers_[peer].name, progress.in.bytes, progress.in.group));
    }
    progress.receiving = progress.received < head + message.receive_bytes;
  }
  return moved;
}

void Mesh::told(std::size_t peer) {
  std::string text(std::min<std::size_t>(progress_[peer].in.bytes, longest_failure), ' ');
  const Deadline soon = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  if (!receive_all(peers_[peer].socket, text.data(), text.size(), soon)) text = peers_[peer].name + " failed";
  {
    // Told on, as it was heard: who waits for this rank may not hear it from the one that failed.
    const std::lock_guard lock(mutex_);
    if (!failed_) {
      failed_ = true;
      code_ = static_cast<int>(progress_[peer].in.group);
      failure_ = text;
    }
  }
  throw PeerFailure(text);
}

bool Mesh::has_failed(std::size_t peer) {
  const Progress& progress = progress_[peer];
  if (!peers_[peer].socket || (progress.receiving && progress.received > 0)) return false;  // amid a message
  Head head{};
  const ssize_t seen = ::recv(peers_[peer].socket.descriptor(), &head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
  return seen == static_cast<ssize_t>(sizeof head) && head.mark == failure_mark;
}

void Mesh::lost(std::size_t peer, const char* what) {
  throw_aborted();
  // A rank that was told of a failure amid a message to this one ends without a word; somebody has it or gets it soon.
  for (int turn = 0; turn < 20; ++turn) {
    for (std::size_t other = 0; other < peers_.size(); ++other) {
      if (!has_failed(other)) continue;
      (void)::recv(peers_[other].socket.descriptor(), &progress_[other].in, sizeof(Head), MSG_DONTWAIT);
      told(other);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  throw LostRank(
      fmt::format("{} is gone, without a word, while rank {} waited in {}: its process was killed or its host is down",
                  peers_[peer].name, rank_, what));
}

void Mesh::look_at(std::size_t peer, const char* what) {
  Head head{};
  const ssize_t seen = ::recv(peers_[peer].socket.descriptor(), &head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
  if (seen < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (seen <= 0) lost(peer, what);
  if (seen < static_cast<ssize_t>(sizeof head)) return;
  if (head.mark == goodbye_mark) {
    gone_[peer] = true;
  } else if (head.mark == failure_mark) {
    (void)::recv(peers_[peer].socket.descriptor(), &progress_[peer].in, sizeof head, MSG_DONTWAIT);
    told(peer);
  }
  // Else it is ahead: its next message, read when its turn comes; and a rank that ended behind that is found then.
  gone_[peer] = true;
}

void Mesh::wait(const char* what) {
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    const Progress& progress = progress_[peer];
    pollfd& one = polled_[peer];
    one = {peers_[peer].socket.descriptor(), 0, 0};
    if (progress.receiving) one.events |= POLLIN;
    if (progress.sending) one.events |= POLLOUT;
    // Of the others only their end: each may be what somebody waits for who is waited for here.
    if (one.events == 0) one.events = POLLRDHUP;
    if (gone_[peer] && !progress.receiving && !progress.sending) one.fd = -1;
  }
  polled_.back() = {wake_.descriptor(), POLLIN, 0};
  if (::poll(polled_.data(), polled_.size(), -1) < 0) {
    if (errno == EINTR) return;
    fail("poll failed: {}", std::strerror(errno));
  }
  if (polled_.back().revents != 0) throw_aborted();
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    const Progress& progress = progress_[peer];
    if (polled_[peer].fd >= 0 && polled_[peer].revents != 0 && !progress.receiving && !progress.sending)
      look_at(peer, what);
  }
}

void Mesh::look() {
  throw_aborted();
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    if (!peers_[peer].socket) continue;
    pollfd one{peers_[peer].socket.descriptor(), POLLIN | POLLRDHUP, 0};
    if (::poll(&one, 1, 0) <= 0) continue;
    Head head{};
    const ssize_t seen = ::recv(one.fd, &head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
    if (seen == 0 || (seen < 0 && errno != EAGAIN && errno != EINTR)) lost(peer, "a wait for its device");
    if (seen < static_cast<ssize_t>(sizeof head) || head.mark != failure_mark) continue;  // ahead, or at its end
    (void)::recv(one.fd, &progress_[peer].in, sizeof head, MSG_DONTWAIT);
    told(peer);
  }
}

void Mesh::exchange(std::uint32_t group, const char* what) {
  {
    const std::lock_guard lock(mutex_);
    if (failed_) throw PeerFailure(failure_);
    busy_ = true;
  }
  struct End {
    Mesh& mesh;
    ~End() { mesh.end_exchange(); }
  } end{*this};
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    const Message& message = messages_[peer];
    Progress& progress = progress_[peer];
    progress = Progress{};
    progress.sending = message.send != nullptr;
    progress.receiving = message.receive != nullptr;
    progress.out = {data_mark, group, message.send_bytes};
  }
  for (;;) {
    bool moved = false, open = false;
    for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
      if (progress_[peer].sending) moved |= send_some(peer, what);
      if (progress_[peer].receiving) moved |= receive_some(peer, group, what);
      open |= progress_[peer].sending || progress_[peer].receiving;
    }
    if (!open) return;
    if (!moved) wait(what);
  }
}

}  // namespace longhaul::sockets
