#include "comm/delay/delay_communicator.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <thread>

#include "base/environment.h"
#include "base/error.h"

namespace longhaul {
namespace {

class DelayCommunicator final : public Communicator {
 public:
  DelayCommunicator(std::unique_ptr<Communicator> inner, std::shared_ptr<DelayedWire> wire)
      : inner_(std::move(inner)), wire_(std::move(wire)) {
    while (1 << doublings_ < inner_->size()) ++doublings_;
  }

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::string_view transport() const override { return inner_->transport(); }
  bool one_process() const override { return inner_->one_process(); }
  bool concurrent() const override { return inner_->concurrent(); }
  void wait_patiently() override { inner_->wait_patiently(); }
  std::unique_ptr<Communicator> group(const std::vector<int>& members) override {
    return delayed(inner_->group(members), wire_);
  }

  void all_to_all(const void* send, void* receive, std::size_t bytes_per_peer) override {
    take_time([&] { inner_->all_to_all(send, receive, bytes_per_peer); });
  }
  void all_gather(const void* send, void* receive, std::size_t bytes_per_rank) override {
    take_time([&] { inner_->all_gather(send, receive, bytes_per_rank); });
  }
  void reduce_scatter(const void* send, void* receive, std::size_t count_per_rank, DType type, void* scratch) override {
    take_time([&] { inner_->reduce_scatter(send, receive, count_per_rank, type, scratch); });
  }
  void all_reduce(const void* send, void* receive, std::size_t elements, DType type, void* scratch) override {
    take_time([&] { inner_->all_reduce(send, receive, elements, type, scratch); });
  }
  void send_receive(const void* send, std::size_t send_bytes, int to, void* receive, std::size_t receive_bytes,
                    int from) override {
    take_time([&] { inner_->send_receive(send, send_bytes, to, receive, receive_bytes, from); });
  }
  void broadcast(void* buffer, std::size_t bytes, int root) override {
    inner_->broadcast(buffer, bytes, root);
    take_traffic();
  }
  void barrier() override { inner_->barrier(); }
  void abort(const std::string& message) noexcept override { inner_->abort(message); }
  void look() override { inner_->look(); }

 private:
  template <typename Call>
  void take_time(Call&& call) {
    if (size() > 1) inner_->barrier();
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::int64_t bytes = take_traffic();
    if (size() > 1) std::this_thread::sleep_until(wire_->send(begin, doublings_, bytes));
  }

  // What `inner_` has counted since the last time is this one's; the bytes of it.
  std::int64_t take_traffic() {
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < traffic_.rows.size(); ++i) {
      const Traffic::Row& row = inner_->traffic().rows[i];
      traffic_.rows[i].calls += row.calls;
      traffic_.rows[i].bytes_sent += row.bytes_sent;
      bytes += row.bytes_sent;
    }
    inner_->reset_traffic();
    return bytes;
  }

  const std::unique_ptr<Communicator> inner_;
  const std::shared_ptr<DelayedWire> wire_;
  int doublings_ = 0;
};

// A number that is all of `text`.
std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

LinkDelay parse_link_delay(std::string_view text) {
  const auto colon = text.find(':');
  if (colon != std::string_view::npos) {
    const auto latency = number(text.substr(0, colon)), bandwidth = number(text.substr(colon + 1));
    if (latency && bandwidth && *latency >= 0 && *latency <= 10 && *bandwidth >= 1) return {*latency, *bandwidth};
  }
  fail(
      "LONGHAUL_DELAY is '{}'; it takes LATENCY:BANDWIDTH, seconds from 0 to 10 and bytes a second from 1, such as "
      "20e-6:1e9; unset it to let collectives take as long as they do",
      text);
}

std::optional<LinkDelay> link_delay() {
  const std::string text = environment("LONGHAUL_DELAY");
  if (text.empty()) return std::nullopt;
  return parse_link_delay(text);
}

DelayedWire::Time DelayedWire::send(Time begin, int doublings, std::int64_t bytes) {
  const std::chrono::duration<double> seconds(doublings * delay_.latency +
                                              static_cast<double>(bytes) / delay_.bandwidth);
  const std::lock_guard lock(mutex_);
  free_ = std::max(begin, free_) + std::chrono::duration_cast<Time::duration>(seconds);
  return free_;
}

std::unique_ptr<Communicator> delayed(std::unique_ptr<Communicator> inner, std::shared_ptr<DelayedWire> wire) {
  return std::make_unique<DelayCommunicator>(std::move(inner), std::move(wire));
}

}  // namespace longhaul
